// relu_sum and relu_sum_backward on CUDA; csrc/contract/relu_sum.h says what they compute.
#include "../common/dispatch.h"
#include "../contract/relu_sum.h"
#include "launch.h"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

template <class S>
struct ReluSum {
  using A = acc_t<S>;
  const int64_t* row_ptr;
  Index col, edge_id;
  Split split;
  int64_t rows, width;
  const S *x, *e, *at_x, *at_e, *g;
  S *out, *d_e;  // out: of rows, or null
  A* partial;    // [pieces, d]
  int log_lanes;
  bool relu;

  explicit ReluSum(const ReluSumArgs& args)
      : row_ptr(args.row_ptr),
        col{const_cast<void*>(args.col), args.wide_index},
        edge_id{const_cast<void*>(args.edge_id), args.wide_index},
        split{},
        rows(args.rows),
        width(args.width),
        x(static_cast<const S*>(args.x)),
        e(static_cast<const S*>(args.e)),
        at_x(static_cast<const S*>(args.at_x)),
        at_e(static_cast<const S*>(args.at_e)),
        g(nullptr),
        out(static_cast<S*>(args.y)),
        d_e(nullptr),
        partial(nullptr),
        log_lanes(0),
        relu(args.is_relu()) {}

  __device__ __forceinline__ int64_t id(int64_t edge) const { return edge_id ? edge_id[edge] : edge; }

  // What a group has summed of its row or piece.
  template <int V>
  __device__ __forceinline__ void finish(const Range& range, int64_t column, const Pack<A, V>& total) const {
    if (range.piece >= 0) return store(total, partial + range.piece * width + column);
    if (!out) return;
    Pack<S, V> narrowed;
#pragma unroll
    for (int v = 0; v < V; ++v) narrow(total.item[v], narrowed.item[v]);
    store(narrowed, out + range.row * width + column);
  }
};

// Mapping of both kernels. A group of G = 2^log_lanes lanes (1 to 32) takes a row or piece (split.cuh) and G vectors of
// 16 bytes (or single elements where d is no multiple; blockIdx.y: further ones), and goes through its edges.
// Bytes: per edge two indices, its features once, and the row of its source.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) relu_sum_rows_kernel(ReluSum<S> job) {
  using A = acc_t<S>;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * lanes + lane) * V;
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group, range) || column >= job.width) return;
  Pack<A, V> total{};
#pragma unroll 4
  for (int64_t edge = range.begin; edge < range.end; ++edge) {
    const int64_t source = job.col[edge] * job.width + column, own = job.id(edge) * job.width + column;
    const Pack<S, V> at_x = load<V>(job.at_x + source), at_e = load<V>(job.at_e + own);
    Pack<S, V> x{}, e{};
    if (!job.relu && job.x) x = load<V>(job.x + source);
    if (!job.relu && job.e) e = load<V>(job.e + own);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const A at = widen(at_x.item[v]) + widen(at_e.item[v]);
      const A value = job.relu ? at : widen(x.item[v]) + widen(e.item[v]);
      total.item[v] += at <= A{0} ? A{0} : value;
    }
  }
  job.template finish<V>(range, column, total);
}

// Over the transposed pattern. Bytes: per edge two indices, its features and their gradient once, and a row of g.
template <class S, int V>
__global__ void __launch_bounds__(kBlock) relu_sum_back_kernel(ReluSum<S> job) {
  using A = acc_t<S>;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * lanes + lane) * V;
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group, range) || column >= job.width) return;
  const Pack<S, V> at_x = load<V>(job.at_x + range.row * job.width + column);
  Pack<A, V> total{};
#pragma unroll 4
  for (int64_t edge = range.begin; edge < range.end; ++edge) {
    const int64_t own = job.id(edge) * job.width + column;
    const Pack<S, V> at_e = load<V>(job.at_e + own), g = load<V>(job.g + job.col[edge] * job.width + column);
    Pack<S, V> value{};
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (!(widen(at_x.item[v]) + widen(at_e.item[v]) <= A{0})) value.item[v] = g.item[v];
      total.item[v] += widen(value.item[v]);
    }
    if (job.d_e) store(value, job.d_e + own);
  }
  job.template finish<V>(range, column, total);
}

template <class S>
void run(ReluSum<S> job, const char* name, void (*whole_kernel)(ReluSum<S>), void (*single_kernel)(ReluSum<S>),
         bool whole, const ReluSumArgs& args, int device) {
  EdgeArgs edges{};
  edges.row_ptr = job.row_ptr, edges.rows = job.rows, edges.edges = args.edges;
  edges.dtype = args.dtype, edges.stream = args.stream;
  const SplitWorkspace work(edges, job.width * static_cast<int64_t>(sizeof(acc_t<S>)), device);
  job.split = work.split, job.partial = work.template partial<acc_t<S>>();
  const int64_t vectors = ceil_div(job.width, whole ? 16 / static_cast<int64_t>(sizeof(S)) : 1);
  job.log_lanes = log_lanes_for(vectors, 0);
  launch(name, whole ? whole_kernel : single_kernel, blocks_for(job.split, job.rows, job.log_lanes),
         ceil_div(vectors, int64_t{1} << job.log_lanes), args.stream, job);
  if (work.split.pieces && job.out)
    combine(args.dtype,
            {work.split, job.row_ptr, job.width, job.partial, nullptr, nullptr, job.edge_id, Index{}, job.out, false},
            args.stream);
}

}  // namespace

void relu_sum(const ReluSumArgs& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    constexpr int V = 16 / sizeof(S);
    const bool whole = args.width % V == 0 && aligned16({args.x, args.e, args.at_x, args.at_e, args.y});
    run(ReluSum<S>(args), "relu_sum_rows", relu_sum_rows_kernel<S, V>, relu_sum_rows_kernel<S, 1>, whole, args, device);
  });
}

void relu_sum_backward(const ReluSumBackwardArgs& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    constexpr int V = 16 / sizeof(S);
    ReluSum<S> job(args);
    job.g = static_cast<const S*>(args.g), job.out = static_cast<S*>(args.d_x), job.d_e = static_cast<S*>(args.d_e);
    const bool whole = args.width % V == 0 && aligned16({args.g, args.at_x, args.at_e, args.d_x, args.d_e});
    run(job, "relu_sum_back", relu_sum_back_kernel<S, V>, relu_sum_back_kernel<S, 1>, whole, args, device);
  });
}

}  // namespace fastgmtl::cuda
