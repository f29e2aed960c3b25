// The only place that starts kernels: device guard, stream-ordered workspace, limits of the grid, errors with names.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>

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

// Our own pool on each device: the default one hands its memory back to the driver at every synchronisation.
inline cudaMemPool_t workspace_pool(int device) {
  static std::mutex mutex;
  static std::array<cudaMemPool_t, 64> pools{};
  if (device < 0 || device >= static_cast<int>(pools.size()))
    throw std::runtime_error("workspace: device " + std::to_string(device) + " is beyond the 64 that are supported");
  const std::lock_guard<std::mutex> lock(mutex);
  if (!pools[device]) {
    cudaMemPoolProps props{};
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    props.location.id = device;
    check(cudaMemPoolCreate(&pools[device], &props), "cudaMemPoolCreate");
    uint64_t keep = uint64_t{64} << 20;
    check(cudaMemPoolSetAttribute(pools[device], cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
  }
  return pools[device];
}

// Memory from its place in the stream's order of work to the end of its scope. Captured into CUDA graphs like a kernel.
class Workspace {
 public:
  Workspace(int64_t bytes, int device, cudaStream_t stream) : stream_(stream) {
    if (bytes == 0) return;
    check(cudaMallocFromPoolAsync(&data_, static_cast<size_t>(bytes), workspace_pool(device), stream),
          "workspace of " + std::to_string(bytes) + " bytes");
  }
  ~Workspace() {
    if (data_) cudaFreeAsync(data_, stream_);
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
