// The operators on graphs of tasks as Python calls them: views are checked, then entry.h chooses what runs.
#include "../cpu/pages.h"
#include "concrete.h"
#include "edge_energy.h"
#include "entry.h"
#include "gibbs.h"

namespace fastgmtl {

void edge_energy(Pattern pattern, View a, View c, View v, View field, View weight, View label_src, View label_dst,
                 int to, int field_order, int shift_order, double factor, View out, int threads) {
  const char* op = "edge_energy";
  pattern.check(op);
  if (to < 0 || to > static_cast<int>(EnergyOf::Each)) fail(op, "to must be 0 to 3");
  const int order = field_order + shift_order;
  if (field_order < 0 || shift_order < 0 || order > EdgeEnergyArgs::kMaxOrder)
    fail(op, "orders must be 0 or more and 9 at most together, got " + std::to_string(field_order) + " and " +
                 std::to_string(shift_order));
  EdgeEnergyArgs args{};
  args.row_ptr = pattern.row_ptr.as<int64_t>(), args.col = pattern.col.data, args.edge_id = pattern.edge_id.data;
  args.rows = pattern.rows(), args.cols = pattern.cols, args.edges = pattern.edges();
  args.wide_index = pattern.col.dtype == DType::I64;
  args.to = static_cast<EnergyOf>(to), args.field_order = field_order, args.shift_order = shift_order;
  args.derivative = softplus_derivative(order);
  args.factor = factor, args.threads = threads, args.dtype = field.dtype, args.stream = field.stream;
  if (!field || field.rank != 2) fail(op, "field must have shape [N, B], got " + shape_string(field));
  if (!is_float(args.dtype)) throw TypeError(std::string(op) + ": field must be floating point");
  args.width = field.size(1);
  const auto dense = [&](const char* what, const View& view, DType dtype, int64_t rows, bool one = false) {
    if (one && view.rank == 1)
      require_shape(op, what, view, {rows});
    else
      require_shape(op, what, view, {rows, args.width});
    require_dtype(op, what, view, dtype);
    require_device(op, what, view, pattern.device());
    return view.data;
  };
  const int64_t sources = args.sources(), destinations = args.destinations();
  args.field = dense("field", field, args.dtype, destinations);
  args.label_src = static_cast<int32_t*>(dense("label_src", label_src, DType::I32, sources));
  args.label_dst = static_cast<int32_t*>(dense("label_dst", label_dst, DType::I32, destinations));
  args.weight = dense("weight", weight, args.dtype, args.edges, true);
  args.wide_weight = weight.rank == 2;
  if (a) args.a = dense("a", a, args.dtype, sources);
  if (c) args.c = dense("c", c, args.dtype, destinations);
  if (v) args.v = dense("v", v, args.dtype, args.edges, true);
  args.wide_v = v.rank == 2;
  const bool of_edges = args.to == EnergyOf::Edge || args.to == EnergyOf::Each;
  if ((of_edges ? v : args.to == EnergyOf::Src ? a : c)) fail(op, "the factor of what is summed for must be None");
  if (args.to == EnergyOf::Edge) {
    require_shape(op, "out", out, {args.edges});
    args.out = dense("out", out, args.dtype, args.edges, true);
  } else {
    args.out = dense("out", out, args.dtype, of_edges ? args.edges : args.rows);
  }
  cpu::advise_huge_pages(out);
  if (out.numel()) run(op, pattern, args, cpu::edge_energy, FASTGMTL_CUDA(edge_energy));
}

void gibbs(Pattern children, View field, View coupling, View start, View known, View order, View seed, int64_t burn_in,
           bool normalised, View label, View mean, int threads) {
  const char* op = "gibbs";
  children.check(op);
  GibbsArgs args{};
  args.row_ptr = children.row_ptr.as<int64_t>(), args.col = children.col.data, args.edge_id = children.edge_id.data;
  args.tasks = children.rows(), args.edges = children.edges();
  args.wide_index = children.col.dtype == DType::I64;
  if (children.cols != args.tasks) fail(op, "the graph must have as many sources as destinations");
  if (!field || field.rank != 2) fail(op, "field must have shape [T, B]");
  if (!is_float(field.dtype)) throw TypeError("gibbs: field must be floating point");
  args.samples = field.size(1), args.dtype = field.dtype;
  const auto dense = [&](const char* what, const View& view, DType dtype, std::initializer_list<int64_t> shape) {
    require_shape(op, what, view, shape);
    require_dtype(op, what, view, dtype);
    require_device(op, what, view, children.device());
    return view.data;
  };
  const auto labels = [&](const char* what, const View& view) {
    return static_cast<int32_t*>(dense(what, view, DType::I32, {args.tasks, args.samples}));
  };
  args.field = dense("field", field, args.dtype, {args.tasks, args.samples});
  args.wide_coupling = coupling.rank == 2;
  if (args.wide_coupling)
    args.coupling = dense("coupling", coupling, args.dtype, {args.edges, args.samples});
  else
    args.coupling = dense("coupling", coupling, args.dtype, {args.edges});
  args.start = labels("start", start), args.label = labels("label", label);
  if (known) args.known = labels("known", known);
  args.mean = dense("mean", mean, args.dtype, {args.tasks, args.samples});
  if (order.rank != 2) fail(op, "order must have shape [sweeps, T]");
  args.sweeps = order.size(0);
  args.order = static_cast<int32_t*>(dense("order", order, DType::I32, {args.sweeps, args.tasks}));
  args.seed = static_cast<int64_t*>(dense("seed", seed, DType::I64, {1}));
  if (burn_in < 0 || burn_in >= args.sweeps) fail(op, "burn_in must be less than the sweeps");
  args.burn_in = burn_in, args.normalised = normalised, args.threads = threads, args.stream = field.stream;
  if (label.numel()) run(op, children, args, cpu::gibbs, FASTGMTL_CUDA(gibbs));
}

void concrete(View logits, View v, View src, View dst, View seed, int order, double temperature, double explore,
              View out, int threads) {
  const char* op = "concrete";
  if (!logits) fail(op, "logits must be a tensor, got None");
  if (!src) require_square(op, logits);
  ConcreteArgs args = concrete_args(op, logits, seed, explore, order, temperature, threads);
  if (static_cast<bool>(src) != static_cast<bool>(dst)) fail(op, "src and dst must be both there or none");
  if (static_cast<bool>(v) != (order > 0)) fail(op, "v belongs to orders above 0");
  const auto like = [&](const char* what, const View& view, DType dtype) {
    if (!view) return static_cast<void*>(nullptr);
    if (src)
      require_shape(op, what, view, {args.count});
    else
      require_shape(op, what, view, {logits.size(0), logits.size(1)});
    require_dtype(op, what, view, dtype);
    if (!(view.device == logits.device)) fail(op, "every tensor must be on one device");
    return view.data;
  };
  like("logits", logits, args.dtype);
  if (!out) fail(op, "out must be a tensor, got None");
  args.tasks = src ? 0 : logits.size(0);
  args.v = like("v", v, args.dtype), args.out = like("out", out, args.dtype);
  args.src = static_cast<int64_t*>(like("src", src, DType::I64));
  args.dst = static_cast<int64_t*>(like("dst", dst, DType::I64));
  cpu::advise_huge_pages(out);
  if (args.count) run(op, logits.device, args, cpu::concrete, FASTGMTL_CUDA(concrete));
}

void concrete_draw(View logits, View seed, double explore, View words, View row_ptr, int threads) {
  const char* op = "concrete_draw";
  require_square(op, logits);
  ConcreteArgs args = concrete_args(op, logits, seed, explore, 0, 1, threads);
  args.tasks = logits.size(0);
  require_shape(op, "words", words, {args.tasks, (args.tasks + 31) / 32});
  require_dtype(op, "words", words, DType::I32);
  require_shape(op, "row_ptr", row_ptr, {args.tasks + 1});
  require_dtype(op, "row_ptr", row_ptr, DType::I64);
  if (!(words.device == logits.device && row_ptr.device == logits.device))
    fail(op, "every tensor must be on one device");
  args.words = words.as<int32_t>(), args.row_ptr = row_ptr.as<int64_t>();
  if (args.count) run(op, logits.device, args, cpu::concrete_draw, FASTGMTL_CUDA(concrete_draw));
}

void concrete_edges(View words, View row_ptr, View col, int threads) {
  const char* op = "concrete_edges";
  ConcreteEdgesArgs args{};
  if (row_ptr.rank != 1 || row_ptr.size(0) < 1) fail(op, "row_ptr must have shape [T + 1]");
  args.tasks = row_ptr.size(0) - 1;
  require_dtype(op, "row_ptr", row_ptr, DType::I64);
  require_shape(op, "words", words, {args.tasks, (args.tasks + 31) / 32});
  require_dtype(op, "words", words, DType::I32);
  if (col.rank != 1) fail(op, "col must have shape [E]");
  if (col.dtype != DType::I32 && col.dtype != DType::I64) throw TypeError("concrete_edges: col must be an index");
  if (!(words.device == col.device && row_ptr.device == col.device)) fail(op, "every tensor must be on one device");
  args.words = words.as<int32_t>(), args.row_ptr = row_ptr.as<int64_t>(), args.col = col.data;
  args.wide_index = col.dtype == DType::I64, args.edges = col.size(0), args.threads = threads;
  args.stream = words.stream;
  if (args.edges) run(op, words.device, args, cpu::concrete_edges, FASTGMTL_CUDA(concrete_edges));
}

}  // namespace fastgmtl
