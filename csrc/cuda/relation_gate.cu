// relation_gate and its backward on CUDA; csrc/contract/relation_gate.h says what they compute.
#include <cmath>

#include "../common/dispatch.h"
#include "../contract/relation_gate.h"
#include "launch.h"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

template <class S>
struct Gate {
  const S *z, *logits, *weight;
  const int32_t* mask;
  const S *residual, *u;
  S *y, *d_z, *d_logits;
  acc_t<S>* partial;                    // [chunks, S * d], or null
  int64_t nodes, width, chunks, steps;  // steps: nodes of a chunk, at most; the same for all lanes of a warp
  int relations, tasks, targets, rows;  // rows: R * T
  int log_lanes, groups, words;         // groups of a block that work, and words of shared memory of each
  Activation activation;
};

// Shared memory of a group, in words from its beginning: gates and products [R T, S], shares [R, S]; of the backward
// products with u [R T, S], slopes [R, S] and the sums for the weight [S, d].
template <class S>
struct Areas {
  int gate, product, share, along, slope, total;
  __host__ __device__ explicit Areas(const Gate<S>& job, int base) {
    const int all = job.rows * job.targets, few = job.relations * job.targets;
    gate = base, product = gate + all, share = product + all, along = share + few, slope = along + all;
    total = slope + few;
  }
};

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

// What a group of lanes knows: its place in the block and in shared memory.
template <class S>
struct Lanes {
  using A = acc_t<S>;
  const Gate<S>& job;
  Shared<A> memory;
  Areas<S> at;
  int count, lane;
  bool live;  // whether there is a node for this group: all shuffle and wait, only these touch memory

  __device__ __forceinline__ A get(int i) const { return memory.get(i); }
  __device__ __forceinline__ void set(int i, A value) const { memory.set(i, value); }

  // memory[to + j S + s] = <side[s], z[j]>, four targets at a time.
  template <int V>
  __device__ __forceinline__ void products(const S* z, const S* side, int to) const {
    for (int j = 0; j < job.rows; ++j)
      for (int s = 0; s < job.targets; s += 4) {
        A dot[4] = {};
        for (int64_t c = lane * V; live && c < job.width; c += count * V) {
          const Pack<S, V> value = load<V>(z + j * job.width + c);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (s + i >= job.targets) continue;
            const Pack<S, V> other = load<V>(side + (s + i) * job.width + c);
#pragma unroll
            for (int v = 0; v < V; ++v) dot[i] += widen(value.item[v]) * widen(other.item[v]);
          }
        }
        const A result = reduce4(dot, lane, job.log_lanes);
        const int mine = s + reduced4(lane, job.log_lanes);
        if (live && mine < job.targets && !(lane & (count / 4 - 1))) set(to + j * job.targets + mine, result);
      }
  }

  // Sum over tasks of gate times memory[from], for relation and target i = r S + s.
  __device__ __forceinline__ A mixed(int from, int i) const {
    const int first = i / job.targets * job.tasks * job.targets + i % job.targets;
    A sum = 0;
    for (int t = 0; t < job.tasks; ++t)
      sum += get(at.gate + first + t * job.targets) * get(from + first + t * job.targets);
    return sum;
  }

  // Gates and shares of a node. The products with the weight are there; ends with all lanes seeing everything.
  __device__ __forceinline__ void weigh(int64_t node) const {
    const int few = job.relations * job.targets;
    const A nothing = -static_cast<A>(INFINITY);
    __syncwarp();
    for (int i = lane; live && i < few; i += count) {
      const int first = i / job.targets * job.tasks * job.targets + i % job.targets;
      const S* const logits = job.logits + node * job.rows * job.targets + first;
      A top = nothing, sum = 0;
      for (int t = 0; t < job.tasks; ++t) {
        const A value = widen(load(logits + t * job.targets));
        top = value > top ? value : top;
      }
      for (int t = 0; t < job.tasks; ++t) {
        const A power = exponential(widen(load(logits + t * job.targets)) - top);
        set(at.gate + first + t * job.targets, power);
        sum += power;
      }
      for (int t = 0; t < job.tasks; ++t)
        set(at.gate + first + t * job.targets, get(at.gate + first + t * job.targets) / sum);
      set(at.share + i, job.weight ? mixed(at.product, i) : A{0});
    }
    __syncwarp();
    for (int s = lane; live && s < job.targets; s += count) {
      const auto here = [&](int r) { return !job.mask || load(job.mask + node * job.relations + r); };
      A top = nothing, sum = 0;
      for (int r = 0; r < job.relations; ++r) {
        const A value = get(at.share + r * job.targets + s);
        if (here(r) && value > top) top = value;
      }
      for (int r = 0; r < job.relations; ++r) {
        const A power = here(r) ? exponential(get(at.share + r * job.targets + s) - top) : A{0};
        set(at.share + r * job.targets + s, power);
        sum += power;
      }
      for (int r = 0; r < job.relations; ++r)
        if (here(r)) set(at.share + r * job.targets + s, get(at.share + r * job.targets + s) / sum);
    }
    __syncwarp();
  }
};

