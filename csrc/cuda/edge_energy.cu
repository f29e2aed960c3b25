// edge_energy on CUDA; csrc/contract/edge_energy.h says what it computes.
#include "../common/dispatch.h"
#include "launch.h"
#include "softplus.cuh"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

template <class S>
struct EdgeEnergy {
  using A = acc_t<S>;
  const int64_t* row_ptr;
  Index col, edge_id;
  Split split;
  int64_t rows, edges, width;
  const S *a, *c, *v, *field, *weight;
  const int32_t *label_src, *label_dst;
  bool wide_v, wide_weight, of_src, each;
  int order, shift_order;
  A factor;
  Derivative<A> derivative;
  S* out;
  A* partial;  // [pieces, B]
  int log_lanes;

  explicit EdgeEnergy(const EdgeEnergyArgs& args)
      : row_ptr(args.row_ptr),
        col{const_cast<void*>(args.col), args.wide_index},
        edge_id{const_cast<void*>(args.edge_id), args.wide_index},
        split{},
        rows(args.rows),
        edges(args.edges),
        width(args.width),
        a(static_cast<const S*>(args.a)),
        c(static_cast<const S*>(args.c)),
        v(static_cast<const S*>(args.v)),
        field(static_cast<const S*>(args.field)),
        weight(static_cast<const S*>(args.weight)),
        label_src(args.label_src),
        label_dst(args.label_dst),
        wide_v(args.wide_v),
        wide_weight(args.wide_weight),
        of_src(args.to == EnergyOf::Src),
        each(args.to == EnergyOf::Each),
        order(args.field_order + args.shift_order),
        shift_order(args.shift_order),
        factor(static_cast<A>(args.factor)),
        derivative(args.derivative),
        out(static_cast<S*>(args.out)),
        partial(nullptr),
        log_lanes(0) {}

  __device__ __forceinline__ int64_t id(int64_t e) const { return edge_id ? edge_id[e] : e; }
  __device__ __forceinline__ A of(A x) const {
    if (order == 0) return softplus(x);
    return order == 1 ? logistic(x) : derivative(x);
  }
  __device__ __forceinline__ A of_edge(const S* values, bool wide, int64_t id, int64_t b) const {
    return widen(load(wide ? values + id * width + b : values + id));
  }

  // Sample b of one edge between `row` and `other`.
  __device__ __forceinline__ A term(int64_t id, int64_t row, int64_t other, int64_t b) const {
    const int64_t at_src = (of_src ? row : other) * width + b, at_dst = (of_src ? other : row) * width + b;
    const int32_t source = load(label_src + at_src), y = load(label_dst + at_dst);
    if (source < 0 || y < 0) return A{0};
    const A sign = source ? factor : -factor, shift = sign * of_edge(weight, wide_weight, id, b);
    const A here = widen(load(field + at_dst));
    A value = of(here + shift);
    if (shift_order == 0) {
      value -= of(here);
      if (order == 0) value -= y ? shift : A{0};
    } else {
      if (order == 1) value -= y ? A{1} : A{0};
      for (int k = 0; k < shift_order; ++k) value *= sign;
    }
    if (a) value *= widen(load(a + at_src));
    if (c) value *= widen(load(c + at_dst));
    return v ? value * of_edge(v, wide_v, id, b) : value;
  }
};

// Mapping. A group of G = 2^log_lanes lanes (1 to 32) takes a row or piece (split.cuh) and a sample a lane (blockIdx.y:
// further ones). Bytes: per edge two indices, per edge and sample two rows from the cache; the work is the
// exponentials.
template <class S>
__global__ void __launch_bounds__(kBlock) edge_energy_rows_kernel(EdgeEnergy<S> job) {
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  const int64_t b = static_cast<int64_t>(blockIdx.y) * lanes + lane;
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group, range) || b >= job.width) return;
  acc_t<S> sum{};
  for (int64_t edge = range.begin; edge < range.end; ++edge) sum += job.term(job.id(edge), range.row, job.col[edge], b);
  if (range.piece >= 0) return store_one(sum, job.partial + range.piece * job.width + b);
  S narrowed;
  narrow(sum, narrowed);
  store_one(narrowed, job.out + range.row * job.width + b);
}

// A group takes a row or piece, and for each of its edges all samples, lane l those from l on in steps of G. Four edges
// at a time, whose sums over the lanes are made together (reduce4).
template <class S>
__global__ void __launch_bounds__(kBlock) edge_energy_edges_kernel(EdgeEnergy<S> job) {
  using A = acc_t<S>;
  constexpr int U = 4;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  Range range;
  if (!range_of(job.split, job.row_ptr, job.rows, group, range)) return;
  const int mine = reduced4(lane, job.log_lanes);  // of the four edges, the one whose sum this lane gets
  for (int64_t edge = range.begin; edge < range.end; edge += U) {
    A sum[U] = {};
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (edge + u >= range.end) continue;
      const int64_t id = job.id(edge + u), node = job.col[edge + u];
      for (int64_t b = lane; b < job.width; b += lanes) {
        const A value = job.term(id, range.row, node, b);
        sum[u] += value;
        if (!job.each) continue;
        S narrowed;
        narrow(value, narrowed);
        store_one(narrowed, job.out + id * job.width + b);
      }
    }
    const A total = reduce4(sum, lane, job.log_lanes);
    if (job.each || (lane & (lanes / U - 1)) != 0 || edge + mine >= range.end) continue;
    S narrowed;
    narrow(total, narrowed);
    store_one(narrowed, job.out + job.id(edge + mine));
  }
}

template <class S>
void run(EdgeEnergy<S> job, const EdgeEnergyArgs& args, int device) {
  const bool by_rows = args.to == EnergyOf::Src || args.to == EnergyOf::Dst;
  EdgeArgs edges{};
  edges.row_ptr = args.row_ptr, edges.rows = args.rows, edges.edges = args.edges;
  edges.dtype = args.dtype, edges.stream = args.stream;
  const SplitWorkspace work(edges, by_rows ? args.width * static_cast<int64_t>(sizeof(acc_t<S>)) : 0, device);
  job.split = work.split;
  job.log_lanes = log_lanes_for(args.width, by_rows ? 0 : 2);
  const int64_t blocks = blocks_for(job.split, args.rows, job.log_lanes);
  if (!by_rows) return launch("edge_energy_edges", edge_energy_edges_kernel<S>, blocks, 1, args.stream, job);
  job.partial = work.template partial<acc_t<S>>();
  const int64_t tiles = ceil_div(args.width, int64_t{1} << job.log_lanes);
  launch("edge_energy_rows", edge_energy_rows_kernel<S>, blocks, tiles, args.stream, job);
  if (work.split.pieces)
    combine(args.dtype,
            {work.split, args.row_ptr, args.width, job.partial, nullptr, nullptr, job.edge_id, Index{}, job.out, false},
            args.stream);
}

}  // namespace

void edge_energy(const EdgeEnergyArgs& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    run(EdgeEnergy<typename decltype(scalar)::type>(args), args, device);
  });
}

}  // namespace fastgmtl::cuda
