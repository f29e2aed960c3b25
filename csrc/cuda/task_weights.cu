// task_weights on CUDA: the code of the CPU, by one thread, or by one for each task where a method is a sum over tasks.
#include "../common/task_weights.h"
#include "launch.cuh"
#include "warp.cuh"

namespace fastgmtl::cuda {
namespace {

struct Problems {
  TaskWeightsArgs args;
  double* memory;  // [K, doubles]
  int* sets;       // [K, workers, 2 T]
  int64_t doubles;
  int workers;  // threads that solve: T or 1
};

// Memory of a problem: the Gram matrix, the state and a scratch matrix [T, T] each, then that of each worker.
// Mapping. A block takes one problem. All threads copy the matrix into memory of the block; then thread i < T finds
// what task i contributes, or thread 0 the whole; then thread j < T writes weight j. Bytes: 8 T^2, little; what counts
// is the latency of one thread.
__global__ void __launch_bounds__(kBlock) task_weights_kernel(Problems job) {
  const int n = static_cast<int>(job.args.tasks), square = n * n, thread = static_cast<int>(threadIdx.x);
  const int64_t problem = blockIdx.x;
  double* const gram = job.memory + problem * job.doubles;
  double* const state = gram + square;
  double* const scratch = state + square;
  for (int i = thread; i < square; i += kBlock) {
    gram[i] = load(job.args.gram + problem * square + i);
    if (job.args.state) state[i] = load(job.args.state + problem * square + i);
  }
  __syncthreads();
  double* const workers = scratch + square;
  const bool sum = by_task(job.args.method);
  if (thread < job.workers) {
    const Work work(workers + thread * Work::doubles(n), job.sets + (problem * job.workers + thread) * 2 * n, n);
    if (sum)
      contribution(job.args, gram, state + thread * n, thread, work);
    else
      whole(job.args, gram, work.v, scratch, work);
  }
  __syncthreads();
  for (int j = thread; j < n; j += kBlock) {
    double total = 0;
    for (int i = 0; i < job.workers; ++i) total += Work(workers + i * Work::doubles(n), job.sets, n).v[j];
    store_one(total, job.args.out + problem * n + j);
  }
  if (job.args.state)
    for (int i = thread; i < square; i += kBlock) store_one(state[i], job.args.state + problem * square + i);
}

}  // namespace

void task_weights(const TaskWeightsArgs& args, int device) {
  const DeviceGuard guard(device);
  const int64_t n = args.tasks;
  Problems job{};
  job.args = args;
  job.workers = by_task(args.method) ? static_cast<int>(n) : 1;
  job.doubles = 3 * n * n + job.workers * Work::doubles(n);
  const int64_t bytes = args.problems * job.doubles * static_cast<int64_t>(sizeof(double));
  const int64_t sets = args.problems * job.workers * 2 * n * static_cast<int64_t>(sizeof(int));
  const Workspace work(bytes + sets, device, static_cast<cudaStream_t>(args.stream));
  job.memory = work.at<double>(0), job.sets = work.at<int>(bytes);
  launch("task_weights", task_weights_kernel, args.problems, 1, args.stream, job);
}

}  // namespace fastgmtl::cuda
