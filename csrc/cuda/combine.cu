// combine on CUDA; csrc/contract/gram.h says what it computes.
#include "batch.cuh"

namespace fastgmtl::cuda {
namespace {

struct Mix {
  Batch batch;
  int rows, sums;         // of the matrix, of the result
  const double* weights;  // [K, sums, rows]
  bool accumulate;
};

// Mapping. A block takes one piece of result blockIdx.y; a thread every kBlock-th group of V elements, which it adds
// over all rows in registers.
// Bytes: every row once for each result, the result once (twice to add to it).
template <class S, int V>
__global__ void __launch_bounds__(kBlock) mix_kernel(const __grid_constant__ Mix job) {
  using A = acc_t<S>;
  const Batch& batch = job.batch;
  const int piece = static_cast<int>(blockIdx.x), result = static_cast<int>(blockIdx.y), part = batch.part_of(piece);
  const void* const* rows = batch.row + part * batch.per_part;
  S* const out = const_cast<S*>(static_cast<const S*>(rows[job.rows + result]));
  const double* const weights = job.weights + (static_cast<int64_t>(batch.group[part]) * job.sums + result) * job.rows;
  const int64_t begin = static_cast<int64_t>(piece - batch.first_piece[part]) * batch.piece;
  const int64_t rest = batch.numel[part] - begin, end = begin + (rest < batch.piece ? rest : batch.piece);
  const auto mix = [&](int64_t c, auto lanes) {
    constexpr int N = decltype(lanes)::value;
    A sum[N];
    Pack<S, N> before{};
    if (job.accumulate) before = load<N>(out + c);
#pragma unroll
    for (int v = 0; v < N; ++v) sum[v] = widen(before.item[v]);
    for (int t = 0; t < job.rows; ++t) {
      const S* const row = static_cast<const S*>(rows[t]);
      if (!row) continue;
      const A weight = static_cast<A>(load(weights + t));
      const Pack<S, N> value = load<N>(row + c);
#pragma unroll
      for (int v = 0; v < N; ++v) sum[v] += weight * widen(value.item[v]);
    }
    Pack<S, N> after;
#pragma unroll
    for (int v = 0; v < N; ++v) narrow(sum[v], after.item[v]);
    store(after, out + c);
  };
  const int64_t whole = begin + (end - begin) / V * V;
  for (int64_t c = begin + static_cast<int64_t>(threadIdx.x) * V; c < whole; c += kBlock * V) mix(c, Lanes<V>{});
  if constexpr (V > 1)
    for (int64_t c = whole + threadIdx.x; c < end; c += kBlock) mix(c, Lanes<1>{});
}

}  // namespace

void combine(const CombineArgs& args, int device) {
  const DeviceGuard guard(device);
  constexpr int64_t kPiece = 4096;
  const std::vector<const void*> out(args.out.begin(), args.out.end());
  for_batches(args, out, kPiece, [&](const Batch& batch, DType dtype, bool aligned) {
    Mix job{};
    job.batch = batch;
    job.rows = static_cast<int>(args.rows_a), job.sums = static_cast<int>(args.rows_b);
    job.weights = args.weights, job.accumulate = args.accumulate;
    of_dtype(dtype, [&](auto scalar) {
      using S = typename decltype(scalar)::type;
      constexpr int V = 16 / sizeof(S);
      launch("combine", aligned ? mix_kernel<S, V> : mix_kernel<S, 1>, batch.first_piece[batch.parts], job.sums,
             args.stream, job);
    });
  });
}

}  // namespace fastgmtl::cuda
