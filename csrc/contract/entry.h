// What every entry does last: the device and the instruction set are chosen.
#pragma once
#include <stdexcept>
#include <string>

#include "../cpu/level.h"
#include "pattern.h"
#ifdef FASTGMTL_WITH_CUDA
#include "../cuda/launch.h"
#endif

namespace fastgmtl {

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

inline void check_transposed(const char* op, const Pattern& pattern, const Pattern& back) {
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

}  // namespace fastgmtl