template <class A>
__device__ __forceinline__ A activated(A value, Activation activation) {
  if (activation == Activation::Relu) return value > A{0} || value != value ? value : A{0};
  if (activation == Activation::Elu) return value > A{0} ? value : exponential(value) - A{1};
  return value;
}

template <class S>
__device__ __forceinline__ Lanes<S> lanes_of(const Gate<S>& job, Shared<acc_t<S>> memory) {
  const int count = 1 << job.log_lanes, group = threadIdx.x >> job.log_lanes;
  return {job,
          memory,
          Areas<S>(job, group * job.words),
          count,
          static_cast<int>(threadIdx.x) & (count - 1),
          group < job.groups};
}

// Mapping. A group of G = 2^log_lanes lanes (4 to 32) takes one node: lane l holds vectors l, l + G, ... of 16 bytes
// (or one element where d is no multiple) of its rows. The R T S products and gates are in shared memory; the lanes of
// a group share them out for the softmaxes. Groups that find no room in shared memory, or no node, only wait. Bytes:
// per node, R T d of z once (the second pass is served by the caches), R T S logits, and S d read and written.
template <class S, int V, int kWords>
__global__ void __launch_bounds__(kBlock) relation_gate_kernel(Gate<S> job) {
  using A = acc_t<S>;
  __shared__ A buffer[kWords];
  Lanes<S> lanes = lanes_of(job, Shared<A>(buffer));
  const int64_t node = static_cast<int64_t>(blockIdx.x) * job.groups + (threadIdx.x >> job.log_lanes);
  lanes.live = lanes.live && node < job.nodes;
  const S* const z = job.z + node * job.rows * job.width;
  if (job.weight) lanes.template products<V>(z, job.weight, lanes.at.product);
  lanes.weigh(node);

  for (int64_t c = lanes.lane * V; lanes.live && c < job.width; c += lanes.count * V)
    for (int s = 0; s < job.targets; s += 4) {
      A sum[4][V] = {};
      for (int j = 0; j < job.rows; ++j) {
        const Pack<S, V> value = load<V>(z + j * job.width + c);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (s + i >= job.targets) continue;
          const A part = lanes.get(lanes.at.gate + j * job.targets + s + i) *
                         lanes.get(lanes.at.share + j / job.tasks * job.targets + s + i);
#pragma unroll
          for (int v = 0; v < V; ++v) sum[i][v] += part * widen(value.item[v]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (s + i >= job.targets) continue;
        const int64_t to = (node * job.targets + s + i) * job.width + c;
        Pack<S, V> rest{}, out;
        if (job.residual) rest = load<V>(job.residual + to);
#pragma unroll
        for (int v = 0; v < V; ++v)
          narrow(activated(job.residual ? sum[i][v] + widen(rest.item[v]) : sum[i][v], job.activation), out.item[v]);
        store(out, job.y + to);
      }
    }
}

// The same mapping; a group takes the nodes of one chunk after another, keeps their sum for the weight in shared memory
// and writes it once: a row of `partial`.
template <class S, int V, int kWords>
__global__ void __launch_bounds__(kBlock) relation_gate_backward_kernel(Gate<S> job) {
  using A = acc_t<S>;
  __shared__ A buffer[kWords];
  Lanes<S> lanes = lanes_of(job, Shared<A>(buffer));
  const Areas<S>& at = lanes.at;
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * job.groups + (threadIdx.x >> job.log_lanes);
  const bool works = lanes.live && chunk < job.chunks;
  const auto boundary = [&](int64_t k) { return job.nodes / job.chunks * k + job.nodes % job.chunks * k / job.chunks; };
  const int64_t begin = works ? boundary(chunk) : 0, end = works ? boundary(chunk + 1) : 0;
  const int few = job.relations * job.targets;
  const auto columns = [&](const auto& body) {
    for (int64_t c = lanes.lane * V; lanes.live && c < job.width; c += lanes.count * V) body(c);
  };
  lanes.live = works;
  if (job.partial)
    columns([&](int64_t c) {
      for (int s = 0; s < job.targets; ++s)
        for (int v = 0; v < V; ++v) lanes.set(at.total + static_cast<int>(s * job.width + c) + v, A{0});
    });

  for (int64_t step = 0; step < job.steps; ++step) {
    const int64_t node = begin + step;
    lanes.live = node < end;
    const S *const z = job.z + node * job.rows * job.width, *const u = job.u + node * job.targets * job.width;
    if (job.weight) lanes.template products<V>(z, job.weight, at.product);
    lanes.template products<V>(z, u, at.along);
    lanes.weigh(node);
    for (int i = lanes.lane; lanes.live && i < few; i += lanes.count) lanes.set(at.slope + i, lanes.mixed(at.along, i));
    __syncwarp();
    for (int s = lanes.lane; lanes.live && s < job.targets; s += lanes.count) {
      A mean = 0;
      for (int i = s; i < few; i += job.targets) mean += lanes.get(at.share + i) * lanes.get(at.slope + i);
      for (int i = s; i < few; i += job.targets)
        lanes.set(at.slope + i, lanes.get(at.share + i) * (lanes.get(at.slope + i) - mean));
    }
    __syncwarp();
    // The gradient of a gate is <share u + slope w, z>; then `along` and `product` become the factors of u and w in
    // d_z.
    for (int i = lanes.lane; lanes.live && i < few; i += lanes.count) {
      const int first = i / job.targets * job.tasks * job.targets + i % job.targets;
      const A share = lanes.get(at.share + i), slope = job.weight ? lanes.get(at.slope + i) : A{0};
      const auto gradient = [&](int j) {
        return share * lanes.get(at.along + j) + (job.weight ? slope * lanes.get(at.product + j) : A{0});
      };
      A mean = 0;
      for (int t = 0; t < job.tasks; ++t) {
        const int j = first + t * job.targets;
        mean += lanes.get(at.gate + j) * gradient(j);
      }
      for (int t = 0; t < job.tasks; ++t) {
        const int j = first + t * job.targets;
        const A gate = lanes.get(at.gate + j);
        S narrowed;
        narrow(gate * (gradient(j) - mean), narrowed);
        store_one(narrowed, job.d_logits + node * job.rows * job.targets + j);
        lanes.set(at.along + j, gate * share);
        lanes.set(at.product + j, gate * slope);
      }
    }
    __syncwarp();
    columns([&](int64_t c) {
      for (int j = 0; j < job.rows; ++j) {
        A sum[V] = {};
        for (int s = 0; s < job.targets; ++s) {
          const A of_u = lanes.get(at.along + j * job.targets + s), of_w = lanes.get(at.product + j * job.targets + s);
          const Pack<S, V> up = load<V>(u + s * job.width + c);
          Pack<S, V> w{};
          if (job.weight) w = load<V>(job.weight + s * job.width + c);
#pragma unroll
          for (int v = 0; v < V; ++v) sum[v] += of_u * widen(up.item[v]) + of_w * widen(w.item[v]);
        }
        Pack<S, V> out;
#pragma unroll
        for (int v = 0; v < V; ++v) narrow(sum[v], out.item[v]);
        store(out, job.d_z + (node * job.rows + j) * job.width + c);
      }
      for (int s = 0; job.partial && s < job.targets; ++s) {
        A sum[V] = {};
        for (int j = 0; j < job.rows; ++j) {
          const Pack<S, V> value = load<V>(z + j * job.width + c);
          const A of_w = lanes.get(at.product + j * job.targets + s);
#pragma unroll
          for (int v = 0; v < V; ++v) sum[v] += of_w * widen(value.item[v]);
        }
        for (int v = 0; v < V; ++v) {
          const int to = at.total + static_cast<int>(s * job.width + c) + v;
          lanes.set(to, lanes.get(to) + sum[v]);
        }
      }
    });
    __syncwarp();
  }
  lanes.live = works;
  if (job.partial)
    columns([&](int64_t c) {
      for (int s = 0; s < job.targets; ++s) {
        Pack<A, V> sum;
        for (int v = 0; v < V; ++v) sum.item[v] = lanes.get(at.total + static_cast<int>(s * job.width + c) + v);
        store(sum, job.partial + (chunk * job.targets + s) * job.width + c);
      }
    });
}

template <class S>
struct Total {
  const acc_t<S>* partial;  // [rows, columns]
  S* out;
  int64_t rows, columns;
};

// Sums rows in a fixed order: 16 columns a block, of which eight threads each take every eighth row.
template <class S>
__global__ void __launch_bounds__(kBlock) relation_gate_total_kernel(Total<S> job) {
  using A = acc_t<S>;
  constexpr int kColumns = 16, kParts = kBlock / kColumns;
  __shared__ A buffer[kBlock];
  const Shared<A> memory(buffer);
  const int part = threadIdx.x / kColumns;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x % kColumns;
  A sum = 0;
  for (int64_t row = part; column < job.columns && row < job.rows; row += kParts)
    sum += load(job.partial + row * job.columns + column);
  memory.set(threadIdx.x, sum);
  __syncthreads();
  if (part || column >= job.columns) return;
  for (int k = 1; k < kParts; ++k) sum += memory.get(k * kColumns + threadIdx.x);
  S narrowed;
  narrow(sum, narrowed);
  store_one(narrowed, job.out + column);
}

// Words of shared memory: what a block may have, and what is enough for most. More of it leaves room for fewer blocks.
template <class S>
constexpr int kMost = 49152 / sizeof(acc_t<S>);
template <class S>
constexpr int kFew = 8192 / sizeof(acc_t<S>);

template <class S>
Gate<S> gate_of(const char* op, const GateArgs& args, int V, bool backward) {
  Gate<S> job{};
  job.z = static_cast<const S*>(args.z), job.logits = static_cast<const S*>(args.logits);
  job.weight = static_cast<const S*>(args.weight), job.mask = args.mask;
  job.nodes = args.nodes, job.width = args.width;
  const int64_t all = args.rows() * args.targets, few = args.relations * args.targets;
  const int64_t words = backward ? 3 * all + 2 * few + (args.weight ? args.targets * args.width : 0) : 2 * all + few;
  if (words > kMost<S>)
    throw std::invalid_argument(std::string(op) + ": on CUDA R * T * S and S * d are limited: this needs " +
                                std::to_string(words) + " numbers of shared memory, there are " +
                                std::to_string(kMost<S>) + "; split the targets");
  job.relations = static_cast<int>(args.relations), job.tasks = static_cast<int>(args.tasks);
  job.targets = static_cast<int>(args.targets), job.rows = static_cast<int>(args.rows());
  job.log_lanes = log_lanes_for(ceil_div(args.width, V), 2);
  job.words = static_cast<int>(words > 0 ? words : 1);
  const int fit = kMost<S> / job.words;
  job.groups = kBlock >> job.log_lanes;
  if (fit < job.groups) job.groups = fit;
  return job;
}

// kernel<kWords> with as few words as the groups of a block need.
template <class S, class Small, class Large>
void start(const char* name, const Gate<S>& job, int64_t groups, void* stream, Small small, Large large) {
  launch(name, job.groups * job.words <= kFew<S> ? small : large, ceil_div(groups, job.groups), 1, stream, job);
}

template <class S, int V>
void forward(const RelationGateArgs& args) {
  Gate<S> job = gate_of<S>("relation_gate", args, V, false);
  job.residual = static_cast<const S*>(args.residual), job.y = static_cast<S*>(args.y);
  job.activation = args.activation;
  start("relation_gate", job, args.nodes, args.stream, relation_gate_kernel<S, V, kFew<S>>,
        relation_gate_kernel<S, V, kMost<S>>);
}

template <class S, int V>
void backward(const RelationGateBackwardArgs& args) {
  Gate<S> job = gate_of<S>("relation_gate_backward", args, V, true);
  job.u = static_cast<const S*>(args.u);
  job.d_z = static_cast<S*>(args.d_z), job.d_logits = static_cast<S*>(args.d_logits);
  job.partial = static_cast<acc_t<S>*>(args.partial);
  job.chunks = args.partial ? args.partial_rows : args.nodes;
  job.steps = job.chunks ? ceil_div(job.nodes, job.chunks) : 0;
  start("relation_gate_backward", job, job.chunks, args.stream, relation_gate_backward_kernel<S, V, kFew<S>>,
        relation_gate_backward_kernel<S, V, kMost<S>>);
  if (!args.d_weight) return;
  const Total<S> total{job.partial, static_cast<S*>(args.d_weight), args.partial_rows, args.targets * args.width};
  launch("relation_gate_total", relation_gate_total_kernel<S>, ceil_div(total.columns, 16), 1, args.stream, total);
}

template <class Body>
void with_type(const GateArgs& args, std::initializer_list<const void*> pointers, const Body& body) {
  dispatch_types<__nv_bfloat16, __half>(args.dtype, false, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    constexpr int V = 16 / sizeof(S);
    args.width % V == 0 && aligned16(pointers) ? body(scalar, std::integral_constant<int, V>{})
                                               : body(scalar, std::integral_constant<int, 1>{});
  });
}

}  // namespace

void relation_gate(const RelationGateArgs& args, int device) {
  const DeviceGuard guard(device);
  with_type(args, {args.z, args.weight, args.residual, args.y},
            [&](auto scalar, auto vector) { forward<typename decltype(scalar)::type, decltype(vector)::value>(args); });
}

void relation_gate_backward(const RelationGateBackwardArgs& args, int device) {
  const DeviceGuard guard(device);
  with_type(args, {args.z, args.weight, args.u, args.d_z, args.partial}, [&](auto scalar, auto vector) {
    backward<typename decltype(scalar)::type, decltype(vector)::value>(args);
  });
}

}  // namespace fastgmtl::cuda
