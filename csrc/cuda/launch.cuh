// The only place that starts kernels: device guard, workspace, limits of the grid, errors with names.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "../contract/workspace.h"

namespace fastgmtl::cuda {

constexpr int kBlock = 128;  // threads of a block, in every kernel

inline void check(cudaError_t code, const std::string& what) {
  if (code != cudaSuccess)
    throw std::runtime_error(what + ": CUDA error " + cudaGetErrorName(code) + ": " + cudaGetErrorString(code));
}

// Makes `device` current for its lifetime.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ != device) check(cudaSetDevice(device), "cudaSetDevice(" + std::to_string(device) + ")");
    changed_ = previous_ != device;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

// Memory from its place in the order of the stream's work to the end of its scope. `stream` is the device's current
// one.
class Workspace {
 public:
  Workspace(int64_t bytes, int device, cudaStream_t stream) : stream_(stream) {
    if (bytes == 0) return;
    if (framework) {
      owner_ = allocate(bytes, device);
      data_ = static_cast<char*>(owner_->tensor.data) + owner_->tensor.byte_offset;
    } else {
      check(cudaMallocAsync(&data_, static_cast<size_t>(bytes), stream),
            "workspace of " + std::to_string(bytes) + " bytes");
    }
  }
  ~Workspace() {
    if (owner_)
      owner_->deleter(owner_);
    else if (data_)
      cudaFreeAsync(data_, stream_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  template <class T>
  T* at(int64_t byte) const {
    return data_ ? reinterpret_cast<T*>(static_cast<char*>(data_) + byte) : nullptr;
  }

 private:
  cudaStream_t stream_;
  void* data_ = nullptr;
  dlpack::ManagedTensorVersioned* owner_ = nullptr;
};

constexpr int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Starts kernel(args) with `tiles` times `blocks` blocks of kBlock threads.
template <class Args>
void launch(const char* name, void (*kernel)(Args), int64_t blocks, int64_t tiles, void* stream, const Args& args) {
  if (blocks <= 0 || tiles <= 0) return;
  if (blocks > INT32_MAX || tiles > 65535)
    throw std::runtime_error(std::string(name) + ": a grid may have 2147483647 x 65535 blocks, this one would need " +
                             std::to_string(blocks) + " x " + std::to_string(tiles) + "; split the graph or the width");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(tiles));
  config.blockDim = dim3(kBlock);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, args), name);
}

}  // namespace fastgmtl::cuda
