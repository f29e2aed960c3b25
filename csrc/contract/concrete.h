// concrete: hard samples of independent edges between T tasks, and derivatives of the soft ones.
//
// Edge from i to j has the log-odds l[i, j], of which c is the part within [-most, most], the odds of `explore`, and
// the logistic noise n = log(1 - u) - log(u), where u = (k + 1/2) 2^-32 and k is component j % 4 of Philox's counter
// (i, j / 4). The operator gives
//
//   order 0: 1 where c + n > 0 (that is u < sigma(c)), else 0
//   order m: v (d/dl)^m sigma((c + n) / temperature): the derivative of sigma times temperature^-m, or 0 where l != c
//
// and 0 for i = j, of all pairs or of those that are listed. The derivative by l raises m and that by v is the operator
// itself: it is closed under differentiation, up to kMaxOrder. concrete_draw keeps of order 0 a bit for each pair and
// the number of edges into each task, from which concrete_edges lists the edges by their end, then by their begin.
#pragma once

#include <cmath>
#include <limits>

#include "edge_energy.h"

namespace fastgmtl {

struct ConcreteArgs {
  static constexpr int kMaxOrder = EdgeEnergyArgs::kMaxOrder - 1;  // sigma is the first derivative of softplus
  DType dtype;
  int64_t tasks, count;      // T (0 where pairs are listed) and the number of pairs
  const void* logits;        // l: [T, T] or [count]
  const void* v;             // as l, or null for order 0
  const int64_t *src, *dst;  // [count], or null: all pairs
  const int64_t* seed;
  int order;
  double temperature, explore;    // explore 0: nothing is clamped
  SoftplusDerivative derivative;  // of order m + 1
  double most, scale;             // scale: temperature^-m
  int threads;
  void* stream;      // of CUDA
  void* out;         // as l; null for a draw
  int32_t* words;    // of a draw [T, ceil(T / 32)]: bit j % 32 of word (i, j / 32) is the edge from i to j
  int64_t* row_ptr;  // of a draw [T + 1]: 0, then the number of edges into each task
};

struct ConcreteEdgesArgs {
  int64_t tasks;
  const int32_t* words;
  const int64_t* row_ptr;  // [T + 1], of the edges into each task
  void* col;               // [E] where they begin
  bool wide_index;
  int64_t edges;
  int threads;
  void* stream;
};

// Log-odds, the seed and what both make of them; `order` of the result.
inline ConcreteArgs concrete_args(const char* op, const View& logits, const View& seed, double explore, int order,
                                  double temperature, int threads) {
  ConcreteArgs args{};
  if (!is_float(logits.dtype)) throw TypeError(std::string(op) + ": logits must be floating point");
  if (!(explore >= 0 && explore <= 0.5)) fail(op, "explore must be in [0, 0.5]");
  if (!(temperature > 0)) fail(op, "temperature must be positive");
  if (order < 0 || order > ConcreteArgs::kMaxOrder)
    fail(op, "order must be 0 to " + std::to_string(ConcreteArgs::kMaxOrder) + ", got " + std::to_string(order));
  require_shape(op, "seed", seed, {1});
  require_dtype(op, "seed", seed, DType::I64);
  if (!(seed.device == logits.device)) fail(op, "every tensor must be on one device");
  args.dtype = logits.dtype, args.count = logits.numel(), args.logits = logits.data, args.seed = seed.as<int64_t>();
  args.most = explore > 0 ? std::log((1 - explore) / explore) : std::numeric_limits<double>::infinity();
  args.order = order, args.temperature = temperature, args.scale = std::pow(temperature, -order);
  args.derivative = softplus_derivative(order + 1);
  args.threads = threads, args.stream = logits.stream;
  return args;
}

inline void require_square(const char* op, const View& logits) {
  if (logits.rank != 2 || logits.size(0) != logits.size(1))
    fail(op, "logits must have shape [T, T], got " + (logits ? shape_string(logits) : "None"));
}

void concrete(View logits, View v, View src, View dst, View seed, int order, double temperature, double explore,
              View out, int threads);

void concrete_draw(View logits, View seed, double explore, View words, View row_ptr, int threads);

void concrete_edges(View words, View row_ptr, View col, int threads);

}  // namespace fastgmtl
