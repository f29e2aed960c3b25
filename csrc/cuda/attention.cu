// attention on CUDA; csrc/contract/attention.h says what it computes.
//
// Softmax is of K numbers an edge and the rest of T * d, so it is done by kernels of its own, which leave the weights
// [E, K] in a workspace: 2 / d of what the rows of values are. The weighted sum is spmm, and the backward's products
// and sums are spmm_backward, with what they do for long rows. In half precision, where spmm_backward would round the
// products, of which small differences matter, they have a kernel of their own.
#include <cmath>
#include <type_traits>

#include "../common/dispatch.h"
#include "../common/philox.h"
#include "launch.h"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }

constexpr int kLogLanes = 3, kLanes = 1 << kLogLanes;  // of the group that takes a row or piece, in all kernels here

template <class S>
struct Job {
  using A = acc_t<S>;
  const int64_t* row_ptr;
  Index col, edge_id, edge_type;
  Split split;
  const S *dst, *src, *type, *edge;
  int64_t rows, edges, heads, width, types;
  A slope, kept;
  const int64_t* seed;
  uint32_t threshold;  // of dropout; 0: none
  bool drop_logits;
  double* lse;
  A *top, *total;          // [pieces, K]
  S* weights;              // [E, K]
  const S *g, *y, *value;  // backward
  const double* g_lse;
  A* slack;       // [rows, K]
  A* dots;        // [E, K]
  A* d_edge;      // [E, K]
  A* partial;     // [pieces, K], or of types [chunks, types, K]
  S* out;         // [rows, K] or [types, K]
  int log_lanes;  // of the products

  explicit Job(const AttentionArgs& args)
      : row_ptr(args.row_ptr),
        col{const_cast<void*>(args.col), args.wide_index},
        edge_id{const_cast<void*>(args.edge_id), args.wide_index},
        edge_type{const_cast<void*>(args.edge_type), args.wide_index},
        split{},
        dst(static_cast<const S*>(args.dst)),
        src(static_cast<const S*>(args.src)),
        type(static_cast<const S*>(args.type)),
        edge(static_cast<const S*>(args.edge)),
        rows(args.rows),
        edges(args.edges),
        heads(args.heads),
        width(args.width),
        types(args.types),
        slope(static_cast<A>(args.slope)),
        kept(static_cast<A>(1 / (1 - args.dropout))),
        seed(args.seed),
        threshold(dropout_threshold(args.dropout)),
        drop_logits(args.drop_logits),
        lse(args.lse) {}

  __device__ __forceinline__ int64_t id(int64_t e) const { return edge_id ? edge_id[e] : e; }
};

// Of H heads of an edge: the logit, its derivative by z, and what dropout multiplies the weight by.
template <class A, int H>
struct Logits {
  A l[H], slope[H], kept[H];
};

// `k` is the first of the H heads; H is 4 for multiples of 4 only, so that one Philox counter serves them.
template <class S, int H>
__device__ __forceinline__ Logits<acc_t<S>, H> logits(const Job<S>& job, int64_t row, int64_t e, int64_t id,
                                                      int64_t k) {
  using A = acc_t<S>;
  Logits<A, H> out;
  Pack<S, H> near{}, far{}, kind{}, own{};
  bool known = true;
  if (job.dst) near = load<H>(job.dst + row * job.heads + k);
  if (job.src) far = load<H>(job.src + job.col[e] * job.heads + k);
  if (job.type) {
    const int64_t t = job.edge_type[id];
    known = static_cast<uint64_t>(t) < static_cast<uint64_t>(job.types);
    if (known) kind = load<H>(job.type + t * job.heads + k);
  }
  if (job.edge) own = load<H>(job.edge + id * job.heads + k);
  uint32_t numbers[4] = {};
  if (job.threshold) philox(static_cast<uint64_t>(load(job.seed)), id, k / 4, numbers);
#pragma unroll
  for (int h = 0; h < H; ++h) {
    A z = widen(near.item[h]) + widen(far.item[h]);
    if (job.type) z += known ? widen(kind.item[h]) : static_cast<A>(NAN);
    if (job.edge) z += widen(own.item[h]);
    const uint32_t number = H == 4 ? numbers[h] : numbers[k % 4];
    const A kept = !job.threshold ? A{1} : number < job.threshold ? A{0} : job.kept;
    out.slope[h] = z > A{0} ? A{1} : job.slope;
    out.l[h] = z > A{0} ? z : z * job.slope;
    out.kept[h] = A{1};
    if (!job.drop_logits) {
      out.kept[h] = kept;
    } else if (job.threshold) {
      out.l[h] = kept > A{0} ? out.l[h] * kept : A{0};
      out.slope[h] *= kept;
    }
  }
  return out;
}

