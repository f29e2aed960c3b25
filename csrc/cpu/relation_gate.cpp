// relation_gate and its backward on the CPU. A node's rows of z come from memory once and stay in the first-level cache
// for the two passes over them: products with the weights (and u), then the weighted sum (or the gradients).
#include "../contract/relation_gate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../common/dispatch.h"
#include "level.h"
#include "parallel.h"
#include "simd.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

constexpr int64_t kChunks = 256;

template <int N>
using Int = std::integral_constant<int, N>;

// body(lanes, first column) for vectors of W columns, then narrower ones: every column once.
template <int W, class Body>
void for_columns(int64_t width, const Body& body) {
  int64_t c = 0;
  for (; c + W <= width; c += W) body(Int<W>{}, c);
  if constexpr (W > 4)
    for (; c + 4 <= width; c += 4) body(Int<4>{}, c);
  for (; c < width; ++c) body(Int<1>{}, c);
}

// body(targets in this tile, first target)
template <class Body>
void for_targets(int64_t targets, const Body& body) {
  int64_t s = 0;
  for (; s + 4 <= targets; s += 4) body(Int<4>{}, s);
  for (; s + 2 <= targets; s += 2) body(Int<2>{}, s);
  for (; s < targets; ++s) body(Int<1>{}, s);
}

inline int tiles(int64_t targets) {
  int count = 0;
  for_targets(targets, [&](auto, int64_t) { ++count; });
  return count;
}

// e^x of a buffer whose size is a multiple of W.
template <int W, class A>
void exp_in_place(std::vector<A>& values) {
  for (size_t i = 0; i < values.size(); i += W) store<W>(exp<W>(load<W>(values.data() + i)), values.data() + i);
}

// The gates and shares of one node, and what they are made of. Softmaxes of the small numbers take the exponential of
// whole buffers at once: their sizes are rounded up to vectors.
template <class S>
struct Node {
  using A = acc_t<S>;
  static constexpr int W = kWidth<S>;
  const GateArgs& args;
  int64_t relations, tasks, targets, width, rows;
  std::vector<A> weight;       // [S, d], widened
  std::vector<A> gate, share;  // [R * T, S] and [R, S]
  std::vector<A> product;      // <weight[s], z[r, t]>, [R * T, S]
  std::vector<A> top;

  static size_t padded(int64_t count) { return static_cast<size_t>((count + W - 1) / W * W); }

  explicit Node(const GateArgs& a)
      : args(a),
        relations(a.relations),
        tasks(a.tasks),
        targets(a.targets),
        width(a.width),
        rows(a.rows()),
        weight(static_cast<size_t>(a.targets * a.width)),
        gate(padded(rows * a.targets)),
        share(padded(a.relations * a.targets)),
        product(gate.size()),
        top(static_cast<size_t>(a.targets)) {
    const S* const from = static_cast<const S*>(a.weight);
    for (size_t i = 0; from && i < weight.size(); ++i) weight[i] = widen(from[i]);
  }

  const S* z(int64_t node) const { return static_cast<const S*>(args.z) + node * rows * width; }

  // out[j, s] = <side[s], z[j]>
  void products(const S* z, const A* side, A* out) const {
    for_targets(targets, [&](auto count, int64_t s) {
      constexpr int NS = decltype(count)::value;
      for (int64_t j = 0; j < rows; ++j) {
        const S* const row = z + j * width;
        Vec<A, W> sums[NS] = {};
        int64_t c = 0;
        for (; c + W <= width; c += W) {
          const Vec<A, W> value = load<W>(row + c);
          for (int i = 0; i < NS; ++i) sums[i] += value * load<W>(side + (s + i) * width + c);
        }
        for (int i = 0; i < NS; ++i) {
          A total = sum<A, W>(sums[i]);
          for (int64_t k = c; k < width; ++k) total += widen(row[k]) * side[(s + i) * width + k];
          out[j * targets + s + i] = total;
        }
      }
    });
  }

