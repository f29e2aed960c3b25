// The operators on patterns and relations as Python calls them: views are checked, then entry.h chooses what runs.
#include "entry.h"

#include "../cpu/pages.h"
#include "attention.h"
#include "gather_relu.h"
#include "gatv2.h"
#include "relation_gate.h"
#include "rspmm.h"
#include "sddmm.h"

namespace fastgmtl {

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
