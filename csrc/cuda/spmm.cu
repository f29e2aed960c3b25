// spmm on CUDA; csrc/contract/spmm.h says what it computes.
#include "../common/dispatch.h"
#include "launch.h"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

// Sum: of all edges. Selected: of those that `arg` names. Extreme: the largest or smallest message and its edge.
enum class Mode { Sum, Selected, Extreme };

template <class S>
struct Spmm {
  Edges<S> edges;
  Split split;
  const S* x;
  S* y;
  acc_t<S>* partial;  // [pieces, columns]
  int32_t* winner;    // [pieces, columns]
  Index new_arg;
  int64_t x_stride, columns;  // elements of a row of x, of y
  int terms;                  // tasks that add up in one column of y
  int log_lanes;
  bool x_per_task, y_per_task, max;
};

// Edges that are in flight together, and the columns of one lane: K vectors of V.
template <int K>
constexpr int kBatch = K == 4 ? 2 : 4;

// Mapping. The T * d columns of a row of y are one axis. A group of G = 2^log_lanes lanes (1 to 32) takes one row or
// piece (split.cuh) and G * K * V of its columns, vector k of lane l being vector k * G + l: so a warp serves 32 / G
// short rows, and an edge is read once for all T tasks as far as 32 * K * V columns go (blockIdx.y: further ones). A
// vector has 16 bytes (or one element where d is no multiple) and never straddles tasks, thus has one weight. kBatch
// edges are in flight: indices first, then their rows and weights, then the sums (one block a multiprocessor is all
// that is asked of ptxas: it would save registers by waiting for row after row). Where y has no task axis, an edge
// counts as `terms` edges. Bytes: per edge, one index (two and T weights if weighted) and the row of x; per row 8 and
// the row of y. Rows in pieces write and read the accumulator's row once a piece: at most 2 in 64. Selected reads of x
// only what was chosen.
template <class S, int V, int K, Mode M>
__global__ void __launch_bounds__(kBlock, 1) spmm_kernel(Spmm<S> job) {
  using A = acc_t<S>;
  constexpr int U = kBatch<K>;
  const Edges<S>& edges = job.edges;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  Range range;
  if (!range_of(job.split, edges.row_ptr, edges.rows, group, range)) return;

  int64_t column[K], from[K];  // of y, of x
  int task[K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    column[k] = ((static_cast<int64_t>(blockIdx.y) * K + k) * lanes + lane) * V;
    task[k] =
        job.y_per_task && edges.tasks > 1 && column[k] < job.columns ? static_cast<int>(column[k] / edges.width) : 0;
    from[k] = job.x_per_task ? column[k] : column[k] - task[k] * edges.width;
  }

  A total[K][V];
  int winner[K][V];
#pragma unroll
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int v = 0; v < V; ++v) total[k][v] = A{0}, winner[k][v] = -1;

  int64_t edge = range.begin;
  int term = 0;
  while (edge < range.end) {
    const int64_t batch = edge;
    int64_t at[U], node[U], id[U];
    int part[U];
    bool live[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      live[u] = edge < range.end;
      at[u] = live[u] ? edge : range.end - 1;
      part[u] = term;
      if (++term >= job.terms) term = 0, ++edge;
    }
    edges.col.gather(at, node);
    edges.ids(at, id, edges.w || M == Mode::Selected);

    Pack<S, V> value[U][K];
    bool wanted[U][K][V];
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int k = 0; k < K; ++k) {
        bool needed = live[u] && column[k] < job.columns;
        if constexpr (M == Mode::Selected) {
          const int64_t owner = edges.arg_of_rows ? range.row : node[u];
          Pack<int64_t, V> arg{};
          if (needed) arg = edges.arg.template read<V>((owner * edges.tasks + part[u]) * edges.width + column[k]);
          bool any = false;
#pragma unroll
          for (int v = 0; v < V; ++v) any |= wanted[u][k][v] = needed && arg.item[v] == id[u];
          needed = any;
        }
        const S* const row = job.x + node[u] * job.x_stride + part[u] * edges.width + from[k];
        value[u][k] = Pack<S, V>{};
        if (needed) value[u][k] = load<V>(row);
      }
    A weight[U][K];
    edges.weights(node, id, part, task, live, weight);
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int k = 0; k < K; ++k)
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const A message = weight[u][k] * widen(value[u][k].item[v]);
          if constexpr (M == Mode::Sum) {
            total[k][v] += message;
          } else if constexpr (M == Mode::Selected) {
            if (wanted[u][k][v]) total[k][v] += message;
          } else {
            const A best = total[k][v];
            const bool wins =
                winner[k][v] < 0 || (job.max ? message > best : message < best) || (message != message && best == best);
            if (wins && live[u]) {
              total[k][v] = message;
              winner[k][v] = static_cast<int>(batch + u - range.first);
            }
          }
        }
  }

  const A row_scale = edges.scale_of_row(range.row);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (column[k] >= job.columns) continue;
    const int64_t to = (range.piece < 0 ? range.row : range.piece) * job.columns + column[k];
    if (range.piece >= 0) {
      Pack<A, V> sum;
      Pack<int32_t, V> place;
#pragma unroll
      for (int v = 0; v < V; ++v) sum.item[v] = total[k][v], place.item[v] = winner[k][v];
      store(sum, job.partial + to);
      if (M == Mode::Extreme) store(place, job.winner + to);
      continue;
    }
    Pack<S, V> out;
