// relu_sum and relu_sum_backward: rectified sums of a source's and an edge's features, added up in each row; and the
// partial derivatives of this.
//
//   y[i, c] = the sum over edges m from j to i of  P (x[j, c] + e[m, c]),  P = 1 where at_x[j, c] + at_e[m, c] > 0,
//   else 0
//
// (what is null is 0). With at_x = x and at_e = e it is a sum of relu. The derivatives, in which P is a constant:
//
//   d_x[j, c] = the sum over edges m from j to i of  P g[i, c]
//   d_e[m, c] = P g[i, c]
//
// Both are linear in all that is not P, so the derivative of the one is the other. As in PyTorch's relu a sum that is
// NaN is passed on. Sums are in float32 (float64 for float64), in an order that the pattern decides.
#pragma once

#include "pattern.h"

namespace fastgmtl {

struct ReluSumArgs {
  const int64_t* row_ptr;
  const void* col;
  const void* edge_id;  // or null: positions
  int64_t rows, cols, edges;
  bool wide_index;
  DType dtype;
  int64_t width;
  const void *x, *e;        // [cols, d], [E, d] in the user's order, or null: zeros
  const void *at_x, *at_e;  // of the same shapes
  int threads;
  void* stream;  // of CUDA
  void* y;       // [rows, d]

  bool is_relu() const { return x == at_x && e == at_e; }
};

// Over the transposed pattern: rows are sources.
struct ReluSumBackwardArgs : ReluSumArgs {
  const void* g;    // [cols, d]; at_x is [rows, d]
  void *d_x, *d_e;  // [rows, d], [E, d], or null: not wanted
};

// The fields of ReluSumArgs but what is summed; `of_edges` [E, d] gives dtype and width.
inline ReluSumArgs relu_sum_args(const char* op, const Pattern& pattern, const View& of_edges, int threads) {
  pattern.check(op);
  ReluSumArgs args{};
  args.row_ptr = pattern.row_ptr.as<int64_t>(), args.col = pattern.col.data, args.edge_id = pattern.edge_id.data;
  args.rows = pattern.rows(), args.cols = pattern.cols, args.edges = pattern.edges();
  args.wide_index = pattern.col.dtype == DType::I64;
  if (of_edges.rank != 2)
    fail(op, "e must have shape [E, d], got " + (of_edges ? shape_string(of_edges) : std::string("None")));
  if (!is_float(of_edges.dtype)) throw TypeError(std::string(op) + ": e must be floating point");
  args.dtype = of_edges.dtype, args.width = of_edges.size(1), args.threads = threads, args.stream = of_edges.stream;
  return args;
}

void relu_sum(Pattern pattern, View x, View e, View at_x, View at_e, View y, int threads);

void relu_sum_backward(Pattern back, View g, View at_x, View at_e, View d_x, View d_e, int threads);

}  // namespace fastgmtl
