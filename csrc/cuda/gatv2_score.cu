// gatv2_score and gatv2_backward on CUDA; csrc/contract/gatv2.h says what they compute.
#include "../common/dispatch.h"
#include "launch.h"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

// Edges by one of their ends.
template <class S>
struct Gatv2 {
  using A = acc_t<S>;
  const int64_t* row_ptr;
  Index col, edge_id;
  Split split;
  const S *near, *far, *at_near, *at_far, *att;
  int64_t rows, edges, heads, width, columns;
  A slope;
  bool same;      // leaky is of the features themselves
  S* out;         // [E, K]
  const S* g;     // backward
  S* d_near;      // [rows, K, d]
  A* partial;     // [pieces, K, d], or of att [chunks, K, d]
  int64_t chunk;  // edges of a chunk, for att
  S* d_att;
  int log_lanes;

  explicit Gatv2(const Gatv2Args& args)
      : row_ptr(args.row_ptr),
        col{const_cast<void*>(args.col), args.wide_index},
        edge_id{const_cast<void*>(args.edge_id), args.wide_index},
        split{},
        near(static_cast<const S*>(args.x_dst)),
        far(static_cast<const S*>(args.x_src)),
        at_near(static_cast<const S*>(args.at_dst)),
        at_far(static_cast<const S*>(args.at_src)),
        att(static_cast<const S*>(args.att)),
        rows(args.rows),
        edges(args.edges),
        heads(args.heads),
        width(args.width),
        columns(args.heads * args.width),
        slope(static_cast<A>(args.slope)),
        same(args.at_dst == args.x_dst && args.at_src == args.x_src),
        out(static_cast<S*>(args.out)) {}

  __device__ __forceinline__ int64_t id(int64_t e) const { return edge_id ? edge_id[e] : e; }
};

// V sums of the features of both ends, times what f of them is.
template <class S, int V>
struct Ends {
  acc_t<S> f[V], x[V];
  __device__ __forceinline__ Ends(const Gatv2<S>& job, int64_t mine, int64_t theirs) {
    const Pack<S, V> left = load<V>(job.at_near + mine), right = load<V>(job.at_far + theirs);
    Pack<S, V> near = left, far = right;
    if (!job.same) near = load<V>(job.near + mine), far = load<V>(job.far + theirs);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      f[v] = widen(left.item[v]) + widen(right.item[v]) > acc_t<S>{0} ? acc_t<S>{1} : job.slope;
      x[v] = widen(near.item[v]) + widen(far.item[v]);
    }
  }
};

// Mapping. A group of G = 2^log_lanes lanes (4 to 32) takes one row or piece (split.cuh); for each head lane l takes
// the vectors l, l + G, ... of 16 bytes (or one element where d is no multiple). Four edges are in flight, and their
// products are summed over the group together (reduce4).
// Bytes: per edge, two indices, K results, the far row (two if f is of other features); per row 8 and the near row.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) gatv2_score_kernel(Gatv2<S> job) {
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
        const int64_t at = k * job.width + c;
        const Pack<S, V> att = load<V>(job.att + at);
#pragma unroll
        for (int u = 0; u < U; ++u) {
          if (node[u] < 0) continue;
          const Ends<S, V> ends(job, range.row * job.columns + at, node[u] * job.columns + at);
#pragma unroll
          for (int v = 0; v < V; ++v) dot[u] += widen(att.item[v]) * ends.f[v] * ends.x[v];
        }
      }
      const A result = reduce4(dot, lane, job.log_lanes);
      if (!writes) continue;
      S narrowed;
      narrow(result, narrowed);
      store_one(narrowed, job.out + to + k);
    }
  }
}

// Mapping as of spmm: the K * d columns are one axis, a group of G lanes (1 to 32) takes a row or piece and G vectors
// (blockIdx.y: further ones). Bytes: per edge, two indices, g and the far row; per row 8, the near row and its
// gradient.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) gatv2_sum_kernel(Gatv2<S> job) {
  using A = acc_t<S>;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * lanes + lane) * V;
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group, range) || column >= job.columns) return;
  const int64_t head = column / job.width;
  const Pack<S, V> left = load<V>(job.at_near + range.row * job.columns + column), att = load<V>(job.att + column);
  A sums[V] = {};
  for (int64_t edge = range.begin; edge < range.end; ++edge) {
    const A weight = widen(load(job.g + job.id(edge) * job.heads + head));
    const Pack<S, V> right = load<V>(job.at_far + job.col[edge] * job.columns + column);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const bool positive = widen(left.item[v]) + widen(right.item[v]) > A{0};
      sums[v] += positive ? weight : weight * job.slope;
    }
  }
  Pack<S, V> narrowed;
  Pack<A, V> sum;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    sum.item[v] = sums[v] * widen(att.item[v]);
    narrow(sum.item[v], narrowed.item[v]);
  }
  if (range.piece < 0)
    store(narrowed, job.d_near + range.row * job.columns + column);
  else
    store(sum, job.partial + range.piece * job.columns + column);
}

// A group takes a chunk of edges, whatever their rows, and G vectors of columns. Bytes: both rows of each edge and g.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) gatv2_att_kernel(Gatv2<S> job) {
  using A = acc_t<S>;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * lanes + lane) * V, begin = group * job.chunk;
  if (begin >= job.edges || column >= job.columns) return;
  const int64_t end = begin + job.chunk < job.edges ? begin + job.chunk : job.edges, head = column / job.width;
  int64_t row = 0, high = job.rows;  // row_ptr[row] <= begin < row_ptr[high]
  while (high - row > 1) {
    const int64_t middle = row + (high - row) / 2;
    if (load(job.row_ptr + middle) <= begin)
      row = middle;
    else
      high = middle;
  }
  int64_t row_end = load(job.row_ptr + row + 1);
  A sums[V] = {};
  for (int64_t edge = begin; edge < end; ++edge) {
    while (edge >= row_end) row_end = load(job.row_ptr + ++row + 1);
    const A weight = widen(load(job.g + job.id(edge) * job.heads + head));
    const Ends<S, V> ends(job, row * job.columns + column, job.col[edge] * job.columns + column);
#pragma unroll
    for (int v = 0; v < V; ++v) sums[v] += weight * ends.f[v] * ends.x[v];
  }
  Pack<A, V> sum;
