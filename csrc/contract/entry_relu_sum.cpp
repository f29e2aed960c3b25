// relu_sum as Python calls it: views are checked, then entry.h chooses what runs.
#include "../cpu/pages.h"
#include "entry.h"
#include "relu_sum.h"

namespace fastgmtl {
namespace {

// The memory of `view`, [rows, d], or null.
void* dense(const char* op, const char* what, const Pattern& pattern, const ReluSumArgs& args, const View& view,
            int64_t rows, bool optional = false) {
  if (optional && !view) return nullptr;
  require_shape(op, what, view, {rows, args.width});
  require_dtype(op, what, view, args.dtype);
  require_device(op, what, view, pattern.device());
  return view.data;
}

}  // namespace

void relu_sum(Pattern pattern, View x, View e, View at_x, View at_e, View y, int threads) {
  const char* op = "relu_sum";
  ReluSumArgs args = relu_sum_args(op, pattern, at_e, threads);
  args.at_x = dense(op, "x", pattern, args, at_x, args.cols);
  args.at_e = dense(op, "e", pattern, args, at_e, args.edges);
  args.x = dense(op, "a summand of sources", pattern, args, x, args.cols, true);
  args.e = dense(op, "a summand of edges", pattern, args, e, args.edges, true);
  if (!x && !e) fail(op, "a summand must be given");
  args.y = dense(op, "y", pattern, args, y, args.rows);
  cpu::advise_huge_pages(y);
  if (y.numel()) run(op, pattern, args, cpu::relu_sum, FASTGMTL_CUDA(relu_sum));
}

void relu_sum_backward(Pattern back, View g, View at_x, View at_e, View d_x, View d_e, int threads) {
  const char* op = "relu_sum_backward";
  ReluSumBackwardArgs args{};
  static_cast<ReluSumArgs&>(args) = relu_sum_args(op, back, at_e, threads);
  args.at_x = dense(op, "x", back, args, at_x, args.rows);
  args.at_e = dense(op, "e", back, args, at_e, args.edges);
  args.g = dense(op, "g", back, args, g, args.cols);
  args.d_x = dense(op, "d_x", back, args, d_x, args.rows, true);
  args.d_e = dense(op, "d_e", back, args, d_e, args.edges, true);
  cpu::advise_huge_pages(d_x);
  cpu::advise_huge_pages(d_e);
  if (args.rows && args.width) run(op, back, args, cpu::relu_sum_backward, FASTGMTL_CUDA(relu_sum_backward));
}

}  // namespace fastgmtl
