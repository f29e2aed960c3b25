// relation_gate: gates over tasks, their mix of the aggregates of every relation, a softmax over relations, the sum.
//
// For every node v and target s, with relations r and source tasks t (StrucHIS, steps 2 and 3 of its layer):
//
//   g[r, t, s] = softmax over t of logits[r, t, s]         m[r, s] = sum over t of  g[r, t, s] z[r, t]
//   a[r, s]    = softmax over the r in the mask of <weight[s], m[r, s]>
//   y[s]       = act(sum over r of  a[r, s] m[r, s]  + residual[s])
//
// As <w, m> is the gates' mix of the products <w, z>, a node needs R T S products of its rows of z, then small
// softmaxes, then a weighted sum of the rows: z is read from memory once, and m is never written.
//
// relation_gate_backward gives the gradients of z, logits and weight for u, the gradient before act. That of the weight
// is a sum over nodes: the rows of `partial` sum ranges of nodes that do not depend on the number of threads, and are
// added up in order.
#pragma once

#include "../view.h"

namespace fastgmtl {

enum class Activation : int { None, Relu, Elu };

// What both read: pointers that have been checked.
struct GateArgs {
  DType dtype;  // of every tensor but mask and partial
  int64_t nodes, relations, tasks, targets, width;
  const void* z;        // [N, R, T, d]
  const void* logits;   // [N, R, T, S]
  const void* weight;   // [S, d], or null: relations count equally
  const int32_t* mask;  // [N, R], 0 leaves a relation out; or null
  int threads;
  void* stream;  // of CUDA

  int64_t rows() const { return relations * tasks; }
};

struct RelationGateArgs : GateArgs {
  const void* residual;  // [N, S, d], or null
  Activation activation;
  void* y;  // [N, S, d]
};

struct RelationGateBackwardArgs : GateArgs {
  const void* u;  // [N, S, d]
  void* d_z;
  void* d_logits;
  void* d_weight;  // [S, d], null without weight
  void* partial;   // [rows, S, d] float64 for float64, else float32; null without weight
  int64_t partial_rows;
};

inline GateArgs gate_args(const char* op, const View& z, const View& logits, const View& weight, const View& mask,
                          int threads) {
  GateArgs args{};
  if (z.rank != 4) fail(op, "z must have shape [N, R, T, d]");
  if (!is_float(z.dtype)) throw TypeError(std::string(op) + ": z must be floating point");
  if (logits.rank != 4) fail(op, "logits must have shape [N, R, T, S]");
  args.dtype = z.dtype;
  args.nodes = z.size(0), args.relations = z.size(1), args.tasks = z.size(2), args.width = z.size(3);
  args.targets = logits.size(3);
  require_shape(op, "logits", logits, {args.nodes, args.relations, args.tasks, args.targets});
  if (weight) require_shape(op, "weight", weight, {args.targets, args.width});
  for (const View* view : {&logits, &weight})
    if (*view) {
      require_dtype(op, "every tensor", *view, args.dtype);
      require_device(op, "every tensor", *view, z.device);
    }
  if (mask) {
    require_shape(op, "mask", mask, {args.nodes, args.relations});
    require_dtype(op, "mask", mask, DType::I32);
    require_device(op, "mask", mask, z.device);
  }
  args.z = z.data, args.logits = logits.data, args.weight = weight.data, args.mask = mask.as<int32_t>();
  args.threads = threads, args.stream = z.stream;
  return args;
}

void relation_gate(View z, View logits, View weight, View residual, View mask, int activation, View y, int threads);

void relation_gate_backward(View u, View z, View logits, View weight, View mask, View d_z, View d_logits, View d_weight,
                            View partial, int threads);

}  // namespace fastgmtl