#pragma unroll
  for (int v = 0; v < V; ++v) sum.item[v] = sums[v];
  store(sum, job.partial + group * job.columns + column);
}

// A thread adds the chunks of one column, in order.
template <class S>
__global__ void __launch_bounds__(kBlock) gatv2_att_total_kernel(Gatv2<S> job) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (column >= job.columns) return;
  acc_t<S> total{};
  for (int64_t n = 0; n * job.chunk < job.edges; ++n) total += load(job.partial + n * job.columns + column);
  S narrowed;
  narrow(total, narrowed);
  store_one(narrowed, job.d_att + column);
}

// The rows of a pattern, for SplitWorkspace and combine.
EdgeArgs edges_of(const Gatv2Args& args, const int64_t* row_ptr, int64_t rows) {
  EdgeArgs edges{};
  edges.row_ptr = row_ptr, edges.rows = rows, edges.edges = args.edges;
  edges.dtype = args.dtype, edges.stream = args.stream;
  return edges;
}

template <class S>
bool whole_vectors(const Gatv2Args& args, std::initializer_list<const void*> more) {
  return args.width % (16 / sizeof(S)) == 0 && aligned16(more) &&
         aligned16({args.x_dst, args.x_src, args.at_dst, args.at_src, args.att});
}

template <class S>
void sum_rows(Gatv2<S> job, const Gatv2Args& args, bool whole, int device) {
  constexpr int V = 16 / sizeof(S);
  const EdgeArgs edges = edges_of(args, job.row_ptr, job.rows);
  const SplitWorkspace work(edges, job.columns * static_cast<int64_t>(sizeof(acc_t<S>)), device);
  job.split = work.split;
  job.partial = work.template partial<acc_t<S>>();
  const int64_t vectors = ceil_div(job.columns, whole ? V : 1);
  job.log_lanes = log_lanes_for(vectors, 0);
  launch("gatv2_sum", whole ? gatv2_sum_kernel<S, V> : gatv2_sum_kernel<S, 1>,
         blocks_for(job.split, job.rows, job.log_lanes), ceil_div(vectors, int64_t{1} << job.log_lanes), args.stream,
         job);
  if (work.split.pieces)
    combine(
        args.dtype,
        {work.split, job.row_ptr, job.columns, job.partial, nullptr, nullptr, job.edge_id, Index{}, job.d_near, false},
        args.stream);
}

template <class S>
void sum_att(Gatv2<S> job, const Gatv2BackwardArgs& args, bool whole, int device) {
  constexpr int V = 16 / sizeof(S);
  job.chunk = 64;
  while (args.edges / job.chunk > 1024) job.chunk *= 2;
  const int64_t chunks = ceil_div(args.edges, job.chunk), vectors = ceil_div(job.columns, whole ? V : 1);
  const Workspace memory(chunks * job.columns * static_cast<int64_t>(sizeof(acc_t<S>)), device,
                         static_cast<cudaStream_t>(args.stream));
  job.partial = memory.at<acc_t<S>>(0);
  job.d_att = static_cast<S*>(args.d_att);
  job.log_lanes = log_lanes_for(vectors, 0);
  launch("gatv2_att", whole ? gatv2_att_kernel<S, V> : gatv2_att_kernel<S, 1>,
         ceil_div(chunks, kBlock >> job.log_lanes), ceil_div(vectors, int64_t{1} << job.log_lanes), args.stream, job);
  launch("gatv2_att_total", gatv2_att_total_kernel<S>, ceil_div(job.columns, kBlock), 1, args.stream, job);
}

}  // namespace

void gatv2_score(const Gatv2Args& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    constexpr int V = 16 / sizeof(S);
    Gatv2<S> job(args);
    const SplitWorkspace work(edges_of(args, args.row_ptr, args.rows), 0, device);
    job.split = work.split;
    const bool whole = whole_vectors<S>(args, {});
    job.log_lanes = log_lanes_for(ceil_div(args.width, whole ? V : 1), 2);
    launch("gatv2_score", whole ? gatv2_score_kernel<S, V> : gatv2_score_kernel<S, 1>,
           blocks_for(job.split, args.rows, job.log_lanes), 1, args.stream, job);
  });
}

void gatv2_backward(const Gatv2BackwardArgs& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    Gatv2<S> job(args);
    job.g = static_cast<const S*>(args.g);
    const bool whole = whole_vectors<S>(args, {args.d_dst, args.d_src});
    if (args.d_att) sum_att(job, args, whole, device);
    job.d_near = static_cast<S*>(args.d_dst);
    if (args.d_dst) sum_rows(job, args, whole, device);
    if (!args.d_src) return;
    Gatv2<S> back = job;
    back.row_ptr = args.back_ptr, back.rows = args.cols;
    back.col.data = const_cast<void*>(args.back_col), back.edge_id.data = const_cast<void*>(args.back_id);
    back.near = job.far, back.far = job.near, back.at_near = job.at_far, back.at_far = job.at_near;
    back.d_near = static_cast<S*>(args.d_src);
    sum_rows(back, args, whole, device);
  });
}

}  // namespace fastgmtl::cuda
