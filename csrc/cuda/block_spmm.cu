// block_spmm and block_sddmm on CUDA; csrc/contract/block_spmm.h says what they compute.
#include "../common/dispatch.h"
#include "../contract/block_spmm.h"
#include "launch.h"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

constexpr int kLines = 8;  // of a block, that one thread sums

template <class S>
struct Blocks {
  using A = acc_t<S>;
  const int64_t* row_ptr;
  Index col, edge_id;
  Split split;
  int64_t rows, edges, row_size, col_size, width, row_stride, col_stride;
  const S *blocks, *x, *g;
  S* out;
  A* partial;  // [pieces, a, c]
  int log_lanes;

  explicit Blocks(const BlockArgs& args)
      : row_ptr(args.row_ptr),
        col{const_cast<void*>(args.col), args.wide_index},
        edge_id{const_cast<void*>(args.edge_id), args.wide_index},
        split{},
        rows(args.rows),
        edges(args.edges),
        row_size(args.row_size),
        col_size(args.col_size),
        width(args.width),
        row_stride(args.row_stride),
        col_stride(args.col_stride),
        blocks(static_cast<const S*>(args.blocks)),
        x(static_cast<const S*>(args.x)),
        g(static_cast<const S*>(args.g)),
        out(static_cast<S*>(args.out)),
        partial(nullptr),
        log_lanes(0) {}

  __device__ __forceinline__ int64_t id(int64_t edge) const { return edge_id ? edge_id[edge] : edge; }
  // The row that has the edge at `edge`.
  __device__ __forceinline__ int64_t row_of(int64_t edge) const {
    int64_t low = 0, high = rows;  // row_ptr[low] <= edge < row_ptr[high]
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      if (load(row_ptr + middle) <= edge)
        low = middle;
      else
        high = middle;
    }
    return low;
  }
};

// Mapping. A group of G = 2^log_lanes lanes takes a row or piece (split.cuh); a lane one column and kLines lines of its
// result (blockIdx.y: further columns, then further lines). The lanes read the same entry of a block at once and
// columns beside each other. Bytes: per edge two indices, its block, and the lines of its source.
template <class S>
__global__ void __launch_bounds__(kBlock) block_spmm_kernel(Blocks<S> job) {
  using A = acc_t<S>;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  const int64_t tiles = (job.width + lanes - 1) / lanes;
  const int64_t column = blockIdx.y % tiles * lanes + lane, first = blockIdx.y / tiles * kLines;
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group, range) || column >= job.width) return;
  const int64_t left = job.row_size - first;
  const int lines = static_cast<int>(left < kLines ? left : kLines);
  A total[kLines] = {};
  for (int64_t edge = range.begin; edge < range.end; ++edge) {
    const S* const line = job.x + job.col[edge] * job.col_size * job.width + column;
    const S* const block = job.blocks + job.id(edge) * job.row_size * job.col_size + first * job.row_stride;
    for (int64_t b = 0; b < job.col_size; ++b) {
      const A value = widen(load(line + b * job.width));
#pragma unroll
      for (int n = 0; n < kLines; ++n)
        if (n < lines) total[n] += widen(load(block + n * job.row_stride + b * job.col_stride)) * value;
    }
  }
#pragma unroll
  for (int n = 0; n < kLines; ++n) {
    if (n >= lines) continue;
    if (range.piece >= 0) {
      store_one(total[n], job.partial + (range.piece * job.row_size + first + n) * job.width + column);
    } else {
      S narrowed;
      narrow(total[n], narrowed);
      store_one(narrowed, job.out + (range.row * job.row_size + first + n) * job.width + column);
    }
  }
}

// A thread takes one entry of one block: neighbours in a warp read the same lines. Bytes: the blocks once, the lines of
// both ends from the cache.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) block_sddmm_kernel(Blocks<S> job) {
  using A = acc_t<S>;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x, size = job.row_size * job.col_size;
  const int64_t edge = thread / size, entry = thread % size;
  if (edge >= job.edges) return;
  const S* const of_row = job.g + (job.row_of(edge) * job.row_size + entry / job.col_size) * job.width;
  const S* const line = job.x + (job.col[edge] * job.col_size + entry % job.col_size) * job.width;
  A total[V] = {};
  for (int64_t c = 0; c < job.width; c += V) {
    const Pack<S, V> left = load<V>(of_row + c), right = load<V>(line + c);
#pragma unroll
    for (int v = 0; v < V; ++v) total[v] += widen(left.item[v]) * widen(right.item[v]);
  }
  A sum = 0;
#pragma unroll
  for (int v = 0; v < V; ++v) sum += total[v];
  S narrowed;
  narrow(sum, narrowed);
  store_one(narrowed, job.out + job.id(edge) * size + entry);
}

}  // namespace

void block_spmm(const BlockArgs& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    Blocks<S> job(args);
    EdgeArgs edges{};
    edges.row_ptr = args.row_ptr, edges.rows = args.rows, edges.edges = args.edges;
    edges.dtype = args.dtype, edges.stream = args.stream;
    const int64_t columns = args.row_size * args.width;
    const SplitWorkspace work(edges, columns * static_cast<int64_t>(sizeof(acc_t<S>)), device);
    job.split = work.split, job.partial = work.template partial<acc_t<S>>();
    job.log_lanes = log_lanes_for(args.width, 0);
    const int64_t tiles = ceil_div(args.width, int64_t{1} << job.log_lanes) * ceil_div(args.row_size, kLines);
    launch("block_spmm", block_spmm_kernel<S>, blocks_for(job.split, args.rows, job.log_lanes), tiles, args.stream,
           job);
    if (work.split.pieces)
      combine(args.dtype,
              {work.split, job.row_ptr, columns, job.partial, nullptr, nullptr, job.edge_id, Index{}, job.out, false},
              args.stream);
  });
}

void block_sddmm(const BlockArgs& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    constexpr int V = 16 / sizeof(S);
    const bool whole = args.width % V == 0 && aligned16({args.g, args.x});
    launch("block_sddmm", whole ? block_sddmm_kernel<S, V> : block_sddmm_kernel<S, 1>,
           ceil_div(args.edges * args.row_size * args.col_size, kBlock), 1, args.stream, Blocks<S>(args));
  });
}

}  // namespace fastgmtl::cuda
