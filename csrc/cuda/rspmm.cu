// rspmm on CUDA; csrc/contract/rspmm.h says what it computes.
#include "../common/dispatch.h"
#include "../contract/rspmm.h"
#include "launch.h"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

// Sum: of all edges. Selected: of those that `arg` names. Extreme: the largest or smallest message and its edge.
enum class Mode { Sum, Selected, Extreme };

template <class S>
struct Rspmm {
  using A = acc_t<S>;
  Edges<S> edges;
  Index two;
  Split split;
  const S *a, *b, *c;
  S* y;
  A* partial;       // [pieces, width]
  int32_t* winner;  // [pieces, width]
  Index new_arg;
  int64_t width, half;
  A sign;  // of the imaginary part of b
  int log_lanes;
  bool max;

  // The first column of unit `unit` of V columns; of a rotation the real ones are counted.
  template <int V, Message G>
  __device__ __forceinline__ int64_t column_of(int64_t unit) const {
    const int64_t at = unit * V;
    return G == Message::Rotate ? at / half * 2 * half + at % half : at;
  }
};

// The message of one column: its only part, or the real and the imaginary one.
template <Message G, class A, int P>
__device__ __forceinline__ void combine_parts(const A (&x)[P], const A (&z)[P], A sign, A (&out)[P]) {
  if constexpr (G == Message::Rotate) {
    out[0] = x[0] * z[0] - sign * x[1] * z[1];
    out[1] = sign * x[0] * z[1] + x[1] * z[0];
  } else {
    out[0] = G == Message::Add ? x[0] + z[0] : x[0] * z[0];
  }
}

// Mapping. A group of G = 2^log_lanes lanes (1 to 32) takes one row or piece (split.cuh) and a vector of 16 bytes (or
// one element) a lane (blockIdx.y: further ones); of a rotation a lane has real and imaginary parts. Four edges are in
// flight: indices first, then the rows of both operands, then the sums. Bytes: per edge two indices (three and a weight
// if weighted) and two rows, of which those of relations come from the cache; per row 8 and the row of y.
template <class S, int V, Mode M, Message G>
__global__ void __launch_bounds__(kBlock) rspmm_rows_kernel(Rspmm<S> job) {
  using A = acc_t<S>;
  constexpr int U = 4, P = G == Message::Rotate ? 2 : 1;
  const Edges<S>& edges = job.edges;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  const int64_t unit = static_cast<int64_t>(blockIdx.y) * lanes + lane;
  Range range;
  if (!range_of(job.split, edges.row_ptr, edges.rows, group, range) || unit * V * P >= job.width) return;
  const int64_t column = job.template column_of<V, G>(unit);

  A total[P][V];
  int winner[P][V];
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int v = 0; v < V; ++v) total[p][v] = A{0}, winner[p][v] = -1;

  for (int64_t batch = range.begin; batch < range.end; batch += U) {
    int64_t at[U], one[U], two[U], id[U];
    bool live[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      live[u] = batch + u < range.end;
      at[u] = live[u] ? batch + u : range.end - 1;
    }
    edges.col.gather(at, one);
    job.two.gather(at, two);
    edges.ids(at, id, edges.w || M == Mode::Selected);
    Pack<S, V> left[U][P], right[U][P];
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int p = 0; p < P; ++p) {
        left[u][p] = right[u][p] = Pack<S, V>{};
        if (!live[u]) continue;
        left[u][p] = load<V>(job.a + one[u] * job.width + column + p * job.half);
        right[u][p] = load<V>(job.b + two[u] * job.width + column + p * job.half);
      }
    const int none[U] = {}, first[1] = {};
    A weight[U][1];
    edges.weights(one, id, none, first, live, weight);
