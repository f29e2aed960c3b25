// What every kernel is made of: vector loads and stores, widening, indices of either width, shared memory, reductions.
// Global memory is touched through the cache-hinted intrinsics only and shared memory through Shared only, so that the
// host execution (tests/cuda_host) can check every access.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "../common/accumulator.h"

namespace fastgmtl::cuda {

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }

__device__ __forceinline__ void narrow(float value, float& out) { out = value; }
__device__ __forceinline__ void narrow(double value, double& out) { out = value; }
__device__ __forceinline__ void narrow(float value, __nv_bfloat16& out) { out = __float2bfloat16(value); }
__device__ __forceinline__ void narrow(float value, __half& out) { out = __float2half(value); }

// ------------------------------------------------------------------------------------------------- global memory

// The widest word that moves `Bytes` bytes, a power of two from 2 up.
template <int Bytes>
struct WordOf {
  using type = uint4;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<4> {
  using type = unsigned int;
};
template <>
struct WordOf<2> {
  using type = unsigned short;
};

// N elements that lie together, as one register tuple.
template <class T, int N>
struct Pack {
  T item[N];
};

// Reads N elements at `from`, aligned to their size or 16 bytes. For memory that no running kernel writes.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* from) {
  using Word = typename WordOf<sizeof(T) * N>::type;
  constexpr int kWords = sizeof(T) * N / sizeof(Word);
  Word words[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __ldg(reinterpret_cast<const Word*>(from) + i);
  Pack<T, N> out;
  memcpy(&out, words, sizeof(out));
  return out;
}

// Writes N elements that nobody reads soon.
template <int N, class T>
__device__ __forceinline__ void store(const Pack<T, N>& value, T* to) {
  using Word = typename WordOf<sizeof(T) * N>::type;
  constexpr int kWords = sizeof(T) * N / sizeof(Word);
  Word words[kWords];
  memcpy(words, &value, sizeof(value));
#pragma unroll
  for (int i = 0; i < kWords; ++i) __stcs(reinterpret_cast<Word*>(to) + i, words[i]);
}

template <class T>
__device__ __forceinline__ T load(const T* from) {
  return load<1>(from).item[0];
}

template <class T>
__device__ __forceinline__ void store_one(T value, T* to) {
  store(Pack<T, 1>{{value}}, to);
}

// An array of int32 or int64, or nothing. One type for both: the branch is the same for all threads and costs less
// than twice as many kernels.
struct Index {
  void* data;
  bool wide;

  __host__ __device__ explicit operator bool() const { return data != nullptr; }
  __device__ __forceinline__ int64_t operator[](int64_t i) const {
    return wide ? load(static_cast<const int64_t*>(data) + i) : int64_t{load(static_cast<const int32_t*>(data) + i)};
  }
  // out[u] = (*this)[at[u]]; all are asked for before the first one is waited for.
  template <int U>
  __device__ __forceinline__ void gather(const int64_t (&at)[U], int64_t (&out)[U]) const {
    if (wide) {
#pragma unroll
      for (int u = 0; u < U; ++u) out[u] = load(static_cast<const int64_t*>(data) + at[u]);
      return;
    }
    int32_t small[U];
#pragma unroll
    for (int u = 0; u < U; ++u) small[u] = load(static_cast<const int32_t*>(data) + at[u]);
#pragma unroll
    for (int u = 0; u < U; ++u) out[u] = small[u];
  }
  template <int N>
  __device__ __forceinline__ Pack<int64_t, N> read(int64_t i) const {
    if (wide) return load<N>(static_cast<const int64_t*>(data) + i);
    const Pack<int32_t, N> small = load<N>(static_cast<const int32_t*>(data) + i);
    Pack<int64_t, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) out.item[k] = small.item[k];
    return out;
  }
  template <int N>
  __device__ __forceinline__ void write(const Pack<int64_t, N>& value, int64_t i) const {
    if (wide) return store<N>(value, static_cast<int64_t*>(data) + i);
    Pack<int32_t, N> small;
#pragma unroll
    for (int k = 0; k < N; ++k) small.item[k] = static_cast<int32_t>(value.item[k]);
    store<N>(small, static_cast<int32_t*>(data) + i);
  }
};

// ------------------------------------------------------------------------------------------------- shared memory

// A view of a shared array. On the host every access is checked and recorded with its line, its thread and the barriers
// it lies between.
template <class T>
class Shared {
 public:
  template <int N>
  __device__ __forceinline__ explicit Shared(T (&data)[N]) : data_(data), size_(N) {}
  __device__ __forceinline__ T get(int i, [[maybe_unused]] int line = __builtin_LINE()) const {
#ifndef __CUDACC__
    cuda_host::shared_read(data_, i, size_, line);
#endif
    return data_[i];
  }
  __device__ __forceinline__ void set(int i, T value, [[maybe_unused]] int line = __builtin_LINE()) const {
#ifndef __CUDACC__
    cuda_host::shared_write(data_, i, size_, line);
#endif
    data_[i] = value;
  }

 private:
  T* data_;
  int size_;
};

// ---------------------------------------------------------------------------------------------------- reductions

// The lanes of a warp that belong to the group of `1 << log_lanes` lanes of the calling thread.
__device__ __forceinline__ unsigned group_mask(int log_lanes) {
  const int lanes = 1 << log_lanes;
  const unsigned ones = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
  return ones << (threadIdx.x & 31 & ~(lanes - 1));
}

// Sums four values over a group of at least four lanes at once: each step halves the values or the lanes, so that
// log2(lanes) + 1 shuffles do what four reductions do in 4 log2(lanes). A lane gets the sum of value[reduced4(...)].
template <class A>
__device__ __forceinline__ A reduce4(const A (&value)[4], int lane, int log_lanes) {
  const unsigned mask = group_mask(log_lanes);
  const int half = 1 << (log_lanes - 1), quarter = half >> 1;
  const bool upper = lane & half, odd = lane & quarter;
  const A low = (upper ? value[2] : value[0]) + __shfl_xor_sync(mask, upper ? value[0] : value[2], half);
  const A high = (upper ? value[3] : value[1]) + __shfl_xor_sync(mask, upper ? value[1] : value[3], half);
  A sum = (odd ? high : low) + __shfl_xor_sync(mask, odd ? low : high, quarter);
  for (int step = quarter >> 1; step > 0; step >>= 1) sum += __shfl_xor_sync(mask, sum, step);
  return sum;
}

// Which of the four values `lane` ends up with.
__device__ __forceinline__ int reduced4(int lane, int log_lanes) { return lane >> (log_lanes - 2); }

}  // namespace fastgmtl::cuda
