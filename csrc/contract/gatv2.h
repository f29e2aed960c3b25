// gatv2_score and gatv2_backward: the score of GATv2 for K heads, and its partial derivatives.
//
//   S[e, k] = sum over c of  att[k, c] f(p[i, k, c] + q[j, k, c]) (x_dst[i, k, c] + x_src[j, k, c])
//
// for every edge e of row i to column j; f(h) is 1 for h > 0, else slope. With p = x_dst and q = x_src it is
// <att, leaky(x_dst + x_src)>; with others the derivatives of this, in which f is a constant:
//
//   d_dst[i, k, c] = att[k, c] times the sum over the edges of row i of  g[e, k] f
//   d_src[j, k, c] = the same over the edges into column j
//   d_att[k, c]    = sum over all edges of  g[e, k] f (x_dst[i, k, c] + x_src[j, k, c])
//
// S is linear in x and att, so the derivative of one of the two operators is made of both. Sums are in float32
// (float64 for float64, and for d_att over fixed chunks), in row order, for any number of threads.
#pragma once

#include "pattern.h"

namespace fastgmtl {

struct Gatv2Args {
  const int64_t* row_ptr;
  const void* col;
  const void* edge_id;  // or null: positions
  int64_t rows, cols, edges;
  bool wide_index;
  DType dtype;
  int64_t heads, width;         // K and d
  const void *x_dst, *x_src;    // [rows, K, d], [cols, K, d]
  const void *at_dst, *at_src;  // p and q, of the same shapes
  const void* att;              // [K, d]
  double slope;
  int threads;
  void* stream;  // of CUDA
  void* out;     // S: [E, K], in the user's edge order
};

struct Gatv2BackwardArgs : Gatv2Args {
  const int64_t* back_ptr;  // the transposed pattern
  const void* back_col;
  const void* back_id;
  const void* g;        // [E, K]
  void *d_dst, *d_src;  // as x_dst, x_src, or null: not wanted
  void* d_att;          // [K, d], or null
};

// The fields of Gatv2Args, from views; without at_dst and at_src, x_dst and x_src are meant. `edges` is [E, K].
inline Gatv2Args gatv2_args(const char* op, const Pattern& pattern, const View& x_dst, const View& x_src,
                            const View& att, const View& at_dst, const View& at_src, double slope, const View& edges,
                            int threads) {
  pattern.check(op);
  Gatv2Args args{};
  args.row_ptr = pattern.row_ptr.as<int64_t>();
  args.col = pattern.col.data;
  args.edge_id = pattern.edge_id.data;
  args.rows = pattern.rows(), args.cols = pattern.cols, args.edges = pattern.edges();
  args.wide_index = pattern.col.dtype == DType::I64;
  args.dtype = x_src.dtype;
  args.slope = slope, args.threads = threads;
  args.stream = x_src.stream;
  if (x_src.rank != 3) fail(op, "x_src must have shape [N, K, d], got " + shape_string(x_src));
  if (!is_float(args.dtype)) throw TypeError(std::string(op) + ": x_src must be floating point");
  const int64_t heads = args.heads = x_src.size(1), width = args.width = x_src.size(2);
  const auto dense = [&](const char* what, const View& view, std::initializer_list<int64_t> shape) {
    require_shape(op, what, view, shape);
    require_dtype(op, what, view, args.dtype);
    require_device(op, what, view, pattern.device());
    return view.data;
  };
  args.x_dst = dense("x_dst", x_dst, {args.rows, heads, width});
  args.x_src = dense("x_src", x_src, {args.cols, heads, width});
  args.att = dense("att", att, {heads, width});
  args.at_dst = at_dst ? dense("at_dst", at_dst, {args.rows, heads, width}) : args.x_dst;
  args.at_src = at_src ? dense("at_src", at_src, {args.cols, heads, width}) : args.x_src;
  dense("a tensor of edges", edges, {args.edges, heads});
  return args;
}

void gatv2_score(Pattern pattern, View x_dst, View x_src, View att, View at_dst, View at_src, double slope, View out,
                 int threads);

void gatv2_backward(Pattern pattern, Pattern back, View g, View x_dst, View x_src, View att, View at_dst, View at_src,
                    double slope, View d_dst, View d_src, View d_att, int threads);

}  // namespace fastgmtl
