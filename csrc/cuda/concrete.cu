// concrete on CUDA; csrc/contract/concrete.h says what it computes.
#include "../common/dispatch.h"
#include "../common/philox.h"
#include "batch.cuh"
#include "launch.h"
#include "softplus.cuh"

namespace fastgmtl::cuda {
namespace {

__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }

template <class S>
struct Concrete {
  using A = acc_t<S>;
  int64_t tasks, count;
  const S *logits, *v;
  const int64_t *src, *dst, *seed;
  int order;
  A most, scale, inverse;
  Derivative<A> derivative;
  S* out;
  int32_t* words;
  int64_t* row_ptr;

  explicit Concrete(const ConcreteArgs& args)
      : tasks(args.tasks),
        count(args.count),
        logits(static_cast<const S*>(args.logits)),
        v(static_cast<const S*>(args.v)),
        src(args.src),
        dst(args.dst),
        seed(args.seed),
        order(args.order),
        most(static_cast<A>(args.most)),
        scale(static_cast<A>(args.scale)),
        inverse(static_cast<A>(1 / args.temperature)),
        derivative(args.derivative),
        out(static_cast<S*>(args.out)),
        words(args.words),
        row_ptr(args.row_ptr) {}

  __device__ __forceinline__ A clamped(A l) const { return l > most ? most : (l < -most ? -most : l); }
  __device__ __forceinline__ static A number(uint32_t k) { return static_cast<A>(k) + A{0.5}; }
  // Component j % 4 of the counter (i, j / 4).
  __device__ __forceinline__ uint32_t drawn_number(int64_t i, int64_t j) const {
    uint32_t four[4];
    philox(static_cast<uint64_t>(load(seed)), i, j / 4, four);
    const uint32_t low = j & 1 ? four[1] : four[0], high = j & 1 ? four[3] : four[2];
    return j & 2 ? high : low;
  }
  __device__ __forceinline__ bool drawn(A l, uint32_t k) const {
    return number(k) < logistic(clamped(l)) * A{4294967296.0};
  }
  // The pair at `place`, from i to j.
  __device__ __forceinline__ void value(int64_t place, int64_t i, int64_t j, uint32_t k) const {
    const A l = widen(load(logits + place)), c = clamped(l);
    A found = 0;
    if (order == 0)
      found = drawn(l, k) ? A{1} : A{0};
    else if (l == c || l != l)
      found = derivative((c + log_of(number(~k)) - log_of(number(k))) * inverse) * scale * widen(load(v + place));
    S narrowed;
    narrow(i == j ? A{0} : found, narrowed);
    store_one(narrowed, out + place);
  }
};

// A thread takes the four pairs of one counter. Bytes: log-odds (and v) and the result, once.
template <class S>
__global__ void __launch_bounds__(kBlock) concrete_rows_kernel(Concrete<S> job) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x, quads = (job.tasks + 3) / 4;
  const int64_t i = thread / quads, j = thread % quads * 4;
  if (i >= job.tasks) return;
  uint32_t four[4];
  philox(static_cast<uint64_t>(load(job.seed)), i, j / 4, four);
#pragma unroll
  for (int part = 0; part < 4; ++part)
    if (j + part < job.tasks) job.value(i * job.tasks + j + part, i, j + part, four[part]);
}

// A thread takes one of the listed pairs.
template <class S>
__global__ void __launch_bounds__(kBlock) concrete_pairs_kernel(Concrete<S> job) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (place >= job.count) return;
  const int64_t i = load(job.src + place), j = load(job.dst + place);
  job.value(place, i, j, job.drawn_number(i, j));
}

// A warp takes 32 pairs of one row, a lane each, which vote. Bytes: log-odds once, a bit a pair.
template <class S>
__global__ void __launch_bounds__(kBlock) concrete_bits_kernel(Concrete<S> job) {
  const int lane = threadIdx.x & 31;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * (kBlock / 32) + (threadIdx.x >> 5);
  const int64_t words = (job.tasks + 31) / 32, i = warp / words, j = warp % words * 32 + lane;
  if (i >= job.tasks) return;
  bool there = false;
  if (j < job.tasks && i != j) there = job.drawn(widen(load(job.logits + i * job.tasks + j)), job.drawn_number(i, j));
  const unsigned bits = __ballot_sync(0xffffffffu, there);
  if (lane == 0) store_one(static_cast<int32_t>(bits), job.words + warp);
}

struct Edges {
  int64_t tasks, edges;
  const int32_t* words;
  const int64_t* row_ptr;
  Index col;       // to write, or
  int64_t* count;  // [T + 1] where edges are only counted

  __device__ __forceinline__ bool has(int64_t i, int64_t j) const {
    return static_cast<uint32_t>(load(words + i * ((tasks + 31) / 32) + j / 32)) >> (j & 31) & 1;
  }
};

// A thread goes through the bits of one task's column. Bytes: the words once; a warp reads each of them together.
__global__ void __launch_bounds__(kBlock) concrete_count_kernel(Edges job) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (j >= job.tasks) return;
  int64_t count = 0;
  for (int64_t i = 0; i < job.tasks; ++i) count += job.has(i, j);
  store_one(count, job.count + j + 1);
  if (j == 0) store_one(int64_t{0}, job.count);
}

// The same, and where the edges begin is written.
__global__ void __launch_bounds__(kBlock) concrete_fill_kernel(Edges job) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (j >= job.tasks) return;
  int64_t place = load(job.row_ptr + j);
  for (int64_t i = 0; i < job.tasks; ++i)
    if (job.has(i, j) && place >= 0 && place < job.edges) job.col.write(Pack<int64_t, 1>{{i}}, place++);
}

}  // namespace

void concrete(const ConcreteArgs& args, int device) {
  const DeviceGuard guard(device);
  of_dtype(args.dtype, [&](auto scalar) {
    using S = typename decltype(scalar)::type;
    const Concrete<S> job(args);
    if (args.src)
      return launch("concrete_pairs", concrete_pairs_kernel<S>, ceil_div(args.count, kBlock), 1, args.stream, job);
    const int64_t threads = args.tasks * ceil_div(args.tasks, 4);
    launch("concrete_rows", concrete_rows_kernel<S>, ceil_div(threads, kBlock), 1, args.stream, job);
  });
}

void concrete_draw(const ConcreteArgs& args, int device) {
  const DeviceGuard guard(device);
  const int64_t warps = args.tasks * ceil_div(args.tasks, 32);
  of_dtype(args.dtype, [&](auto scalar) {
    using S = typename decltype(scalar)::type;
    launch("concrete_bits", concrete_bits_kernel<S>, ceil_div(warps, kBlock / 32), 1, args.stream, Concrete<S>(args));
  });
  launch("concrete_count", concrete_count_kernel, ceil_div(args.tasks, kBlock), 1, args.stream,
         Edges{args.tasks, 0, args.words, nullptr, Index{}, args.row_ptr});
}

void concrete_edges(const ConcreteEdgesArgs& args, int device) {
  const DeviceGuard guard(device);
  launch("concrete_fill", concrete_fill_kernel, ceil_div(args.tasks, kBlock), 1, args.stream,
         Edges{args.tasks, args.edges, args.words, args.row_ptr, Index{args.col, args.wide_index}, nullptr});
}

}  // namespace fastgmtl::cuda