// Adds `total` relative to the maximum `top` to what is there.
template <class A>
__device__ __forceinline__ void merge(A& top, A& total, A other_top, A other_total) {
  const A most = top > other_top ? top : other_top;
  if (most == static_cast<A>(-INFINITY)) {
    total += other_total;
  } else {
    total = total * exponential(top - most) + other_total * exponential(other_top - most);
    top = most;
  }
}

template <class A>
__device__ __forceinline__ double lse_of(A top, A total) {
  return total == A{0} ? 0.0 : static_cast<double>(top) + static_cast<double>(logarithm(total));
}

__device__ __forceinline__ int64_t group_of_thread() {
  return static_cast<int64_t>(blockIdx.x) * (kBlock >> kLogLanes) + (threadIdx.x >> kLogLanes);
}

// Mapping. A group of 8 lanes takes a row or piece (split.cuh) and H heads (blockIdx.y: further ones); lane l takes the
// edges l, l + 8, ... and keeps their maximum and the sum of exponentials relative to it; lanes are merged pairwise.
// Bytes: an index and the scores of the other end (of the type, of the edge) per edge; lse per row.
template <class S, int H>
__global__ void __launch_bounds__(kBlock) attention_stats_kernel(Job<S> job) {
  using A = acc_t<S>;
  const int lane = threadIdx.x & (kLanes - 1);
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group_of_thread(), range)) return;
  const int64_t k = static_cast<int64_t>(blockIdx.y) * H;
  A top[H], total[H];
#pragma unroll
  for (int h = 0; h < H; ++h) top[h] = static_cast<A>(-INFINITY), total[h] = A{0};
  for (int64_t e = range.begin + lane; e < range.end; e += kLanes) {
    const Logits<A, H> of = logits<S, H>(job, range.row, e, job.id(e), k);
#pragma unroll
    for (int h = 0; h < H; ++h) {
      if (of.l[h] > top[h]) {
        total[h] = total[h] * exponential(top[h] - of.l[h]) + A{1};
        top[h] = of.l[h];
      } else if (of.l[h] != static_cast<A>(-INFINITY)) {
        total[h] += exponential(of.l[h] - top[h]);
      }
    }
  }
  const unsigned mask = group_mask(kLogLanes);
#pragma unroll
  for (int h = 0; h < H; ++h) {
    for (int step = kLanes / 2; step > 0; step >>= 1) {
      const A other_top = __shfl_xor_sync(mask, top[h], step), other = __shfl_xor_sync(mask, total[h], step);
      merge(top[h], total[h], other_top, other);
    }
    if (lane) continue;
    if (range.piece < 0) {
      store_one(lse_of(top[h], total[h]), job.lse + range.row * job.heads + k + h);
    } else {
      store_one(top[h], job.top + range.piece * job.heads + k + h);
      store_one(total[h], job.total + range.piece * job.heads + k + h);
    }
  }
}

// A thread takes a head of the long row whose first piece is its own, and merges the pieces in order.
template <class S>
__global__ void __launch_bounds__(kBlock) attention_merge_kernel(Job<S> job) {
  using A = acc_t<S>;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  const int64_t first = at / job.heads, k = at % job.heads;
  if (first >= job.split.pieces) return;
  const int64_t row = load(job.split.row_of + first);
  if (row < 0 || (first > 0 && load(job.split.row_of + first - 1) == row)) return;
  const int64_t last = (load(job.row_ptr + row + 1) - 1) / job.split.length;
  A top = static_cast<A>(-INFINITY), total{};
  for (int64_t piece = first; piece <= last; ++piece)
    merge(top, total, load(job.top + piece * job.heads + k), load(job.total + piece * job.heads + k));
  store_one(lse_of(top, total), job.lse + row * job.heads + k);
}