  void gates(int64_t node) {
    const S* const logits = static_cast<const S*>(args.logits) + node * rows * targets;
    for (int64_t r = 0; r < relations; ++r) {
      const S* const from = logits + r * tasks * targets;
      A* const to = gate.data() + r * tasks * targets;
      std::fill(top.begin(), top.end(), -std::numeric_limits<A>::infinity());
      for (int64_t t = 0; t < tasks; ++t)
        for (int64_t s = 0; s < targets; ++s) top[s] = std::max(top[s], widen(from[t * targets + s]));
      for (int64_t t = 0; t < tasks; ++t)
        for (int64_t s = 0; s < targets; ++s) to[t * targets + s] = widen(from[t * targets + s]) - top[s];
    }
    exp_in_place<W>(gate);
    for (int64_t r = 0; r < relations; ++r) {
      A* const mine = gate.data() + r * tasks * targets;
      std::fill(top.begin(), top.end(), A{0});
      for (int64_t t = 0; t < tasks; ++t)
        for (int64_t s = 0; s < targets; ++s) top[s] += mine[t * targets + s];
      for (int64_t s = 0; s < targets; ++s) top[s] = A{1} / top[s];
      for (int64_t t = 0; t < tasks; ++t)
        for (int64_t s = 0; s < targets; ++s) mine[t * targets + s] *= top[s];
    }
  }

  // out[r, s] = sum over t of  gate[r, t, s] value[r, t, s]
  void mixed(const std::vector<A>& value, std::vector<A>& out) const {
    for (int64_t r = 0; r < relations; ++r)
      for (int64_t s = 0; s < targets; ++s) {
        A total = 0;
        for (int64_t t = 0; t < tasks; ++t)
          total += gate[(r * tasks + t) * targets + s] * value[(r * tasks + t) * targets + s];
        out[r * targets + s] = total;
      }
  }

  // Gates and shares, from the products with the weight.
  void weigh(int64_t node) {
    gates(node);
    const int32_t* const here = args.mask ? args.mask + node * relations : nullptr;
    const auto takes_part = [&](int64_t r) { return !here || here[r]; };
    if (args.weight) {
      products(z(node), weight.data(), product.data());
      mixed(product, share);
    } else {
      std::fill(share.begin(), share.end(), A{0});
    }
    std::fill(top.begin(), top.end(), -std::numeric_limits<A>::infinity());
    for (int64_t r = 0; r < relations; ++r)
      for (int64_t s = 0; s < targets; ++s)
        if (takes_part(r)) top[s] = std::max(top[s], share[r * targets + s]);
    for (int64_t r = 0; r < relations; ++r)
      for (int64_t s = 0; s < targets; ++s) share[r * targets + s] -= top[s];
    exp_in_place<W>(share);
    std::fill(top.begin(), top.end(), A{0});
    for (int64_t r = 0; r < relations; ++r)
      for (int64_t s = 0; s < targets; ++s)
        if (takes_part(r)) top[s] += share[r * targets + s];
    for (int64_t r = 0; r < relations; ++r)
      for (int64_t s = 0; s < targets; ++s)
        share[r * targets + s] = takes_part(r) ? share[r * targets + s] / top[s] : A{0};
  }
};

template <class S>
struct Forward : Node<S> {
  using A = acc_t<S>;
  using Node<S>::W;
  const RelationGateArgs& job;
  std::vector<A> part;  // share * gate, [R * T, S]

  explicit Forward(const RelationGateArgs& a) : Node<S>(a), job(a), part(this->gate.size()) {}

  template <int N>
  Vec<A, N> activated(Vec<A, N> value) const {
    const Vec<A, N> zero = {};
    if (job.activation == Activation::Relu) return value > zero || value != value ? value : zero;
    if (job.activation == Activation::Elu) return value > zero ? value : exp<N>(value) - A{1};
    return value;
  }

