// gather_relu and gather_relu_backward on CUDA; csrc/contract/gather_relu.h says what they compute.
#include "../common/dispatch.h"
#include "launch.h"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

constexpr int kSamples = 8;  // of an edge, that one group takes

template <class S>
struct GatherRelu {
  using A = acc_t<S>;
  const int64_t* row_ptr;
  Index col, edge_id;
  Split split;
  int64_t rows, edges, samples, width;
  const S *h, *s, *t, *at_h, *at_s, *at_t, *g;
  S* out;      // of the edges, or of what is summed for
  A* partial;  // [pieces, d] or [chunks, B, d]
  int64_t chunk;
  int log_lanes;
  bool relu;

  explicit GatherRelu(const GatherReluArgs& args)
      : row_ptr(args.row_ptr),
        col{const_cast<void*>(args.col), args.wide_index},
        edge_id{const_cast<void*>(args.edge_id), args.wide_index},
        split{},
        rows(args.rows),
        edges(args.edges),
        samples(args.samples),
        width(args.width),
        h(static_cast<const S*>(args.h)),
        s(static_cast<const S*>(args.s)),
        t(static_cast<const S*>(args.t)),
        at_h(static_cast<const S*>(args.at_h)),
        at_s(static_cast<const S*>(args.at_s)),
        at_t(static_cast<const S*>(args.at_t)),
        g(nullptr),
        out(static_cast<S*>(args.out)),
        partial(nullptr),
        chunk(0),
        log_lanes(0),
        relu(args.is_relu()) {}

  __device__ __forceinline__ int64_t id(int64_t e) const { return edge_id ? edge_id[e] : e; }
  // The row that has the edge at `e`.
  __device__ __forceinline__ int64_t row_of(int64_t e) const {
    int64_t low = 0, high = rows;  // row_ptr[low] <= e < row_ptr[high]
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      if (load(row_ptr + middle) <= e)
        low = middle;
      else
        high = middle;
    }
    return low;
  }
};

// V elements of left + right, of which null is 0.
template <int V, class S>
__device__ __forceinline__ Pack<acc_t<S>, V> sum_of(const S* left, const S* right) {
  Pack<acc_t<S>, V> out{};
  for (const S* const from : {left, right}) {
    if (!from) continue;
    const Pack<S, V> value = load<V>(from);
#pragma unroll
    for (int v = 0; v < V; ++v) out.item[v] += widen(value.item[v]);
  }
  return out;
}

// Mapping. A group of G = 2^log_lanes lanes (1 to 32) takes kSamples rows of one edge (blockIdx.y: which ones), lane l
// the vectors l, l + G, ... of 16 bytes (or one element where d is no multiple). Bytes: the output once; per group a
// bisection of row_ptr, both ends once and the rows of its samples from the cache.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) gather_relu_edges_kernel(GatherRelu<S> job) {
  using A = acc_t<S>;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t edge = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  if (edge >= job.edges) return;
  const int64_t dst = job.row_of(edge) * job.width, src = job.col[edge] * job.width;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kSamples, last = begin + kSamples;
  const int64_t end = last < job.samples ? last : job.samples;
  S* const out = job.out + job.id(edge) * job.samples * job.width;
  for (int64_t c = static_cast<int64_t>(lane) * V; c < job.width; c += static_cast<int64_t>(lanes) * V) {
    const Pack<A, V> at_ends = sum_of<V>(job.at_s + src + c, job.at_t + dst + c);
    Pack<A, V> ends{};
    if (!job.relu) ends = sum_of<V>(job.s ? job.s + src + c : nullptr, job.t ? job.t + dst + c : nullptr);
    for (int64_t b = begin; b < end; ++b) {
      const Pack<S, V> at_sample = load<V>(job.at_h + b * job.width + c);
      Pack<S, V> sample{};
      if (!job.relu && job.h) sample = load<V>(job.h + b * job.width + c);
      Pack<S, V> narrowed;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const A at = widen(at_sample.item[v]) + at_ends.item[v];
        const A value = job.relu ? at : widen(sample.item[v]) + ends.item[v];
        narrow(at <= A{0} ? A{0} : value, narrowed.item[v]);
      }
      store(narrowed, out + b * job.width + c);
    }
  }
}