#pragma unroll
    for (int u = 0; u < U; ++u) {
      bool named[P][V];  // whether `arg` names the edge
#pragma unroll
      for (int p = 0; p < P; ++p) {
        Pack<int64_t, V> arg{};
        if (M == Mode::Selected && live[u])
          arg =
              edges.arg.template read<V>((edges.arg_of_rows ? range.row : one[u]) * job.width + column + p * job.half);
#pragma unroll
        for (int v = 0; v < V; ++v) named[p][v] = arg.item[v] == id[u];
      }
#pragma unroll
      for (int v = 0; v < V; ++v) {
        A x[P], z[P], message[P];
#pragma unroll
        for (int p = 0; p < P; ++p) {
          x[p] = widen(left[u][p].item[v]), z[p] = widen(right[u][p].item[v]);
          if constexpr (M == Mode::Selected)
            if (!edges.arg_of_rows && !named[p][v]) x[p] = A{0};
        }
        combine_parts<G>(x, z, job.sign, message);
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const A mine = weight[u][0] * message[p];
          if constexpr (M == Mode::Sum) {
            total[p][v] += mine;
          } else if constexpr (M == Mode::Selected) {
            if (live[u] && (!edges.arg_of_rows || named[p][v])) total[p][v] += mine;
          } else {
            const A best = total[p][v];
            const bool wins =
                winner[p][v] < 0 || (job.max ? mine > best : mine < best) || (mine != mine && best == best);
            if (wins && live[u]) {
              total[p][v] = mine;
              winner[p][v] = static_cast<int>(batch + u - range.first);
            }
          }
        }
      }
    }
  }

  const A row_scale = edges.scale_of_row(range.row);
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int64_t to = (range.piece < 0 ? range.row : range.piece) * job.width + column + p * job.half;
    if (range.piece >= 0) {
      Pack<A, V> sum;
      Pack<int32_t, V> place;
#pragma unroll
      for (int v = 0; v < V; ++v) sum.item[v] = total[p][v], place.item[v] = winner[p][v];
      store(sum, job.partial + to);
      if (M == Mode::Extreme) store(place, job.winner + to);
      continue;
    }
    Pack<S, V> out;
#pragma unroll
    for (int v = 0; v < V; ++v) narrow(total[p][v] * row_scale, out.item[v]);
    store(out, job.y + to);
    if constexpr (M == Mode::Extreme) {
      Pack<int64_t, V> id;
#pragma unroll
      for (int v = 0; v < V; ++v) id.item[v] = winner[p][v] < 0 ? -1 : edges.id(range.first + winner[p][v]);
      job.new_arg.write(id, to);
    }
  }
}

// A group takes a row or piece, and for each of its edges all columns, lane l those from l on in steps of G. Four edges
// at a time, whose sums over the lanes are made together (reduce4).
template <class S, Message G>
__global__ void __launch_bounds__(kBlock) rspmm_edges_kernel(Rspmm<S> job) {
  using A = acc_t<S>;
  constexpr int U = 4, P = G == Message::Rotate ? 2 : 1;
  const Edges<S>& edges = job.edges;
  const int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kBlock >> job.log_lanes) + (threadIdx.x >> job.log_lanes);
  Range range;
  if (!range_of(job.split, edges.row_ptr, edges.rows, group, range)) return;
  const A row_scale = edges.scale_of_row(range.row);
  const int mine = reduced4(lane, job.log_lanes);  // of the four edges, the one whose sum this lane gets
  for (int64_t edge = range.begin; edge < range.end; edge += U) {
    A sum[U] = {};
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (edge + u >= range.end) continue;
      const int64_t id = edges.id(edge + u), one = edges.col[edge + u], two = job.two[edge + u];
      for (int64_t unit = lane; unit * P < job.width; unit += lanes) {
        const int64_t column = job.template column_of<1, G>(unit);
        A x[P], z[P], message[P];
#pragma unroll
        for (int p = 0; p < P; ++p) {
          x[p] = widen(load(job.a + one * job.width + column + p * job.half));
          z[p] = widen(load(job.b + two * job.width + column + p * job.half));
        }
        combine_parts<G>(x, z, job.sign, message);
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const int64_t here = range.row * job.width + column + p * job.half;
          if (!edges.arg || edges.arg[here] == id) sum[u] += widen(load(job.c + here)) * message[p];
        }
      }
    }
    const A total = reduce4(sum, lane, job.log_lanes);
    if ((lane & (lanes / U - 1)) != 0 || edge + mine >= range.end) continue;
    S narrowed;
    narrow(total * row_scale, narrowed);
    store_one(narrowed, job.y + edges.id(edge + mine));
  }
}

