// sddmm and spmm_backward on CUDA; csrc/contract/sddmm.h says what they compute.
#include "../common/dispatch.h"
#include "launch.h"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

template <class S>
struct Sddmm {
  Edges<S> edges;
  Split split;
  const S *a, *b;
  S *out, *y;
  acc_t<S>* partial;           // [pieces, T * d]
  int64_t a_stride, b_stride;  // elements of a row
  int slots, tile_tasks;       // vectors of a lane for one task; tasks of a block
  int log_lanes;
  bool a_per_task, b_per_task;
};

// Mapping. A group of G = 2^log_lanes lanes (4 to 32) takes one row or piece (split.cuh), so a warp serves 32 / G short
// rows. For each task lane l holds vectors l, l + G, ... of 16 bytes (or one element where d is no multiple), `slots`
// of them. Four edges are in flight (as in spmm.cu); their dot products are summed over the group together (reduce4).
// With K > 0 the weighted sum of the rows of b is kept beside them in K vectors a lane, which cover tile_tasks = K /
// slots tasks (blockIdx.y: further ones); with K = 0 all tasks are served by one visit to the edge. Bytes: per edge,
// two indices, T results, T weights for K > 0, the row of b; per row 8, the row of a and (K > 0) of y.
template <class S, int V, int K, bool Selected>
__global__ void __launch_bounds__(kBlock, 1) sddmm_kernel(Sddmm<S> job) {
  using A = acc_t<S>;
  constexpr int U = 4, kSums = K > 0 ? K : 1;
  const Edges<S>& edges = job.edges;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  Range range;
  if (!range_of(job.split, edges.row_ptr, edges.rows, group, range)) return;

  const int first_task = static_cast<int>(blockIdx.y) * job.tile_tasks;
  const int64_t rest = edges.tasks - first_task;
  const int steps = static_cast<int>(rest < job.tile_tasks ? rest : job.tile_tasks) * job.slots;
  const A row_scale = edges.scale_of_row(range.row);
  const int mine = reduced4(lane, job.log_lanes);  // of the four edges, the one whose result this lane gets
  const bool writes = (lane & (lanes / U - 1)) == 0;

  A sums[kSums][V];
#pragma unroll
  for (int k = 0; k < kSums; ++k)
#pragma unroll
    for (int v = 0; v < V; ++v) sums[k][v] = A{0};

  for (int64_t edge = range.begin; edge < range.end; edge += U) {
    int64_t at[U], node[U], id[U];
    bool live[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      live[u] = edge + u < range.end;
      at[u] = live[u] ? edge + u : range.end - 1;
    }
    edges.col.gather(at, node);
    edges.ids(at, id, Selected || (K > 0 && edges.w));
    A weight[U][1], dot[U];
    const bool my_edge = writes && edge + mine < range.end;
    const int64_t my_id = my_edge ? edges.id(edge + mine) : 0;
    const A my_scale = my_edge && edges.col_scale ? edges.scale_of_col(edges.col[edge + mine]) : row_scale;

    int task = first_task, slot = 0;
    const auto step = [&](A(&sum)[V]) {
      const int64_t c = (static_cast<int64_t>(slot) * lanes + lane) * V;
      const bool valid = c < edges.width;
      Pack<S, V> left{}, right[U];
      bool wanted[U][V];
      const int64_t column = task * edges.width + c;
      if (valid) left = load<V>(job.a + range.row * job.a_stride + (job.a_per_task ? column : c));
#pragma unroll
      for (int u = 0; u < U; ++u) {
        bool needed = valid && live[u];
        if constexpr (Selected) {
          Pack<int64_t, V> arg{};
          if (needed)
            arg = edges.arg.template read<V>((edges.arg_of_rows ? range.row : node[u]) * edges.tasks * edges.width +
                                             column);
          bool any = false;
#pragma unroll
          for (int v = 0; v < V; ++v) any |= wanted[u][v] = needed && arg.item[v] == id[u];
          needed = any;
        }
        right[u] = Pack<S, V>{};
        if (needed) right[u] = load<V>(job.b + node[u] * job.b_stride + (job.b_per_task ? column : c));
      }
      if (slot == 0) {
#pragma unroll
        for (int u = 0; u < U; ++u) dot[u] = A{0};
        if constexpr (K > 0) edges.weights(node, id, {0, 0, 0, 0}, {task}, live, weight);
      }
#pragma unroll
      for (int u = 0; u < U; ++u)
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const A value = widen(right[u].item[v]);
          if (!Selected || wanted[u][v]) dot[u] += widen(left.item[v]) * value;
          if constexpr (K > 0) sum[v] += weight[u][0] * value;
        }
      if (++slot == job.slots) {
        const A result = reduce4(dot, lane, job.log_lanes) * my_scale;
        if (my_edge) {
          S narrowed;
          narrow(result, narrowed);
          store_one(narrowed, job.out + my_id * edges.tasks + task);
        }
        slot = 0, ++task;
      }
    };
    if constexpr (K > 0) {
#pragma unroll
      for (int k = 0; k < K; ++k)
        if (k < steps) step(sums[k]);
    } else {
      for (int k = 0; k < steps; ++k) step(sums[0]);
    }
  }

  if constexpr (K > 0) {
    const int64_t columns = edges.tasks * edges.width;
    int task = first_task, slot = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int64_t c = (static_cast<int64_t>(slot) * lanes + lane) * V;
      if (k < steps && c < edges.width) {
        const int64_t to = (range.piece < 0 ? range.row : range.piece) * columns + task * edges.width + c;
        if (range.piece >= 0) {
          Pack<A, V> sum;
#pragma unroll
          for (int v = 0; v < V; ++v) sum.item[v] = sums[k][v];
          store(sum, job.partial + to);
        } else {
          Pack<S, V> out;
#pragma unroll
          for (int v = 0; v < V; ++v) narrow(sums[k][v] * row_scale, out.item[v]);
          store(out, job.y + to);
        }
      }
      if (++slot == job.slots) slot = 0, ++task;
    }
  }
}