// Mapping as of the stats. Forward: weights; Backward: from dot products, the gradients of z.
// Bytes: those of the stats, and K numbers written (one read) per edge.
template <class S, int H, bool Backward>
__global__ void __launch_bounds__(kBlock) attention_edges_kernel(Job<S> job) {
  using A = acc_t<S>;
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group_of_thread(), range)) return;
  const int64_t k = static_cast<int64_t>(blockIdx.y) * H, row_at = range.row * job.heads + k;
  A high[H], low[H], slack[H];
#pragma unroll
  for (int h = 0; h < H; ++h) {
    const double lse = load(job.lse + row_at + h);
    high[h] = static_cast<A>(lse), low[h] = static_cast<A>(lse - static_cast<double>(high[h]));
    slack[h] = Backward ? load(job.slack + row_at + h) : A{0};
  }
  for (int64_t e = range.begin + (threadIdx.x & (kLanes - 1)); e < range.end; e += kLanes) {
    const int64_t id = job.id(e), at = id * job.heads + k;
    const Logits<A, H> of = logits<S, H>(job, range.row, e, id, k);
    Pack<S, H> weight;
    Pack<A, H> gradient, dot{};
    if constexpr (Backward) dot = load<H>(job.dots + at);
#pragma unroll
    for (int h = 0; h < H; ++h) {
      const A p = exponential((of.l[h] - high[h]) - low[h]);
      if constexpr (Backward)
        gradient.item[h] = (dot.item[h] * of.kept[h] - slack[h]) * p * of.slope[h];
      else
        narrow(p * of.kept[h], weight.item[h]);
    }
    if constexpr (Backward)
      store(gradient, job.d_edge + at);
    else
      store(weight, job.weights + at);
  }
}

// <g, y> - g_lse of a row and head, by a group of 8 lanes; V elements at a time. Bytes: g and y once.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) attention_slack_kernel(Job<S> job) {
  using A = acc_t<S>;
  const int64_t at = group_of_thread();
  if (at >= job.rows * job.heads) return;
  const int lane = threadIdx.x & (kLanes - 1);
  A dot{};
  for (int64_t c = lane * V; c < job.width; c += kLanes * V) {
    const Pack<S, V> left = load<V>(job.g + at * job.width + c), right = load<V>(job.y + at * job.width + c);
#pragma unroll
    for (int v = 0; v < V; ++v) dot += widen(left.item[v]) * widen(right.item[v]);
  }
  for (int step = kLanes / 2; step > 0; step >>= 1) dot += __shfl_xor_sync(group_mask(kLogLanes), dot, step);
  if (lane == 0) store_one(job.g_lse ? static_cast<A>(dot - load(job.g_lse + at)) : dot, job.slack + at);
}

// Products <g, value> of the ends of each edge. A group of G = 2^log_lanes lanes (4 to 32) takes one row or piece; for
// each head lane l takes the vectors l, l + G, ... of V elements; four edges are in flight (reduce4).
// Bytes: per edge, two indices, K results, the row of value; per row 8 and the row of g.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) attention_dots_kernel(Job<S> job) {
  using A = acc_t<S>;
  constexpr int U = 4;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group, range)) return;
  const int mine = reduced4(lane, job.log_lanes);  // of the four edges, the one whose result this lane gets
  for (int64_t edge = range.begin; edge < range.end; edge += U) {
    int64_t node[U];
#pragma unroll
    for (int u = 0; u < U; ++u) node[u] = edge + u < range.end ? job.col[edge + u] : -1;
    const bool writes = (lane & (lanes / U - 1)) == 0 && edge + mine < range.end;
    const int64_t to = writes ? job.id(edge + mine) * job.heads : 0;
    for (int64_t k = 0; k < job.heads; ++k) {
      A dot[U] = {};
      for (int64_t c = static_cast<int64_t>(lane) * V; c < job.width; c += static_cast<int64_t>(lanes) * V) {
        const Pack<S, V> left = load<V>(job.g + (range.row * job.heads + k) * job.width + c);
#pragma unroll
        for (int u = 0; u < U; ++u) {
          if (node[u] < 0) continue;
          const Pack<S, V> right = load<V>(job.value + (node[u] * job.heads + k) * job.width + c);
#pragma unroll
          for (int v = 0; v < V; ++v) dot[u] += widen(left.item[v]) * widen(right.item[v]);
        }
      }
      const A result = reduce4(dot, lane, job.log_lanes);
      if (writes) store_one(result, job.dots + to + k);
    }
  }
}