#pragma unroll
    for (int v = 0; v < V; ++v) narrow(total[k][v] * row_scale, out.item[v]);
    store(out, job.y + to);
    if constexpr (M == Mode::Extreme) {
      Pack<int64_t, V> id;
#pragma unroll
      for (int v = 0; v < V; ++v) id.item[v] = winner[k][v] < 0 ? -1 : edges.id(range.first + winner[k][v]);
      job.new_arg.write(id, to);
    }
  }
}

template <class S, int V>
void run(Spmm<S>& job, const SpmmArgs& args) {
  const int64_t vectors = ceil_div(job.columns, V);
  job.log_lanes = log_lanes_for(vectors, 0);
  const int64_t blocks = blocks_for(job.split, args.rows, job.log_lanes);
  const auto start = [&](const char* name, void (*kernel)(Spmm<S>), int slots) {
    launch(name, kernel, blocks, ceil_div(vectors, int64_t{slots} << job.log_lanes), args.stream, job);
  };
  if (args.reduce != Reduce::Sum) return start("spmm_extreme", spmm_kernel<S, V, 1, Mode::Extreme>, 1);
  if (args.arg) return start("spmm_selected", spmm_kernel<S, V, 1, Mode::Selected>, 1);
  if (vectors <= 32) return start("spmm_sum<1>", spmm_kernel<S, V, 1, Mode::Sum>, 1);
  if (vectors <= 64) return start("spmm_sum<2>", spmm_kernel<S, V, 2, Mode::Sum>, 2);
  start("spmm_sum<4>", spmm_kernel<S, V, 4, Mode::Sum>, 4);
}

}  // namespace

void spmm(const SpmmArgs& args, int device) {
  const bool extreme = args.reduce != Reduce::Sum;
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    using A = acc_t<S>;
    constexpr int V = 16 / sizeof(S);
    Spmm<S> job{};
    job.edges = Edges<S>(args, args.w);
    if (extreme) job.edges.row_scale = nullptr;
    job.x = static_cast<const S*>(args.x);
    job.y = static_cast<S*>(args.y);
    job.new_arg = {args.new_arg, args.wide_index};
    job.x_per_task = args.x_per_task || args.tasks == 1;
    job.y_per_task = args.y_per_task || args.tasks == 1;
    job.x_stride = args.width * (job.x_per_task ? args.tasks : 1);
    job.columns = args.width * (job.y_per_task ? args.tasks : 1);
    job.terms = job.y_per_task ? 1 : static_cast<int>(args.tasks);
    job.max = args.reduce == Reduce::Max;
    const int64_t sum_bytes = job.columns * static_cast<int64_t>(sizeof(A));
    const SplitWorkspace work(args, sum_bytes + (extreme ? job.columns * 4 : 0), device);
    job.split = work.split;
    job.partial = work.template partial<A>();
    job.winner = work.template partial<int32_t>(work.split.pieces * sum_bytes);
    const bool whole = args.width % V == 0 && aligned16({args.x, args.y, args.arg, args.new_arg});
    whole ? run<S, V>(job, args) : run<S, 1>(job, args);
    if (work.split.pieces)
      combine(args.dtype,
              {work.split, args.row_ptr, job.columns, job.partial, extreme ? job.winner : nullptr, job.edges.row_scale,
               job.edges.edge_id, job.new_arg, args.y, job.max},
              args.stream);
  });
}

}  // namespace fastgmtl::cuda