// A group takes a row or piece (split.cuh) and G vectors of columns (blockIdx.y: further ones), and goes through all
// samples of its edges. Read transposed, its rows are the sources: `at_t` is that of rows, `at_s` that of columns.
// Bytes: g once, per edge two indices and the far row, the rows of the samples from the cache.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) gather_relu_rows_kernel(GatherRelu<S> job) {
  using A = acc_t<S>;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * lanes + lane) * V;
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group, range) || column >= job.width) return;
  Pack<A, V> total{};
  for (int64_t edge = range.begin; edge < range.end; ++edge) {
    const Pack<A, V> ends =
        sum_of<V>(job.at_s + job.col[edge] * job.width + column, job.at_t + range.row * job.width + column);
    const S* const from = job.g + job.id(edge) * job.samples * job.width + column;
#pragma unroll 4
    for (int64_t b = 0; b < job.samples; ++b) {
      const Pack<S, V> sample = load<V>(job.at_h + b * job.width + column), value = load<V>(from + b * job.width);
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (!(widen(sample.item[v]) + ends.item[v] <= A{0})) total.item[v] += widen(value.item[v]);
    }
  }
  if (range.piece >= 0) return store(total, job.partial + range.piece * job.width + column);
  Pack<S, V> narrowed;
#pragma unroll
  for (int v = 0; v < V; ++v) narrow(total.item[v], narrowed.item[v]);
  store(narrowed, job.out + range.row * job.width + column);
}

// A group takes one sample of a chunk of edges, whatever their rows, and G vectors of columns. Bytes: g once, both ends
// of each edge from the cache, a row of the result a chunk.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) gather_relu_samples_kernel(GatherRelu<S> job) {
  using A = acc_t<S>;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * lanes + lane) * V;
  const int64_t begin = group / job.samples * job.chunk, b = group % job.samples;
  if (begin >= job.edges || column >= job.width) return;
  const int64_t end = begin + job.chunk < job.edges ? begin + job.chunk : job.edges;
  int64_t row = job.row_of(begin), row_end = load(job.row_ptr + row + 1);
  const Pack<S, V> sample = load<V>(job.at_h + b * job.width + column);
  Pack<A, V> total{};
#pragma unroll 4
  for (int64_t edge = begin; edge < end; ++edge) {
    while (edge >= row_end) row_end = load(job.row_ptr + ++row + 1);
    const Pack<A, V> ends =
        sum_of<V>(job.at_s + job.col[edge] * job.width + column, job.at_t + row * job.width + column);
    const Pack<S, V> value = load<V>(job.g + (job.id(edge) * job.samples + b) * job.width + column);
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (!(widen(sample.item[v]) + ends.item[v] <= A{0})) total.item[v] += widen(value.item[v]);
  }
  store(total, job.partial + group * job.width + column);
}

// A thread adds the chunks of one column of one sample, in order.
template <class S>
__global__ void __launch_bounds__(kBlock) gather_relu_total_kernel(GatherRelu<S> job) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x, count = job.samples * job.width;
  if (place >= count) return;
  acc_t<S> total{};
  for (int64_t n = 0; n * job.chunk < job.edges; ++n) total += load(job.partial + n * count + place);
  S narrowed;
  narrow(total, narrowed);
  store_one(narrowed, job.out + place);
}

