// The operators as Python calls them: views are checked, then the device and the instruction set are chosen.
#include "../cpu/level.h"
#include "../cpu/pages.h"
#include "sddmm.h"
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
void run(const char* op, const Pattern& pattern, const Args& args, void (*const cpu[])(const Args&),
         typename CudaKernel<Args>::type cuda) {
  if (!pattern.device().cuda) return cpu[static_cast<int>(cpu::level())](args);
  if (!cuda) throw std::runtime_error(std::string(op) + ": built without CUDA");
  cuda(args, pattern.device().id);
}

#ifdef FASTGMTL_WITH_CUDA
#define FASTGMTL_CUDA(op) cuda::op
#else
#define FASTGMTL_CUDA(op) nullptr
#endif

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
  if (y.numel()) run("spmm", pattern, args, cpu::spmm, FASTGMTL_CUDA(spmm));
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
  if (y.numel() || out.numel()) run(op, pattern, args, cpu::sddmm, FASTGMTL_CUDA(sddmm));
}

void sddmm(Pattern pattern, View a, View b, View scale, bool scale_of_cols, View arg, int arg_of, View out,
           int threads) {
  spmm_backward(pattern, a, b, View{}, scale, scale_of_cols, arg, arg_of, View{}, out, threads);
}

}  // namespace fastgmtl
