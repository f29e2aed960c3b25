// Runs csrc/cuda/*.cu on the CPU, unchanged: `g++ -x c++ -I tests/cuda_host/include` finds this file where the CUDA
// headers would be. A test tool; clarity before speed.
//
// Blocks run one after another, the threads of a block as fibres on one OS thread. A fibre runs until it needs others:
// at __syncthreads, __syncwarp, a shuffle or a vote. Reported, with kernel (by the launcher), block, thread and line:
//   * a barrier that not all threads of the block reach, or that they reach in different places;
//   * a shuffle or vote whose lanes do not all come, come to different ones, or which reads a lane outside of its mask;
//   * shared memory (through Shared<T>): out of bounds, read before written, races between two barriers;
//   * global memory (through __ldg, __stcs): outside of every known allocation, misaligned, written where it is
//     read-only, read before written, races between any two threads of a launch.
// Memory touched in other ways is left to AddressSanitizer, which knows the fibres.
//
// Differences to a GPU: blocks and warps never overlap in time (races are found by bookkeeping, not by chance), a
// thread that has left the kernel makes a barrier fail, and a __syncwarp orders shared memory for a whole warp only.
#pragma once

#include <cstdlib>
#include <tuple>
#include <utility>

#include "machine.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

// --------------------------------------------------------------------------------------------------------- types

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

struct __half {
  _Float16 value;
};
inline float __half2float(__half value) { return static_cast<float>(value.value); }
inline __half __float2half(float value) { return {static_cast<_Float16>(value)}; }

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline __nv_bfloat16 __float2bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// ---------------------------------------------------------------------------------------------------- intrinsics

#define CUDA_HOST_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

template <class T>
T __ldg(const T* from) {
  cuda_host::global_read(from, sizeof(T));
  T out;
  std::memcpy(&out, from, sizeof(T));
  return out;
}
template <class T>
void __stcs(T* to, T value) {
  cuda_host::global_write(to, sizeof(T));
  std::memcpy(to, &value, sizeof(T));
}

inline void __syncthreads(CUDA_HOST_SITE) {
  cuda_host::machine.wait(cuda_host::State::Barrier, "__syncthreads", file, line, 0, 0);
}
inline void __syncwarp(unsigned mask = ~0u, CUDA_HOST_SITE) {
  cuda_host::machine.collective("__syncwarp", mask, 0, file, line);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, CUDA_HOST_SITE) {
  const int start = cuda_host::machine.current % 32 & ~(width - 1);
  return cuda_host::shuffle("__shfl_sync", mask, value, start + (from & (width - 1)), width, file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDA_HOST_SITE) {
  return cuda_host::shuffle("__shfl_xor_sync", mask, value, cuda_host::machine.current % 32 ^ bits, width, file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int by, int width = 32, CUDA_HOST_SITE) {
  return cuda_host::shuffle("__shfl_up_sync", mask, value, cuda_host::machine.current % 32 - by, width, file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, CUDA_HOST_SITE) {
  return cuda_host::shuffle("__shfl_down_sync", mask, value, cuda_host::machine.current % 32 + by, width, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int vote, CUDA_HOST_SITE) {
  cuda_host::machine.collective("__ballot_sync", mask, vote != 0, file, line);
  unsigned out = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) out |= static_cast<unsigned>(cuda_host::machine.me().gathered[lane]) << lane;
  return out;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __any_sync(unsigned mask, int vote, CUDA_HOST_SITE) { return __ballot_sync(mask, vote, file, line) != 0; }
inline int __all_sync(unsigned mask, int vote, CUDA_HOST_SITE) { return __ballot_sync(mask, vote, file, line) == mask; }

// ------------------------------------------------------------------------------------------------------- runtime

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719
};
using cudaStream_t = void*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

constexpr int kCudaHostDevices = 2;
inline cudaError_t cudaGetDevice(int* device) { return *device = cuda_host::machine.device, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kCudaHostDevices)
    return cuda_host::machine.last_error = "no such device", cudaErrorInvalidDevice;
  return cuda_host::machine.device = device, cudaSuccess;
}
inline const char* cudaGetErrorName(cudaError_t code) {
  return code == cudaErrorInvalidConfiguration ? "cudaErrorInvalidConfiguration"
         : code == cudaErrorInvalidDevice      ? "cudaErrorInvalidDevice"
                                               : "cudaErrorLaunchFailure";
}
inline const char* cudaGetErrorString(cudaError_t) { return cuda_host::machine.last_error.c_str(); }
inline cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream) {
  cuda_host::machine.streams.push_back(stream);
  cuda_host::memory.add("workspace", *data = std::malloc(bytes), static_cast<int64_t>(bytes), true);
  return ++cuda_host::memory.borrowed, cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  cuda_host::machine.streams.push_back(stream);
  cuda_host::memory.remove(data);
  std::free(data);
  return --cuda_host::memory.borrowed, cudaSuccess;
}

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  cuda_host::Machine& machine = cuda_host::machine;
  const dim3 grid = config->gridDim, block = config->blockDim;
  if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || !block.x || block.x * block.y * block.z > 1024)
    return machine.last_error = "invalid grid or block", cudaErrorInvalidConfiguration;
  const std::tuple<Params...> params(std::forward<Args>(args)...);
  machine.dynamic_shared.assign(config->dynamicSmemBytes, 0);
  try {
    machine.run_grid(grid, block, config->stream, reinterpret_cast<const void*>(kernel),
                     [&] { std::apply(kernel, params); });
  } catch (const cuda_host::Fault& fault) {
    machine.last_error = fault.what();
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}