template <class S, int V>
void run_rows(Rspmm<S>& job, const RspmmArgs& args) {
  const int64_t units = ceil_div(args.half ? job.width / 2 : job.width, V);
  job.log_lanes = log_lanes_for(units, 0);
  const int64_t blocks = blocks_for(job.split, args.rows, job.log_lanes);
  const int64_t tiles = ceil_div(units, int64_t{1} << job.log_lanes);
  const auto start = [&](const char* name, void (*kernel)(Rspmm<S>)) {
    launch(name, kernel, blocks, tiles, args.stream, job);
  };
  if (args.reduce != Reduce::Sum) {
    if (args.message == Message::Add)
      return start("rspmm_extreme", rspmm_rows_kernel<S, V, Mode::Extreme, Message::Add>);
    return start("rspmm_extreme", args.half ? rspmm_rows_kernel<S, V, Mode::Extreme, Message::Rotate>
                                            : rspmm_rows_kernel<S, V, Mode::Extreme, Message::Mul>);
  }
  if (args.arg)
    return start("rspmm_selected", args.half ? rspmm_rows_kernel<S, V, Mode::Selected, Message::Rotate>
                                             : rspmm_rows_kernel<S, V, Mode::Selected, Message::Mul>);
  start("rspmm_sum", args.half ? rspmm_rows_kernel<S, V, Mode::Sum, Message::Rotate>
                               : rspmm_rows_kernel<S, V, Mode::Sum, Message::Mul>);
}

template <class S>
void run(const RspmmArgs& args, int device) {
  using A = acc_t<S>;
  constexpr int V = 16 / sizeof(S);
  const bool extreme = args.reduce != Reduce::Sum, by_rows = args.to != RspmmTo::Edge;
  Rspmm<S> job{};
  job.edges = Edges<S>(args, args.w);
  job.two = {const_cast<void*>(args.two), args.wide_index};
  job.a = static_cast<const S*>(args.a), job.b = static_cast<const S*>(args.b), job.c = static_cast<const S*>(args.c);
  job.y = static_cast<S*>(args.y);
  job.new_arg = {args.new_arg, args.wide_index};
  job.width = args.width, job.half = args.half;
  job.sign = args.to == RspmmTo::Src || args.to == RspmmTo::Rel ? A{-1} : A{1};
  job.max = args.reduce == Reduce::Max;
  const int64_t sum_bytes = job.width * static_cast<int64_t>(sizeof(A));
  const SplitWorkspace work(args, by_rows ? sum_bytes + (extreme ? job.width * 4 : 0) : 0, device);
  job.split = work.split;
  if (!by_rows) {
    job.log_lanes = log_lanes_for(args.half ? job.width / 2 : job.width, 2);
    const int64_t blocks = blocks_for(job.split, args.rows, job.log_lanes);
    return launch("rspmm_edges",
                  args.half ? rspmm_edges_kernel<S, Message::Rotate> : rspmm_edges_kernel<S, Message::Mul>, blocks, 1,
                  args.stream, job);
  }
  job.partial = work.template partial<A>();
  job.winner = work.template partial<int32_t>(work.split.pieces * sum_bytes);
  const bool whole =
      (args.half ? args.half : args.width) % V == 0 && aligned16({args.a, args.b, args.y, args.arg, args.new_arg});
  whole ? run_rows<S, V>(job, args) : run_rows<S, 1>(job, args);
  if (work.split.pieces)
    combine(args.dtype,
            {work.split, args.row_ptr, job.width, job.partial, extreme ? job.winner : nullptr, job.edges.row_scale,
             job.edges.edge_id, job.new_arg, args.y, job.max},
            args.stream);
}

}  // namespace

void rspmm(const RspmmArgs& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index,
                                        [&](auto scalar, auto) { run<typename decltype(scalar)::type>(args, device); });
}

}  // namespace fastgmtl::cuda
