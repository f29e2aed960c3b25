// The operators as Python calls them: views are checked, then the device and the instruction set are chosen.
#include "../cpu/level.h"
#include "../cpu/pages.h"
#include "attention.h"
#include "concrete.h"
#include "edge_energy.h"
#include "gather_relu.h"
#include "gatv2.h"
#include "gibbs.h"
#include "gram.h"
#include "relation_gate.h"
#include "rspmm.h"
#include "sddmm.h"
#include "task_weights.h"
#ifdef FASTGMTL_WITH_CUDA
#include "../cuda/launch.h"
#endif

namespace fastgmtl {
namespace {

template <class Args>
struct CudaKernel {
  using type = void (*)(const Args&, int device);
};

template <class Args>
void run(const char* op, Device device, const Args& args, void (*const cpu[])(const Args&),
         typename CudaKernel<Args>::type cuda) {
  if (!device.cuda) return cpu[static_cast<int>(cpu::level())](args);
  if (!cuda) throw std::runtime_error(std::string(op) + ": built without CUDA");
  cuda(args, device.id);
}

template <class Args>
void run(const char* op, const Pattern& pattern, const Args& args, void (*const cpu[])(const Args&),
         typename CudaKernel<Args>::type cuda) {
  run(op, pattern.device(), args, cpu, cuda);
}

void check_transposed(const char* op, const Pattern& pattern, const Pattern& back) {
  back.check(op);
  if (back.rows() != pattern.cols || back.cols != pattern.rows() || back.edges() != pattern.edges())
    fail(op, "back must be the transposed pattern");
  require_dtype(op, "the columns of back", back.col, pattern.col.dtype);
  require_device(op, "back", back.col, pattern.device());
}

#ifdef FASTGMTL_WITH_CUDA
#define FASTGMTL_CUDA(op) cuda::op
#else
#define FASTGMTL_CUDA(op) nullptr
#endif

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

void spmm(Pattern pattern, View x, View w, View scale, bool scale_of_cols, View arg, int arg_of, int reduce, View y,
          View new_arg, int threads) {
  SpmmArgs args{};
  static_cast<EdgeArgs&>(args) = edge_args("spmm", pattern, y, x, w, scale, scale_of_cols, arg,
                                           static_cast<ArgOf>(arg_of), threads, &args.y_per_task, &args.x_per_task);
  args.x = x.data, args.w = w.data, args.y = y.data;
  if (reduce < 0 || reduce > static_cast<int>(Reduce::Min)) fail("spmm", "reduce must be 0, 1 or 2");
  args.reduce = static_cast<Reduce>(reduce);
  if (args.reduce != Reduce::Sum) {
    if (args.tasks > 1 && !args.y_per_task) fail("spmm", "an extreme needs the task axis in y");
    if (!new_arg || new_arg.numel() != y.numel()) fail("spmm", "an extreme needs new_arg with the shape of y");
    require_dtype("spmm", "new_arg", new_arg, pattern.col.dtype);
    require_device("spmm", "new_arg", new_arg, pattern.device());
    args.new_arg = new_arg.data;
  }
  cpu::advise_huge_pages(y);
  if (y.numel()) run("spmm", pattern.device(), args, cpu::spmm, FASTGMTL_CUDA(spmm));
}

void spmm_backward(Pattern pattern, View a, View b, View w, View scale, bool scale_of_cols, View arg, int arg_of,
                   View y, View out, int threads) {
  const char* op = y ? "spmm_backward" : "sddmm";
  if (!out) fail(op, "out must be a tensor, got None");
  SddmmArgs args{};
  static_cast<EdgeArgs&>(args) = edge_args(op, pattern, a, b, out, scale, scale_of_cols, arg,
                                           static_cast<ArgOf>(arg_of), threads, &args.a_per_task, &args.b_per_task);
  if (w) {
    require_dtype(op, "weight", w, args.dtype);
    require_device(op, "weight", w, pattern.device());
    if (w.numel() != out.numel()) fail(op, "weight must have shape " + shape_string(out) + ", got " + shape_string(w));
  }
  if (y) {
    require_dtype(op, "y", y, args.dtype);
    require_device(op, "y", y, pattern.device());
    if (y.rank != a.rank || y.numel() != a.numel())
      fail(op, "y must have shape " + shape_string(a) + ", got " + shape_string(y));
  }
  args.a = a.data, args.b = b.data, args.out = out.data, args.w = w.data, args.y = y.data;
  cpu::advise_huge_pages(y);
  cpu::advise_huge_pages(out);
  if (y.numel() || out.numel()) run(op, pattern.device(), args, cpu::sddmm, FASTGMTL_CUDA(sddmm));
}

void sddmm(Pattern pattern, View a, View b, View scale, bool scale_of_cols, View arg, int arg_of, View out,
           int threads) {
  spmm_backward(pattern, a, b, View{}, scale, scale_of_cols, arg, arg_of, View{}, out, threads);
}

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

void attention(Pattern pattern, View value, View dst, View src, View type, View edge, View edge_type, View seed,
               double slope, double dropout, bool drop_logits, View y, View lse, int threads) {
  const AttentionArgs args = attention_args("attention", pattern, value, dst, src, type, edge, edge_type, seed, slope,
                                            dropout, drop_logits, y, lse, threads);
  cpu::advise_huge_pages(y);
  if (lse.numel()) run("attention", pattern, args, cpu::attention, FASTGMTL_CUDA(attention));
}

void attention_backward(Pattern pattern, Pattern back, View g, View g_lse, View y, View lse, View value, View dst,
                        View src, View type, View edge, View edge_type, View seed, double slope, double dropout,
                        bool drop_logits, View d_value, View d_dst, View d_src, View d_type, View d_edge, int threads) {
  const char* op = "attention_backward";
  AttentionBackwardArgs args{};
  static_cast<AttentionArgs&>(args) = attention_args(op, pattern, value, dst, src, type, edge, edge_type, seed, slope,
                                                     dropout, drop_logits, y, lse, threads);
  check_transposed(op, pattern, back);
  args.back_ptr = back.row_ptr.as<int64_t>(), args.back_col = back.col.data, args.back_id = back.edge_id.data;
  const auto like = [&](const char* what, const View& view, DType dtype, std::initializer_list<int64_t> shape) {
    if (!view) return static_cast<void*>(nullptr);
    require_shape(op, what, view, shape);
    require_dtype(op, what, view, dtype);
    require_device(op, what, view, pattern.device());
    return view.data;
  };
  if (!g || !d_value) fail(op, "g and d_value must be tensors, got None");
  if (d_type && !type) fail(op, "d_type needs score_type");
  const int64_t heads = args.heads;
  args.g = like("g", g, args.dtype, {args.rows, heads, args.width});
  args.g_lse = static_cast<double*>(like("g_lse", g_lse, DType::F64, {args.rows, heads}));
  args.d_value = like("d_value", d_value, args.dtype, {args.cols, heads, args.width});
  args.d_dst = like("d_dst", d_dst, args.dtype, {args.rows, heads});
  args.d_src = like("d_src", d_src, args.dtype, {args.cols, heads});
  args.d_type = like("d_type", d_type, args.dtype, {args.types, heads});
  args.d_edge = like("d_edge", d_edge, args.dtype == DType::F64 ? DType::F64 : DType::F32, {args.edges, heads});
  if ((d_dst || d_type) && !d_edge) fail(op, "d_dst and d_type are summed from d_edge");
  cpu::advise_huge_pages(d_value);
  if (heads) run(op, pattern, args, cpu::attention_backward, FASTGMTL_CUDA(attention_backward));
}

void gatv2_score(Pattern pattern, View x_dst, View x_src, View att, View at_dst, View at_src, double slope, View out,
                 int threads) {
  Gatv2Args args = gatv2_args("gatv2_score", pattern, x_dst, x_src, att, at_dst, at_src, slope, out, threads);
  args.out = out.data;
  cpu::advise_huge_pages(out);
  if (out.numel()) run("gatv2_score", pattern, args, cpu::gatv2_score, FASTGMTL_CUDA(gatv2_score));
}

void gatv2_backward(Pattern pattern, Pattern back, View g, View x_dst, View x_src, View att, View at_dst, View at_src,
                    double slope, View d_dst, View d_src, View d_att, int threads) {
  const char* op = "gatv2_backward";
  Gatv2BackwardArgs args{};
  static_cast<Gatv2Args&>(args) = gatv2_args(op, pattern, x_dst, x_src, att, at_dst, at_src, slope, g, threads);
  check_transposed(op, pattern, back);
  args.back_ptr = back.row_ptr.as<int64_t>(), args.back_col = back.col.data, args.back_id = back.edge_id.data;
  args.g = g.data;
  const auto like = [&](const char* what, const View& view, std::initializer_list<int64_t> shape) {
    if (!view) return static_cast<void*>(nullptr);
    require_shape(op, what, view, shape);
    require_dtype(op, what, view, args.dtype);
    require_device(op, what, view, pattern.device());
    cpu::advise_huge_pages(view);
    return view.data;
  };
  args.d_dst = like("d_dst", d_dst, {args.rows, args.heads, args.width});
  args.d_src = like("d_src", d_src, {args.cols, args.heads, args.width});
  args.d_att = like("d_att", d_att, {args.heads, args.width});
  if (args.heads && args.width) run(op, pattern, args, cpu::gatv2_backward, FASTGMTL_CUDA(gatv2_backward));
}

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

void gather_relu(Pattern pattern, View h, View s, View t, View at_h, View at_s, View at_t, View out, int threads) {
  const char* op = "gather_relu";
  GatherReluArgs args = gather_relu_args(op, pattern, at_h, at_s, at_t, out, threads);
  const auto like = [&](const View& view, const View& at) {
    if (!view) return static_cast<void*>(nullptr);
    require_shape(op, "a summand", view, {at.size(0), at.size(1)});
    require_dtype(op, "a summand", view, args.dtype);
    require_device(op, "a summand", view, pattern.device());
    return view.data;
  };
  args.h = like(h, at_h), args.s = like(s, at_s), args.t = like(t, at_t), args.out = out.data;
  cpu::advise_huge_pages(out);
  if (out.numel()) run(op, pattern, args, cpu::gather_relu, FASTGMTL_CUDA(gather_relu));
}

void gather_relu_backward(Pattern pattern, Pattern back, View g, View at_h, View at_s, View at_t, View d_h, View d_s,
                          View d_t, int threads) {
  const char* op = "gather_relu_backward";
  GatherReluBackwardArgs args{};
  static_cast<GatherReluArgs&>(args) = gather_relu_args(op, pattern, at_h, at_s, at_t, g, threads);
  check_transposed(op, pattern, back);
  args.back_ptr = back.row_ptr.as<int64_t>(), args.back_col = back.col.data, args.back_id = back.edge_id.data;
  args.g = g.data;
  const auto like = [&](const char* what, const View& view, const View& at) {
    if (!view) return static_cast<void*>(nullptr);
    require_shape(op, what, view, {at.size(0), at.size(1)});
    require_dtype(op, what, view, args.dtype);
    require_device(op, what, view, pattern.device());
    cpu::advise_huge_pages(view);
    return view.data;
  };
  args.d_h = like("d_h", d_h, at_h), args.d_s = like("d_s", d_s, at_s), args.d_t = like("d_t", d_t, at_t);
  if (args.width) run(op, pattern, args, cpu::gather_relu_backward, FASTGMTL_CUDA(gather_relu_backward));
}

void rspmm(Pattern pattern, View two, View a, View b, View c, View w, View scale, View arg, int to, int message,
           int64_t half, int reduce, View y, View new_arg, int threads) {
  const char* op = "rspmm";
  if (to < 0 || to > static_cast<int>(RspmmTo::Edge)) fail(op, "to must be 0 to 3");
  if (message < 0 || message > static_cast<int>(Message::Rotate)) fail(op, "message must be 0, 1 or 2");
  if (reduce < 0 || reduce > static_cast<int>(Reduce::Min)) fail(op, "reduce must be 0, 1 or 2");
  RspmmArgs args{};
  args.to = static_cast<RspmmTo>(to), args.message = static_cast<Message>(message);
  args.reduce = static_cast<Reduce>(reduce), args.half = half;
  const bool of_edges = args.to == RspmmTo::Edge, of_rows = args.to == RspmmTo::Dst || of_edges;
  for (const View* view : {&a, &b, &y})
    if (!*view) fail(op, "a, b and y must be tensors, got None");
  if (of_edges != static_cast<bool>(c)) fail(op, "c is for edges alone");
  bool row_tasks, col_tasks;
  static_cast<EdgeArgs&>(args) = edge_args(op, pattern, of_edges ? c : y, a, w, scale, !of_rows, arg,
                                           of_rows ? ArgOf::Rows : ArgOf::Cols, threads, &row_tasks, &col_tasks);
  if (row_tasks || col_tasks || w.rank > 1) fail(op, "features must have two axes, and weights one");
  require_shape(op, "two", two, {args.edges});
  require_dtype(op, "two", two, pattern.col.dtype);
  require_device(op, "two", two, pattern.device());
  if (b.rank != 2) fail(op, "b must have shape [n, d], got " + shape_string(b));
  require_shape(op, "b", b, {b.size(0), args.width});
  if (of_edges) require_shape(op, "y", y, {args.edges});
  for (const View& view : {b, y}) {
    require_dtype(op, "every dense tensor", view, args.dtype);
    require_device(op, "every dense tensor", view, pattern.device());
  }
  if ((args.message == Message::Rotate) != (half > 0) || (half > 0 && args.width % (2 * half) != 0))
    fail(op, "half must divide the columns of a rotation into pairs of blocks, and be 0 else");
  if (args.reduce != Reduce::Sum) {
    if (args.to != RspmmTo::Dst || arg || scale) fail(op, "an extreme is over all edges of destinations");
    if (!new_arg) fail(op, "an extreme needs new_arg");
    require_shape(op, "new_arg", new_arg, {args.rows, args.width});
    require_dtype(op, "new_arg", new_arg, pattern.col.dtype);
    require_device(op, "new_arg", new_arg, pattern.device());
    args.new_arg = new_arg.data;
  } else if (args.message == Message::Add) {
    fail(op, "sums of x + z are spmm's");
  }
  args.two = two.data, args.a = a.data, args.b = b.data, args.c = c.data, args.w = w.data, args.y = y.data;
  cpu::advise_huge_pages(y);
  if (y.numel()) run(op, pattern, args, cpu::rspmm, FASTGMTL_CUDA(rspmm));
}

void relation_gate(View z, View logits, View weight, View residual, View mask, int activation, View y, int threads) {
  const char* op = "relation_gate";
  RelationGateArgs args{};
  static_cast<GateArgs&>(args) = gate_args(op, z, logits, weight, mask, threads);
  if (activation < 0 || activation > static_cast<int>(Activation::Elu)) fail(op, "activation must be 0, 1 or 2");
  for (const View* view : {&residual, &y}) {
    if (!*view && view == &residual) continue;
    require_shape(op, view == &y ? "y" : "residual", *view, {args.nodes, args.targets, args.width});
    require_dtype(op, "every tensor", *view, args.dtype);
    require_device(op, "every tensor", *view, z.device);
  }
  args.residual = residual.data, args.activation = static_cast<Activation>(activation), args.y = y.data;
  cpu::advise_huge_pages(y);
  if (y.numel()) run(op, z.device, args, cpu::relation_gate, FASTGMTL_CUDA(relation_gate));
}

void relation_gate_backward(View u, View z, View logits, View weight, View mask, View d_z, View d_logits, View d_weight,
                            View partial, int threads) {
  const char* op = "relation_gate_backward";
  RelationGateBackwardArgs args{};
  static_cast<GateArgs&>(args) = gate_args(op, z, logits, weight, mask, threads);
  const auto like = [&](const char* what, const View& view, std::initializer_list<int64_t> shape, DType dtype) {
    require_shape(op, what, view, shape);
    require_dtype(op, what, view, dtype);
    require_device(op, what, view, z.device);
    return view.data;
  };
  args.u = like("u", u, {args.nodes, args.targets, args.width}, args.dtype);
  args.d_z = like("d_z", d_z, {args.nodes, args.relations, args.tasks, args.width}, args.dtype);
  args.d_logits = like("d_logits", d_logits, {args.nodes, args.relations, args.tasks, args.targets}, args.dtype);
  if (static_cast<bool>(weight) != static_cast<bool>(d_weight) ||
      static_cast<bool>(weight) != static_cast<bool>(partial))
    fail(op, "weight, d_weight and partial must be all there or none");
  if (weight) {
    args.d_weight = like("d_weight", d_weight, {args.targets, args.width}, args.dtype);
    if (partial.rank < 1 || partial.size(0) > args.nodes) fail(op, "partial must have at most a row for each node");
    args.partial_rows = partial.size(0);
    args.partial = like("partial", partial, {args.partial_rows, args.targets, args.width},
                        args.dtype == DType::F64 ? DType::F64 : DType::F32);
    if (args.partial_rows == 0 && args.nodes > 0) fail(op, "partial must have a row at least");
  }
  cpu::advise_huge_pages(d_z);
  run(op, z.device, args, cpu::relation_gate_backward, FASTGMTL_CUDA(relation_gate_backward));
}

}  // namespace fastgmtl