// Sums of d_edge over the edges of a row; mapping as of the stats. Bytes: d_edge once, an index per edge.
template <class S, int H>
__global__ void __launch_bounds__(kBlock) attention_sum_kernel(Job<S> job) {
  using A = acc_t<S>;
  const int lane = threadIdx.x & (kLanes - 1);
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group_of_thread(), range)) return;
  const int64_t k = static_cast<int64_t>(blockIdx.y) * H;
  A total[H] = {};
  for (int64_t e = range.begin + lane; e < range.end; e += kLanes) {
    const Pack<A, H> own = load<H>(job.d_edge + job.id(e) * job.heads + k);
#pragma unroll
    for (int h = 0; h < H; ++h) total[h] += own.item[h];
  }
#pragma unroll
  for (int h = 0; h < H; ++h) {
    for (int step = kLanes / 2; step > 0; step >>= 1)
      total[h] += __shfl_xor_sync(group_mask(kLogLanes), total[h], step);
    if (lane) continue;
    S narrowed;
    narrow(total[h], narrowed);
    if (range.piece < 0)
      store_one(narrowed, job.out + range.row * job.heads + k + h);
    else
      store_one(total[h], job.partial + range.piece * job.heads + k + h);
  }
}

constexpr int kEach = 16, kChunk = kBlock * kEach;  // edges of a thread and of a block, for types

// A block takes a chunk of edges of one head (blockIdx.y); a thread keeps its edges in registers and, for each type,
// adds up those that have it; warps by shuffles, then in order. Bytes: d_edge and types once; cost in proportion to the
// number of types, which is small.
template <class S>
__global__ void __launch_bounds__(kBlock) attention_types_kernel(Job<S> job) {
  using A = acc_t<S>;
  constexpr int kWarps = kBlock / 32;
  __shared__ A memory[kWarps];
  const Shared<A> sums(memory);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kChunk + threadIdx.x, k = blockIdx.y;
  A own[kEach];
  int64_t kind[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t e = first + static_cast<int64_t>(i) * kBlock;
    const bool live = e < job.edges;
    kind[i] = live ? job.edge_type[e] : -1;
    own[i] = live ? load(job.d_edge + e * job.heads + k) : A{0};
  }
  for (int64_t t = 0; t < job.types; ++t) {
    A total{};
#pragma unroll
    for (int i = 0; i < kEach; ++i) total += kind[i] == t ? own[i] : A{0};
    for (int step = 16; step > 0; step >>= 1) total += __shfl_xor_sync(0xffffffffu, total, step);
    if (threadIdx.x % 32 == 0) sums.set(threadIdx.x / 32, total);
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int warp = 1; warp < kWarps; ++warp) total += sums.get(warp);
      store_one(total, job.partial + (blockIdx.x * job.types + t) * job.heads + k);
    }
    __syncthreads();
  }
}

// A thread adds the chunks of one type and head, in order.
template <class S>
__global__ void __launch_bounds__(kBlock) attention_types_total_kernel(Job<S> job) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x, size = job.types * job.heads;
  if (at >= size) return;
  acc_t<S> total{};
  for (int64_t chunk = 0; chunk * kChunk < job.edges; ++chunk) total += load(job.partial + chunk * size + at);
  S narrowed;
  narrow(total, narrowed);
  store_one(narrowed, job.out + at);
}