template <class S, int V>
void run(Sddmm<S>& job, const SddmmArgs& args, bool fused) {
  const int64_t lanes = int64_t{1} << job.log_lanes;
  job.slots = static_cast<int>(args.width > 0 ? ceil_div(args.width, V * lanes) : 1);
  const int64_t blocks = blocks_for(job.split, args.rows, job.log_lanes);
  const auto start = [&](const char* name, void (*kernel)(Sddmm<S>), int slots) {
    job.tile_tasks = slots > 0 ? slots / job.slots : static_cast<int>(args.tasks);
    launch(name, kernel, blocks, ceil_div(args.tasks, job.tile_tasks), args.stream, job);
  };
  if (args.arg) return start("sddmm_selected", sddmm_kernel<S, V, 0, true>, 0);
  if (!fused) return start("sddmm", sddmm_kernel<S, V, 0, false>, 0);
  if (job.slots * args.tasks <= 2) return start("spmm_backward<2>", sddmm_kernel<S, V, 2, false>, 2);
  start("spmm_backward<4>", sddmm_kernel<S, V, 4, false>, 4);
}

// y alone, where the sums do not fit beside the dot products.
void weighted_sum(const SddmmArgs& args, int device) {
  SpmmArgs sum{};
  static_cast<EdgeArgs&>(sum) = args;
  sum.x = args.b, sum.x_per_task = args.b_per_task;
  sum.w = args.w;
  sum.y = args.y, sum.y_per_task = args.a_per_task;
  sum.reduce = Reduce::Sum;
  spmm(sum, device);
}

}  // namespace

void sddmm(const SddmmArgs& args, int device) {
  const DeviceGuard guard(device);
  const bool wants_y = args.y && args.rows > 0 && args.tasks * args.width > 0;
  bool y_done = false;
  if (args.tasks > 0 && args.rows > 0)
    dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
      using S = typename decltype(scalar)::type;
      using A = acc_t<S>;
      const bool whole = args.width % (16 / sizeof(S)) == 0 && aligned16({args.a, args.b, args.y, args.arg});
      const int V = whole ? 16 / sizeof(S) : 1;
      Sddmm<S> job{};
      job.edges = Edges<S>(args, args.w);
      job.a = static_cast<const S*>(args.a);
      job.b = static_cast<const S*>(args.b);
      job.out = static_cast<S*>(args.out);
      job.y = static_cast<S*>(args.y);
      job.a_per_task = args.a_per_task || args.tasks == 1;
      job.b_per_task = args.b_per_task || args.tasks == 1;
      job.a_stride = args.width * (job.a_per_task ? args.tasks : 1);
      job.b_stride = args.width * (job.b_per_task ? args.tasks : 1);
      job.log_lanes = log_lanes_for(ceil_div(args.width, V), 2);
      const bool fits = args.width <= int64_t{4} * V << job.log_lanes;
      y_done = wants_y && !args.arg && job.a_per_task && fits;
      const int64_t columns = args.tasks * args.width;
      const SplitWorkspace work(args, y_done ? columns * static_cast<int64_t>(sizeof(A)) : 0, device);
      job.split = work.split;
      job.partial = work.template partial<A>();
      whole ? run<S, 16 / sizeof(S)>(job, args, y_done) : run<S, 1>(job, args, y_done);
      if (y_done && work.split.pieces)
        combine(args.dtype,
                {work.split, args.row_ptr, columns, job.partial, nullptr, job.edges.row_scale, job.edges.edge_id,
                 Index{}, args.y, false},
                args.stream);
    });
  if (wants_y && !y_done) weighted_sum(args, device);
}

}  // namespace fastgmtl::cuda
