// attention: softmax over the edges of each row, and the weighted sum of the neighbours' values, for K heads at once
// (K = heads of all tasks).
//
//   z[e, k] = dst[i, k] + src[j, k] + type[edge_type[e], k] + edge[e, k]      for every edge e of row i to column j
//   l[e, k] = m[e, k] leaky(z[e, k])
//   y[i, k] = sum over e of  exp(l[e, k] - lse[i, k]) n[e, k] value[j, k]     lse[i, k] = log of the sum of exp(l[e,
//   k])
//
// leaky(z) is z for z > 0, slope * z elsewhere. m (dropout of logits) or n (dropout of weights) is 0 or 1 / (1 - p),
// from Philox (common/philox.h); the others are 1. A dropped logit is 0, whatever it was. An edge whose logit is -inf
// is as good as absent; a row without other edges has y = 0 and lse = 0. Sums are in float32 (float64 for float64), in
// row order, for any number of threads.
#pragma once

#include "pattern.h"

namespace fastgmtl {

struct AttentionArgs {
  const int64_t* row_ptr;
  const void* col;
  const void* edge_id;  // or null: positions
  int64_t rows, cols, edges;
  bool wide_index;          // col, edge_id and edge_type are int64, else int32
  DType dtype;              // of every dense tensor but lse and per-edge gradients
  int64_t heads, width;     // K and d
  int64_t types;            // rows of `type`; an edge of a type beyond them has the logit NaN
  const void* value;        // [cols, K, d]
  const void *dst, *src;    // [rows, K], [cols, K]; or null
  const void *type, *edge;  // [types, K], [E, K]; or null. What is of edges stands in the user's order
  const void* edge_type;    // [E] with `type`
  double slope;             // 1: none
  double dropout;           // p; 0: none
  bool drop_logits;         // else weights
  const int64_t* seed;      // [1] with dropout
  int threads;
  void* stream;  // of CUDA
  void* y;       // [rows, K, d]
  double* lse;   // [rows, K] float64: float32 would round weights where logits are large
};

// Partial derivatives of F = <g, y> + <g_lse, lse>, with y and lse as they are given:
//
//   c[e, k]     = m leaky'(z) w (n <g[i, k], value[j, k]> - <g[i, k], y[i, k]> + g_lse[i, k])     w = exp(l - lse[i,
//   k]) d_value[j, k] = sum over the edges into column j of  w n g[i, k] d_edge = c;  d_dst, d_src and d_type its sums
//   over the edges of a row, a column, a type
struct AttentionBackwardArgs : AttentionArgs {
  const int64_t* back_ptr;  // the transposed pattern
  const void* back_col;
  const void* back_id;
  const void* g;                 // [rows, K, d]
  const double* g_lse;           // [rows, K]; or null: 0
  void* d_value;                 // [cols, K, d]
  void *d_dst, *d_src, *d_type;  // as dst, src and type, or null: not wanted
  void* d_edge;  // [E, K], float64 for float64, else float32; wanted also for d_dst and d_type, its sums
};

// The fields of AttentionArgs, from views.
inline AttentionArgs attention_args(const char* op, const Pattern& pattern, const View& value, const View& dst,
                                    const View& src, const View& type, const View& edge, const View& edge_type,
                                    const View& seed, double slope, double dropout, bool drop_logits, const View& y,
                                    const View& lse, int threads) {
  pattern.check(op);
  AttentionArgs args{};
  args.row_ptr = pattern.row_ptr.as<int64_t>();
  args.col = pattern.col.data;
  args.edge_id = pattern.edge_id.data;
  args.rows = pattern.rows(), args.cols = pattern.cols, args.edges = pattern.edges();
  args.wide_index = pattern.col.dtype == DType::I64;
  args.dtype = value.dtype;
  args.threads = threads;
  args.stream = value.stream;
  if (value.rank != 3) fail(op, "value must have shape [N, K, d], got " + shape_string(value));
  if (!is_float(args.dtype)) throw TypeError(std::string(op) + ": value must be floating point");
  args.heads = value.size(1), args.width = value.size(2);
  const auto dense = [&](const char* what, const View& view, DType dtype, std::initializer_list<int64_t> shape) {
    require_shape(op, what, view, shape);
    require_dtype(op, what, view, dtype);
    require_device(op, what, view, pattern.device());
    return view.data;
  };
  const int64_t heads = args.heads;
  args.value = dense("value", value, args.dtype, {args.cols, heads, args.width});
  args.y = dense("y", y, args.dtype, {args.rows, heads, args.width});
  args.lse = static_cast<double*>(dense("lse", lse, DType::F64, {args.rows, heads}));
  if (dst) args.dst = dense("score_dst", dst, args.dtype, {args.rows, heads});
  if (src) args.src = dense("score_src", src, args.dtype, {args.cols, heads});
  if (edge) args.edge = dense("score_edge", edge, args.dtype, {args.edges, heads});
  if (type) {
    args.types = type.size(0);
    args.type = dense("score_type", type, args.dtype, {args.types, heads});
    args.edge_type = dense("edge_type", edge_type, pattern.col.dtype, {args.edges});
  }
  if (!(dropout >= 0 && dropout < 1)) fail(op, "dropout must be in [0, 1)");
  if (dropout > 0) args.seed = static_cast<const int64_t*>(dense("seed", seed, DType::I64, {1}));
  args.slope = slope, args.dropout = dropout, args.drop_logits = drop_logits;
  return args;
}

void attention(Pattern pattern, View value, View dst, View src, View type, View edge, View edge_type, View seed,
               double slope, double dropout, bool drop_logits, View y, View lse, int threads);

void attention_backward(Pattern pattern, Pattern back, View g, View g_lse, View y, View lse, View value, View dst,
                        View src, View type, View edge, View edge_type, View seed, double slope, double dropout,
                        bool drop_logits, View d_value, View d_dst, View d_src, View d_type, View d_edge, int threads);

}  // namespace fastgmtl