  void run(int64_t node) {
    this->weigh(node);
    const int64_t width = this->width, rows = this->rows, targets = this->targets, tasks = this->tasks;
    for (int64_t j = 0; j < rows; ++j)
      for (int64_t s = 0; s < targets; ++s)
        part[j * targets + s] = this->gate[j * targets + s] * this->share[j / tasks * targets + s];
    const S* const z = this->z(node);
    const S* const residual = static_cast<const S*>(job.residual);
    for_targets(targets, [&](auto count, int64_t s) {
      constexpr int NS = decltype(count)::value;
      for_columns<W>(width, [&](auto lanes, int64_t c) {
        constexpr int N = decltype(lanes)::value;
        Vec<A, N> sums[NS] = {};
        for (int64_t j = 0; j < rows; ++j) {
          const Vec<A, N> value = load<N>(z + j * width + c);
          for (int i = 0; i < NS; ++i) sums[i] += part[j * targets + s + i] * value;
        }
        for (int i = 0; i < NS; ++i) {
          const int64_t at = (node * targets + s + i) * width + c;
          if (residual) sums[i] += load<N>(residual + at);
          store<N>(activated<N>(sums[i]), static_cast<S*>(job.y) + at);
        }
      });
    });
  }
};

template <class S>
struct Backward : Node<S> {
  using A = acc_t<S>;
  using Node<S>::W;
  const RelationGateBackwardArgs& job;
  std::vector<A> u;         // [S, d], widened
  std::vector<A> along;     // <u[s], z[r, t]>, [R * T, S]; then the factor of u in d_z
  std::vector<A> slope;     // gradient of the scores of the relations, [R, S]
  std::vector<A> unwanted;  // the sum for the weight, where there is none
  std::vector<A> sums;      // d_z of a node while targets are added, [R * T, d]

  explicit Backward(const RelationGateBackwardArgs& a)
      : Node<S>(a),
        job(a),
        u(this->weight.size()),
        along(this->gate.size()),
        slope(this->share.size()),
        unwanted(a.weight ? 0 : this->weight.size()),
        sums(tiles(a.targets) > 1 ? static_cast<size_t>(this->rows * a.width) : 0) {}

  // d_weight, a sum over nodes, is added to `total` [S, d].
  void run(int64_t node, A* total) {
    this->weigh(node);
    const int64_t relations = this->relations, tasks = this->tasks, targets = this->targets;
    const S* const from = static_cast<const S*>(job.u) + node * targets * this->width;
    for (size_t i = 0; i < u.size(); ++i) u[i] = widen(from[i]);
    this->products(this->z(node), u.data(), along.data());
    this->mixed(along, slope);
    for (int64_t s = 0; s < targets; ++s) {
      A mean = 0;
      for (int64_t r = 0; r < relations; ++r) mean += this->share[r * targets + s] * slope[r * targets + s];
      for (int64_t r = 0; r < relations; ++r)
        slope[r * targets + s] = this->share[r * targets + s] * (slope[r * targets + s] - mean);
    }
    // The gradient of a gate is <share u + slope w, z>. Then `along` and `product` become the factors of u and w in
    // d_z.
    S* const d_logits = static_cast<S*>(job.d_logits) + node * this->rows * targets;
    for (int64_t r = 0; r < relations; ++r)
      for (int64_t s = 0; s < targets; ++s) {
        const A share = this->share[r * targets + s], weighed = job.weight ? slope[r * targets + s] : A{0};
        A mean = 0;
        for (int64_t t = 0; t < tasks; ++t) {
          const int64_t j = (r * tasks + t) * targets + s;
          const A gradient = share * along[j] + weighed * this->product[j];
          mean += this->gate[j] * gradient;
          along[j] = gradient;
        }
        for (int64_t t = 0; t < tasks; ++t) {
          const int64_t j = (r * tasks + t) * targets + s;
          narrow(this->gate[j] * (along[j] - mean), d_logits + j);
          along[j] = this->gate[j] * share;
          this->product[j] = this->gate[j] * weighed;
        }
      }
    if (!targets)
      std::fill_n(static_cast<S*>(job.d_z) + node * this->rows * this->width, this->rows * this->width, S{});
    A* const weights = job.weight ? total : unwanted.data();
    for_targets(targets, [&](auto count, int64_t s) { this->tile<decltype(count)::value>(node, s, weights); });
  }