template <class S>
void sum_rows(GatherRelu<S> job, const GatherReluArgs& args, bool whole, int device) {
  constexpr int V = 16 / sizeof(S);
  EdgeArgs edges{};
  edges.row_ptr = job.row_ptr, edges.rows = job.rows, edges.edges = args.edges;
  edges.dtype = args.dtype, edges.stream = args.stream;
  const SplitWorkspace work(edges, job.width * static_cast<int64_t>(sizeof(acc_t<S>)), device);
  job.split = work.split, job.partial = work.template partial<acc_t<S>>();
  const int64_t vectors = ceil_div(job.width, whole ? V : 1);
  job.log_lanes = log_lanes_for(vectors, 0);
  launch("gather_relu_rows", whole ? gather_relu_rows_kernel<S, V> : gather_relu_rows_kernel<S, 1>,
         blocks_for(job.split, job.rows, job.log_lanes), ceil_div(vectors, int64_t{1} << job.log_lanes), args.stream,
         job);
  if (work.split.pieces)
    combine(args.dtype,
            {work.split, job.row_ptr, job.width, job.partial, nullptr, nullptr, job.edge_id, Index{}, job.out, false},
            args.stream);
}

template <class S>
void sum_samples(GatherRelu<S> job, const GatherReluArgs& args, bool whole, int device) {
  constexpr int V = 16 / sizeof(S);
  job.chunk = 32;
  while (args.edges / job.chunk * args.samples > 1 << 15) job.chunk *= 2;
  const int64_t groups = ceil_div(args.edges, job.chunk) * args.samples, vectors = ceil_div(job.width, whole ? V : 1);
  const Workspace memory(groups * job.width * static_cast<int64_t>(sizeof(acc_t<S>)), device,
                         static_cast<cudaStream_t>(args.stream));
  job.partial = memory.at<acc_t<S>>(0);
  job.log_lanes = log_lanes_for(vectors, 0);
  launch("gather_relu_samples", whole ? gather_relu_samples_kernel<S, V> : gather_relu_samples_kernel<S, 1>,
         ceil_div(groups, kBlock >> job.log_lanes), ceil_div(vectors, int64_t{1} << job.log_lanes), args.stream, job);
  launch("gather_relu_total", gather_relu_total_kernel<S>, ceil_div(args.samples * args.width, kBlock), 1, args.stream,
         job);
}

template <class S>
bool whole_vectors(const GatherReluArgs& args, std::initializer_list<const void*> more) {
  return args.width % (16 / sizeof(S)) == 0 && aligned16(more) &&
         aligned16({args.h, args.s, args.t, args.at_h, args.at_s, args.at_t, args.out});
}

}  // namespace

void gather_relu(const GatherReluArgs& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    constexpr int V = 16 / sizeof(S);
    GatherRelu<S> job(args);
    const bool whole = whole_vectors<S>(args, {});
    job.log_lanes = log_lanes_for(ceil_div(args.width, whole ? V : 1), 0);
    launch("gather_relu_edges", whole ? gather_relu_edges_kernel<S, V> : gather_relu_edges_kernel<S, 1>,
           ceil_div(args.edges, kBlock >> job.log_lanes), ceil_div(args.samples, kSamples), args.stream, job);
  });
}

void gather_relu_backward(const GatherReluBackwardArgs& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    GatherRelu<S> job(args);
    job.g = static_cast<const S*>(args.g);
    const bool whole = whole_vectors<S>(args, {args.g, args.d_h, args.d_s, args.d_t});
    const auto to = [&](void* out) { return job.out = static_cast<S*>(out); };
    if (to(args.d_h)) sum_samples(job, args, whole, device);
    if (to(args.d_t)) sum_rows(job, args, whole, device);
    if (!to(args.d_s)) return;
    job.row_ptr = args.back_ptr, job.rows = args.cols;
    job.col.data = const_cast<void*>(args.back_col), job.edge_id.data = const_cast<void*>(args.back_id);
    job.at_s = static_cast<const S*>(args.at_t), job.at_t = static_cast<const S*>(args.at_s);
    sum_rows(job, args, whole, device);
  });
}

}  // namespace fastgmtl::cuda