// ---------------------------------------------------------------------------------------------------------- launches

// The pattern as the other operators take it: K tasks.
EdgeArgs edges_of(const AttentionArgs& args) {
  EdgeArgs edges{};
  edges.row_ptr = args.row_ptr, edges.col = args.col, edges.edge_id = args.edge_id;
  edges.rows = args.rows, edges.cols = args.cols, edges.edges = args.edges;
  edges.wide_index = args.wide_index, edges.dtype = args.dtype;
  edges.tasks = args.heads, edges.width = args.width;
  edges.threads = args.threads, edges.stream = args.stream;
  return edges;
}

EdgeArgs transposed(const AttentionBackwardArgs& args) {
  EdgeArgs edges = edges_of(args);
  edges.row_ptr = args.back_ptr, edges.col = args.back_col, edges.edge_id = args.back_id;
  edges.rows = args.cols, edges.cols = args.rows;
  return edges;
}

// Whether four heads at a time can be loaded.
bool by_four(const AttentionArgs& args) {
  return args.heads % 4 == 0 && aligned16({args.dst, args.src, args.type, args.edge});
}

template <class S>
void by_rows(const char* name, void (*four)(Job<S>), void (*one)(Job<S>), const Job<S>& job, bool fours, void* stream) {
  launch(name, fours ? four : one, blocks_for(job.split, job.rows, kLogLanes), fours ? job.heads / 4 : job.heads,
         stream, job);
}

// [rows, K] sums of d_edge over the rows of a pattern.
template <class S>
void sum_edges(Job<S> job, const EdgeArgs& edges, void* out, bool fours, int device) {
  using A = acc_t<S>;
  const SplitWorkspace work(edges, edges.tasks * static_cast<int64_t>(sizeof(A)), device);
  job.split = work.split;
  job.row_ptr = edges.row_ptr, job.rows = edges.rows;
  job.edge_id = {const_cast<void*>(edges.edge_id), edges.wide_index};
  job.partial = work.template partial<A>();
  job.out = static_cast<S*>(out);
  by_rows("attention_sum", attention_sum_kernel<S, 4>, attention_sum_kernel<S, 1>, job, fours, edges.stream);
  if (work.split.pieces)
    combine(edges.dtype,
            {work.split, edges.row_ptr, edges.tasks, job.partial, nullptr, nullptr, job.edge_id, Index{}, out, false},
            edges.stream);
}

// [types, K] sums of d_edge.
template <class S>
void sum_types(Job<S> job, const AttentionBackwardArgs& args, int device) {
  using A = acc_t<S>;
  const int64_t chunks = ceil_div(args.edges, kChunk), size = args.types * args.heads;
  const Workspace memory(chunks * size * static_cast<int64_t>(sizeof(A)), device,
                         static_cast<cudaStream_t>(args.stream));
  job.partial = memory.at<A>(0);
  job.out = static_cast<S*>(args.d_type);
  launch("attention_types", attention_types_kernel<S>, chunks, args.heads, args.stream, job);
  launch("attention_types_total", attention_types_total_kernel<S>, ceil_div(size, kBlock), 1, args.stream, job);
}

}  // namespace

void attention(const AttentionArgs& args, int device) {
  const DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(args.stream);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    using A = acc_t<S>;
    const EdgeArgs edges = edges_of(args);
    const int64_t size = args.heads * static_cast<int64_t>(sizeof(A));
    const SplitWorkspace work(edges, 2 * size, device);
    const Workspace weights(args.edges * args.heads * static_cast<int64_t>(sizeof(S)), device, stream);
    Job<S> job(args);
    job.split = work.split;
    job.top = work.template partial<A>(), job.total = work.template partial<A>(work.split.pieces * size);
    job.weights = weights.template at<S>(0);
    const bool fours = by_four(args);
    by_rows("attention_stats", attention_stats_kernel<S, 4>, attention_stats_kernel<S, 1>, job, fours, args.stream);
    launch("attention_merge", attention_merge_kernel<S>, ceil_div(work.split.pieces * args.heads, kBlock), 1,
           args.stream, job);
    by_rows("attention_weights", attention_edges_kernel<S, 4, false>, attention_edges_kernel<S, 1, false>, job, fours,
            args.stream);
    SpmmArgs sum{};
    static_cast<EdgeArgs&>(sum) = edges;
    sum.x = args.value, sum.w = job.weights, sum.y = args.y;
    sum.x_per_task = sum.y_per_task = true;
    sum.reduce = Reduce::Sum;
    if (args.width) spmm(sum, device);
  });
}

