// gather_relu and gather_relu_backward: what a sample and both ends of an edge add up to, where it is positive; and the
// partial derivatives of this.
//
//   out[m, b, c] = P (h[b, c] + s[j, c] + t[i, c]),   P = 1 where at_h[b, c] + at_s[j, c] + at_t[i, c] > 0, else 0
//
// for edge m from column j to row i and sample b (what is null is 0). With at_h = h and so on it is relu of the sum.
// The derivatives, in which P is a constant:
//
//   d_h[b, c] = the sum over all edges of  P g[m, b, c]
//   d_s[j, c] = the sum over samples and the edges out of column j of the same
//   d_t[i, c] = the sum over samples and the edges into row i of the same
//
// Both are linear in all that is not P, so the derivative of the one is the other. As in PyTorch's relu a sum that is
// NaN is passed on. The sum of which P is made is at_h + (at_s + at_t), in float32 (float64 for float64). Sums are in
// an order that the sizes and the pattern decide.
#pragma once

#include "pattern.h"

namespace fastgmtl {

struct GatherReluArgs {
  const int64_t* row_ptr;
  const void* col;
  const void* edge_id;  // or null: positions
  int64_t rows, cols, edges;
  bool wide_index;
  DType dtype;
  int64_t samples, width;          // B and d
  const void *h, *s, *t;           // [B, d], [cols, d], [rows, d], or null: zeros
  const void *at_h, *at_s, *at_t;  // of the same shapes
  int threads;
  void* stream;  // of CUDA
  void* out;     // [E, B, d], in the user's edge order

  bool is_relu() const { return h == at_h && s == at_s && t == at_t; }
};

struct GatherReluBackwardArgs : GatherReluArgs {
  const int64_t* back_ptr;  // the transposed pattern
  const void* back_col;
  const void* back_id;
  const void* g;          // as out
  void *d_h, *d_s, *d_t;  // as h, s, t, or null: not wanted
};

// The fields of GatherReluArgs but h, s and t, from views; `edges` is [E, B, d].
inline GatherReluArgs gather_relu_args(const char* op, const Pattern& pattern, const View& at_h, const View& at_s,
                                       const View& at_t, const View& edges, int threads) {
  pattern.check(op);
  GatherReluArgs args{};
  args.row_ptr = pattern.row_ptr.as<int64_t>(), args.col = pattern.col.data, args.edge_id = pattern.edge_id.data;
  args.rows = pattern.rows(), args.cols = pattern.cols, args.edges = pattern.edges();
  args.wide_index = pattern.col.dtype == DType::I64;
  if (at_h.rank != 2) fail(op, "h must have shape [B, d], got " + shape_string(at_h));
  if (!is_float(at_h.dtype)) throw TypeError(std::string(op) + ": h must be floating point");
  args.dtype = at_h.dtype, args.samples = at_h.size(0), args.width = at_h.size(1);
  args.threads = threads, args.stream = at_h.stream;
  const auto dense = [&](const char* what, const View& view, std::initializer_list<int64_t> shape) {
    require_shape(op, what, view, shape);
    require_dtype(op, what, view, args.dtype);
    require_device(op, what, view, pattern.device());
    return view.data;
  };
  args.at_h = dense("h", at_h, {args.samples, args.width});
  args.at_s = dense("s", at_s, {args.cols, args.width});
  args.at_t = dense("t", at_t, {args.rows, args.width});
  dense("a tensor of edges", edges, {args.edges, args.samples, args.width});
  return args;
}

void gather_relu(Pattern pattern, View h, View s, View t, View at_h, View at_s, View at_t, View out, int threads);

void gather_relu_backward(Pattern pattern, Pattern back, View g, View at_h, View at_s, View at_t, View d_h, View d_s,
                          View d_t, int threads);

}  // namespace fastgmtl
