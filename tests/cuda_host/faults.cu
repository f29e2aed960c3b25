// Kernels with one fault each, and one without: what the host execution must report, and must not.
#include "cuda/launch.cuh"
#include "cuda/warp.cuh"

namespace {

using fastgmtl::cuda::kBlock;
using fastgmtl::cuda::load;
using fastgmtl::cuda::Shared;
using fastgmtl::cuda::store_one;

struct Data {
  const int* in;  // [256], read only
  int* out;       // [256]
};

__global__ void barrier_not_reached(Data) {
  if (threadIdx.x < 64) __syncthreads();
}
__global__ void barrier_missed_by_one(Data) {
  for (unsigned i = 0; i < (threadIdx.x == 7 ? 2 : 3); ++i) __syncthreads();
}
__global__ void barriers_in_two_places(Data) {
  if (threadIdx.x < 64)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void shuffle_divergent(Data data) {
  int value = load(data.in);
  if (threadIdx.x % 32 < 16) value = __shfl_xor_sync(0xffffffffu, value, 1);
  store_one(value, data.out + blockIdx.x * kBlock + threadIdx.x);
}
__global__ void shuffle_with_two_masks(Data) {
  __shfl_xor_sync(threadIdx.x % 32 < 16 ? 0xffffffffu : 0xffff0000u, 1, 1);
}
__global__ void shuffle_from_outside_of_the_mask(Data) {
  __shfl_xor_sync(threadIdx.x % 32 < 16 ? 0x0000ffffu : 0xffff0000u, 1, 16);
}
__global__ void shuffle_by_a_lane_not_in_the_mask(Data) { __shfl_xor_sync(0x0000ffffu, 1, 1); }
__global__ void shuffle_after_some_left(Data) {
  if (threadIdx.x % 32 == 31) return;
  __ballot_sync(0xffffffffu, 1);
}
__global__ void shared_never_written(Data) {
  __shared__ int memory[kBlock];
  const Shared<int> shared(memory);
  const int me = threadIdx.x;
  if (me != 5) shared.set(me, me);
  __syncthreads();
  shared.get(kBlock - 1 - me);
}
__global__ void shared_of_the_last_block(Data) {
  __shared__ int memory[kBlock];
  const Shared<int> shared(memory);
  const int me = threadIdx.x;
  if (blockIdx.x == 0) shared.set(me, me);
  __syncthreads();
  shared.get(me);
}
__global__ void shared_read_without_barrier(Data) {
  __shared__ int memory[kBlock];
  const Shared<int> shared(memory);
  const int me = threadIdx.x;
  shared.set(me, me);
  if (me > 0) shared.get(me - 1);
}
__global__ void shared_overwritten_without_barrier(Data) {
  __shared__ int memory[kBlock];
  const Shared<int> shared(memory);
  const int me = threadIdx.x;
  shared.set(me, me);
  __syncthreads();
  shared.get((me + 1) % kBlock);
  shared.set(me, 2 * me);
}
__global__ void shared_written_twice(Data) {
  __shared__ int memory[kBlock];
  Shared<int>(memory).set(threadIdx.x / 2, 1);
}
__global__ void shared_beyond_the_warp(Data) {
  __shared__ int memory[kBlock];
  const Shared<int> shared(memory);
  const int me = threadIdx.x;
  shared.set(me, me);
  __syncwarp();
  shared.get((me + 32) % kBlock);
}
__global__ void shared_out_of_bounds(Data) {
  __shared__ int memory[kBlock];
  Shared<int>(memory).set(static_cast<int>(threadIdx.x) + 1, 1);
}
__global__ void dynamic_shared_out_of_bounds(Data) {
  Shared<int>(cuda_host::dynamic_shared<int, kBlock>()).set(static_cast<int>(threadIdx.x) + 1, 1);
}
__global__ void dynamic_shared_larger_than_given(Data) { cuda_host::dynamic_shared<int, kBlock + 1>(); }
__global__ void global_read_out_of_bounds(Data data) {
  store_one(load(data.in + blockIdx.x * kBlock + threadIdx.x + 1), data.out + blockIdx.x * kBlock + threadIdx.x);
}
__global__ void global_read_before_the_start(Data data) { load(data.in - 1 + blockIdx.x * kBlock + threadIdx.x); }
__global__ void global_write_out_of_bounds(Data data) {
  store_one(1, data.out + blockIdx.x * kBlock + threadIdx.x + 1);
}
__global__ void global_misaligned(Data data) { load<4>(data.in + threadIdx.x); }
__global__ void global_input_written(Data data) { store_one(1, const_cast<int*>(data.in) + threadIdx.x); }
__global__ void global_written_twice(Data data) { store_one(1, data.out + threadIdx.x); }
__global__ void global_read_of_another_thread(Data data) {
  const int me = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
  store_one(1, data.out + me);
  if (me > 0) load(data.out + me - 1);
}
__global__ void global_never_written(Data data) { load(data.out + threadIdx.x); }
// Past the array by ordinary C++: AddressSanitizer's to find.
__global__ void plain_out_of_bounds(Data data) { data.out[256 + threadIdx.x] = 1; }

// out[i] = in[i] + sum of in over its block + lanes before i in its warp that have an odd index
__global__ void sound(Data data) {
  __shared__ int memory[4];
  const Shared<int> totals(memory), row(cuda_host::dynamic_shared<int, kBlock>());
  const int me = static_cast<int>(threadIdx.x), lane = me % 32;
  const int i = static_cast<int>(blockIdx.x) * kBlock + me, value = load(data.in + i);
  row.set(me, value);
  __syncwarp();
  int sum = 0;
  if (lane == 0)
    for (int k = 0; k < 32; ++k) sum += row.get(me + k);
  sum = __shfl_sync(0xffffffffu, sum, 0);
  int same = value;
  for (int step = 16; step > 0; step /= 2) same += __shfl_xor_sync(0xffffffffu, same, step);
  const int previous = __shfl_up_sync(0xffffffffu, lane, 1), next = __shfl_down_sync(0xffffffffu, lane, 1, 16);
  const bool right = sum == same && previous == (lane ? lane - 1 : 0) && next == (lane % 16 == 15 ? lane : lane + 1);
  if (lane == 0) totals.set(me / 32, sum);
  __syncthreads();
  for (int k = 0; k < 4; ++k)
    if (k != me / 32) sum += totals.get(k);
  const unsigned odd = __ballot_sync(0xffffffffu, lane % 2) & ((1u << lane) - 1);
  const bool votes = __any_sync(0xffffffffu, lane == 3) && !__all_sync(0xffffffffu, lane == 3);
  store_one(right && votes ? value + sum + __builtin_popcount(odd) : -1, data.out + i);
}

const std::map<std::string, void (*)(Data)> kernels = {
#define ENTRY(name) {#name, name}
    ENTRY(barrier_not_reached),
    ENTRY(barrier_missed_by_one),
    ENTRY(barriers_in_two_places),
    ENTRY(shuffle_divergent),
    ENTRY(shuffle_with_two_masks),
    ENTRY(shuffle_from_outside_of_the_mask),
    ENTRY(shuffle_by_a_lane_not_in_the_mask),
    ENTRY(shuffle_after_some_left),
    ENTRY(shared_never_written),
    ENTRY(shared_of_the_last_block),
    ENTRY(shared_read_without_barrier),
    ENTRY(shared_overwritten_without_barrier),
    ENTRY(shared_written_twice),
    ENTRY(shared_beyond_the_warp),
    ENTRY(shared_out_of_bounds),
    ENTRY(dynamic_shared_out_of_bounds),
    ENTRY(dynamic_shared_larger_than_given),
    ENTRY(global_read_out_of_bounds),
    ENTRY(global_read_before_the_start),
    ENTRY(global_write_out_of_bounds),
    ENTRY(global_misaligned),
    ENTRY(global_input_written),
    ENTRY(global_written_twice),
    ENTRY(global_read_of_another_thread),
    ENTRY(global_never_written),
    ENTRY(plain_out_of_bounds),
    ENTRY(sound),
};
std::string message;

}  // namespace

// Runs `name` with two blocks; null, or what was reported.
extern "C" const char* cuda_host_fault(const char* name, const int* in, int* out) {
  cuda_host::memory.add("in", in, 256 * sizeof(int), false);
  cuda_host::memory.add("out", out, 256 * sizeof(int), true);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(2);
  config.blockDim = dim3(kBlock);
  config.dynamicSmemBytes = kBlock * sizeof(int);
  const char* result = nullptr;
  try {
    fastgmtl::cuda::check(cudaLaunchKernelEx(&config, kernels.at(name), Data{in, out}), name);
  } catch (const std::exception& error) {
    result = (message = error.what()).c_str();
  }
  cuda_host::memory.allocations.clear();
  return result;
}
