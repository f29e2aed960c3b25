// The operators on lists of tensors as Python calls them: views are checked, then entry.h chooses what runs.
#include "../cpu/pages.h"
#include "entry.h"
#include "gram.h"
#include "task_weights.h"

namespace fastgmtl {
namespace {

// About `most` pieces of equal size, which depends on the number of elements alone.
Pieces pieces_of(const std::vector<Part>& parts, int64_t most) {
  Pieces out;
  int64_t total = 0;
  for (const Part& part : parts) total += part.numel;
  const int64_t chunks = (total + kChunk - 1) / kChunk;
  const int64_t size = std::max<int64_t>(4, (chunks + most - 1) / most) * kChunk;
  int64_t left = 0, group = -1;
  for (int64_t n = 0; n < static_cast<int64_t>(parts.size()); ++n)
    for (int64_t begin = 0; begin < parts[n].numel;) {
      if (left < kChunk || parts[n].group != group) {
        out.start.push_back(static_cast<int64_t>(out.spans.size()));
        left = size, group = parts[n].group;
      }
      // Only the last chunk of a part may be a short one.
      const int64_t whole = left / kChunk * kChunk, end = std::min(parts[n].numel, begin + whole);
      out.spans.push_back({n, begin, end});
      left -= end - begin, begin = end;
    }
  out.start.push_back(static_cast<int64_t>(out.spans.size()));
  return out;
}

// Element 0 of row `row` of part `n`, or null.
char* row_of(const Rows& rows, int64_t n, int64_t row) {
  constexpr int64_t kBytes[] = {4, 8, 2, 2, 4, 8};
  const View& view = rows.tensors[rows.stacked ? n : row * rows.parts() + n];
  if (!view) return nullptr;
  const int64_t skip = rows.stacked ? row * view.numel() / rows.count * kBytes[static_cast<int>(view.dtype)] : 0;
  return static_cast<char*>(view.data) + skip;
}

// Compares `rows` with the parts that are known so far: dtype, device and size of every tensor that is there.
void check_rows(const char* op, const char* what, const Rows& rows, bool first, std::vector<Part>* parts,
                Device* device) {
  const int64_t size = static_cast<int64_t>(rows.tensors.size());
  if (rows.count < 1 || rows.count > kMaxRows)
    fail(op, std::string(what) + " must have 1 to 64 rows, got " + std::to_string(rows.count));
  if (!rows.stacked && size % rows.count) fail(op, std::string(what) + " must have as many tensors in every row");
  if (first) parts->assign(rows.parts(), Part{-1, 0, DType::F32});
  if (rows.parts() != static_cast<int64_t>(parts->size()))
    fail(op, std::string(what) + " must have " + std::to_string(parts->size()) + " tensors in every row, got " +
                 std::to_string(rows.parts()));
  for (int64_t k = 0; k < size; ++k) {
    const View& view = rows.tensors[k];
    if (!view) continue;
    if (!is_float(view.dtype)) throw TypeError(std::string(op) + ": " + what + " must be floating point");
    if (rows.stacked && view.size(0) != rows.count)
      fail(op, std::string(what) + " must have a first axis of " + std::to_string(rows.count));
    Part& part = (*parts)[k % rows.parts()];
    const int64_t numel = view.numel() / (rows.stacked ? rows.count : 1);
    if (device->id < 0) *device = view.device;
    if (part.numel < 0) part.numel = numel, part.dtype = view.dtype;
    if (numel != part.numel)
      fail(op, std::string(what) + " must have the same number of elements in every row, got " + std::to_string(numel) +
                   " and " + std::to_string(part.numel));
    require_dtype(op, what, view, part.dtype);
    if (!(view.device == *device)) fail(op, "every tensor must be on one device");
  }
}

void groups_of(const char* op, const std::vector<int64_t>& groups, int64_t count, std::vector<Part>* parts) {
  if (!groups.empty() && groups.size() != parts->size())
    fail(op, "groups must have an entry for every tensor of a row");
  for (size_t n = 0; n < parts->size(); ++n) {
    Part& part = (*parts)[n];
    part.numel = std::max<int64_t>(part.numel, 0);
    part.group = groups.empty() ? 0 : groups[n];
    if (part.group < 0 || part.group >= count) fail(op, "groups must be in [0, " + std::to_string(count) + ")");
  }
}

std::vector<const void*> pointers(const Rows& rows) {
  std::vector<const void*> out;
  for (int64_t n = 0; n < rows.parts(); ++n)
    for (int64_t row = 0; row < rows.count; ++row) out.push_back(row_of(rows, n, row));
  return out;
}

// A [K, S, T] float64 matrix of results or weights.
void require_small(const char* op, const char* what, const View& view, int64_t s, int64_t t, Device device) {
  if (view.rank != 3) fail(op, std::string(what) + " must have shape [K, S, T], got " + shape_string(view));
  require_shape(op, what, view, {view.size(0), s, t});
  require_dtype(op, what, view, DType::F64);
  if (device.id >= 0 && !(view.device == device)) fail(op, "every tensor must be on one device");
}

}  // namespace

void gram(const Rows& a, const Rows& b, const std::vector<int64_t>& groups, View out, int threads) {
  GramArgs args;
  Device device{false, -1};
  check_rows("gram", "a", a, true, &args.parts, &device);
  const bool square = b.tensors.empty();
  if (!square) check_rows("gram", "b", b, false, &args.parts, &device);
  args.rows_a = a.count, args.rows_b = square ? a.count : b.count;
  require_small("gram", "out", out, args.rows_a, args.rows_b, device);
  groups_of("gram", groups, args.groups = out.size(0), &args.parts);
  args.a = pointers(a);
  if (!square) args.b = pointers(b);
  args.out = out.as<double>(), args.threads = threads, args.stream = out.stream;
  args.pieces = pieces_of(args.parts, 128);
  run("gram", out.device, args, cpu::gram, FASTGMTL_CUDA(gram));
}

void combine(const Rows& a, View weights, const std::vector<int64_t>& groups, const Rows& out, bool accumulate,
             int threads) {
  CombineArgs args;
  Device device{false, -1};
  check_rows("combine", "grads", a, true, &args.parts, &device);
  check_rows("combine", "out", out, false, &args.parts, &device);
  args.rows_a = a.count, args.rows_b = out.count;
  require_small("combine", "weights", weights, args.rows_b, args.rows_a, device);
  groups_of("combine", groups, args.groups = weights.size(0), &args.parts);
  for (const View& view : out.tensors)
    if (!view) fail("combine", "out must be tensors, got None");
  args.a = pointers(a);
  for (const void* row : pointers(out)) args.out.push_back(const_cast<void*>(row));
  if (!accumulate)
    for (const View& view : out.tensors) cpu::advise_huge_pages(view);
  args.weights = weights.as<double>(), args.accumulate = accumulate, args.threads = threads;
  args.stream = weights.stream;
  args.pieces = pieces_of(args.parts, 1024);
  run("combine", weights.device, args, cpu::combine, FASTGMTL_CUDA(combine));
}

void task_weights(int method, View gram, View vector, View order, double parameter, View state, View out) {
  constexpr const char* op = "task_weights";
  if (method < 0 || method >= static_cast<int>(Method::Count)) fail(op, "no method " + std::to_string(method));
  if (gram.rank != 3 || gram.size(2) < 1 || gram.size(2) > kMaxRows)
    fail(op, "gram must have shape [K, T, T] with T of 1 to 64, got " + shape_string(gram));
  TaskWeightsArgs args{};
  args.method = static_cast<Method>(method), args.parameter = parameter;
  args.problems = gram.size(0), args.tasks = gram.size(2);
  require_shape(op, "gram", gram, {args.problems, args.tasks, args.tasks});
  require_shape(op, "out", out, {args.problems, args.tasks});
  const bool ordered = args.method == Method::PCGrad || args.method == Method::GradVac;
  const bool targeted = args.method == Method::RCGrad || args.method == Method::Rotated;
  if (targeted && !vector) fail(op, "preference must be a tensor, got None");
  if (targeted && !(parameter >= 0 && parameter < static_cast<double>(args.tasks))) fail(op, "no such target");
  if (vector) require_shape(op, "preference", vector, {args.tasks});
  if (ordered) require_shape(op, "order", order, {args.tasks, args.tasks});
  if (ordered) require_dtype(op, "order", order, DType::I64);
  if (args.method == Method::GradVac) require_shape(op, "state", state, {args.problems, args.tasks, args.tasks});
  for (const View& view : {gram, vector, state, out})
    if (view) require_dtype(op, "every tensor", view, DType::F64);
  for (const View& view : {vector, order, state, out})
    if (view && !(view.device == gram.device)) fail(op, "every tensor must be on one device");
  args.gram = gram.as<double>(), args.vector = vector.as<double>(), args.order = order.as<int64_t>();
  args.state = state.as<double>(), args.out = out.as<double>(), args.stream = gram.stream;
  run(op, gram.device, args, cpu::task_weights, FASTGMTL_CUDA(task_weights));
}

}  // namespace fastgmtl