void attention_backward(const AttentionBackwardArgs& args, int device) {
  const DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(args.stream);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    using A = acc_t<S>;
    constexpr int V = 16 / sizeof(S);
    const EdgeArgs edges = edges_of(args), back = transposed(args);
    const SplitWorkspace work(edges, 0, device);
    const int64_t count = args.edges * args.heads, bytes = ceil_div(count * sizeof(S), 16) * 16;
    const bool scores = args.d_edge || args.d_src;
    const Workspace memory(bytes + count * static_cast<int64_t>(sizeof(A)), device, stream);
    const Workspace gradients(scores && !args.d_edge ? count * static_cast<int64_t>(sizeof(A)) : 0, device, stream);
    const Workspace slack(scores ? args.rows * args.heads * static_cast<int64_t>(sizeof(A)) : 0, device, stream);
    Job<S> job(args);
    job.split = work.split;
    job.weights = memory.template at<S>(0), job.dots = memory.template at<A>(bytes);
    job.d_edge = args.d_edge ? static_cast<A*>(args.d_edge) : gradients.template at<A>(0);
    job.slack = slack.template at<A>(0);
    job.g = static_cast<const S*>(args.g), job.y = static_cast<const S*>(args.y), job.g_lse = args.g_lse;
    const bool fours = by_four(args) && aligned16({job.d_edge, args.d_dst, args.d_src});
    by_rows("attention_weights", attention_edges_kernel<S, 4, false>, attention_edges_kernel<S, 1, false>, job, fours,
            args.stream);
    const bool whole = args.width % V == 0 && aligned16({args.g, args.y, args.value});
    if (std::is_same_v<S, A> && scores) {
      SddmmArgs products{};
      static_cast<EdgeArgs&>(products) = back;
      products.a = args.value, products.b = args.g, products.w = job.weights;
      products.y = args.d_value, products.out = job.dots;
      products.a_per_task = products.b_per_task = true;
      sddmm(products, device);
    } else if (args.width) {
      SpmmArgs sum{};
      static_cast<EdgeArgs&>(sum) = back;
      sum.x = args.g, sum.w = job.weights, sum.y = args.d_value;
      sum.x_per_task = sum.y_per_task = true;
      sum.reduce = Reduce::Sum;
      spmm(sum, device);
    }
    if (!scores) return;
    if constexpr (!std::is_same_v<S, A>) {
      job.value = static_cast<const S*>(args.value);
      job.log_lanes = log_lanes_for(ceil_div(args.width, whole ? V : 1), 2);
      launch("attention_dots", whole ? attention_dots_kernel<S, V> : attention_dots_kernel<S, 1>,
             blocks_for(job.split, args.rows, job.log_lanes), 1, args.stream, job);
    }
    launch("attention_slack", whole ? attention_slack_kernel<S, V> : attention_slack_kernel<S, 1>,
           ceil_div(args.rows * args.heads, kBlock >> kLogLanes), 1, args.stream, job);
    by_rows("attention_gradients", attention_edges_kernel<S, 4, true>, attention_edges_kernel<S, 1, true>, job, fours,
            args.stream);
    if (args.d_dst) sum_edges(job, edges, args.d_dst, fours, device);
    if (args.d_src) sum_edges(job, back, args.d_src, fours, device);
    if (args.d_type) sum_types(job, args, device);
  });
}

}  // namespace fastgmtl::cuda
