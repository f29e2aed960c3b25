// intersect as Python calls it: views are checked, then entry.h chooses what runs.
#include "entry.h"
#include "intersect.h"

namespace fastgmtl {

void intersect(Pattern pattern, View pairs, View without, View counts, View both, View first, View second,
               int threads) {
  const char* op = "intersect";
  pattern.check(op);
  IntersectArgs args{};
  args.row_ptr = pattern.row_ptr.as<int64_t>(), args.col = pattern.col.data;
  args.rows = pattern.rows(), args.cols = pattern.cols, args.wide_index = pattern.col.dtype == DType::I64;
  const auto index = [&](const char* what, const View& view) {
    require_dtype(op, what, view, DType::I64);
    require_device(op, what, view, pattern.device());
    return view.as<int64_t>();
  };
  if (pairs.rank != 2) fail(op, "pairs must have shape [2, Q], got " + (pairs ? shape_string(pairs) : "None"));
  args.queries = pairs.size(1);
  require_shape(op, "pairs", pairs, {2, args.queries});
  args.pairs = index("pairs", pairs);
  if (without) {
    if (without.rank != 2) fail(op, "without must have shape [K, Q], got " + shape_string(without));
    args.left_out = without.size(0);
    require_shape(op, "without", without, {args.left_out, args.queries});
    args.without = index("without", without);
  }
  if (counts.rank != 2 || (counts.size(0) != 1 && counts.size(0) != 3))
    fail(op, "counts must have shape [1, Q + 1] or [3, Q + 1]");
  args.parts = static_cast<int>(counts.size(0));
  require_shape(op, "counts", counts, {args.parts, args.queries + 1});
  args.counts = index("counts", counts), args.counting = !both;
  const View* const outputs[] = {&both, &first, &second};
  for (int part = 0; part < 3; ++part) {
    const View& out = *outputs[part];
    if (static_cast<bool>(out) != (!args.counting && part < args.parts))
      fail(op, "both, first and second must be given as far as there are parts, or none to count");
    if (!out) continue;
    if (out.rank != 1) fail(op, "what is listed must have shape [E], got " + shape_string(out));
    if (out.dtype != DType::I32 && out.dtype != DType::I64) throw TypeError("intersect: columns must be an index");
    require_dtype(op, "what is listed", out, both.dtype);
    require_device(op, "what is listed", out, pattern.device());
    args.out[part] = out.data, args.entries[part] = out.size(0);
  }
  args.wide_out = !args.counting && both.dtype == DType::I64;
  args.threads = threads, args.stream = pairs.stream;
  if (args.queries) run(op, pattern, args, cpu::intersect, FASTGMTL_CUDA(intersect));
}

}  // namespace fastgmtl