  // d_z of targets [s, s + NS), and what they add to the gradient of the weight.
  template <int NS>
  void tile(int64_t node, int64_t s, A* total) {
    const int64_t width = this->width, rows = this->rows, targets = this->targets;
    const S* const z = this->z(node);
    S* const d_z = static_cast<S*>(job.d_z) + node * rows * width;
    const bool first = s == 0, last = s + NS == targets;
    for_columns<W>(width, [&](auto lanes, int64_t c) {
      constexpr int N = decltype(lanes)::value;
      Vec<A, N> up[NS], w[NS], d_w[NS];
      for (int i = 0; i < NS; ++i) {
        const int64_t at = (s + i) * width + c;
        up[i] = load<N>(u.data() + at), w[i] = load<N>(this->weight.data() + at), d_w[i] = load<N>(total + at);
      }
      for (int64_t j = 0; j < rows; ++j) {
        const Vec<A, N> value = load<N>(z + j * width + c);
        Vec<A, N> gradient = {};
        if (!first) gradient = load<N>(sums.data() + j * width + c);
        for (int i = 0; i < NS; ++i) {
          const A of_u = along[j * targets + s + i], of_w = this->product[j * targets + s + i];
          gradient += of_u * up[i] + of_w * w[i];
          d_w[i] += of_w * value;
        }
        if (last)
          store<N>(gradient, d_z + j * width + c);
        else
          store<N>(gradient, sums.data() + j * width + c);
      }
      for (int i = 0; i < NS; ++i) store<N>(d_w[i], total + (s + i) * width + c);
    });
  }
};

template <class Body>
void with_type(const GateArgs& args, const Body& body) {
  dispatch_types<Bf16, F16>(args.dtype, false, [&](auto scalar, auto) { body(scalar); });
}

int64_t bytes_of(const GateArgs& args) { return args.nodes * args.rows() * (args.width + args.targets) * 4; }

}  // namespace

void relation_gate(const RelationGateArgs& args) {
  with_type(args, [&](auto scalar) {
    using S = typename decltype(scalar)::type;
    for_chunks(args.nodes, kChunks, bytes_of(args), args.threads, [&](int64_t, int64_t begin, int64_t end) {
      Forward<S> job(args);
      for (int64_t node = begin; node < end; ++node) job.run(node);
    });
  });
}

void relation_gate_backward(const RelationGateBackwardArgs& args) {
  with_type(args, [&](auto scalar) {
    using S = typename decltype(scalar)::type;
    using A = acc_t<S>;
    const int64_t size = args.targets * args.width;
    A* const partial = static_cast<A*>(args.partial);
    for_chunks(args.nodes, args.partial ? args.partial_rows : kChunks, bytes_of(args), args.threads,
               [&](int64_t chunk, int64_t begin, int64_t end) {
                 Backward<S> job(args);
                 A* const total = partial ? partial + chunk * size : nullptr;
                 if (total) std::fill(total, total + size, A{0});
                 for (int64_t node = begin; node < end; ++node) job.run(node, total);
               });
    if (!args.d_weight) return;
    std::vector<A> sum(static_cast<size_t>(size));
    for (int64_t row = 0; row < args.partial_rows; ++row)
      for (int64_t i = 0; i < size; ++i) sum[i] += partial[row * size + i];
    for (int64_t i = 0; i < size; ++i) narrow(sum[i], static_cast<S*>(args.d_weight) + i);
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
