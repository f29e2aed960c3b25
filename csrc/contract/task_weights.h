// task_weights: the T x T problem of a gradient aggregator, w = f(G), in float64.
#pragma once

#include "../view.h"

namespace fastgmtl {

// G is the Gram matrix, n_i = sqrt(G_ii), p a preference (`vector`).
enum class Method : int {
  PCGrad,      // w = sum_i c_i; c_i = e_i, then for j in order: c_ij -= min(0, (c_i G)_j) / G_jj
  GradVac,     // the same towards a cosine phi_ij, which is a state; parameter: its rate
  MGDA,        // argmin over the simplex of |J^T w|
  CAGrad,      // p + k w / |J^T w|, w = argmin over the simplex of w^T G p + k |J^T w|, k = c |J^T p|; parameter: c
  UPGrad,      // sum_i argmin over v >= p_i e_i of |J^T v|
  DualProj,    // argmin over v >= p of |J^T v|
  IMTLG,       // v / |1^T v|, v = D^-1 C^+ 1, C = D^-1 G D^-1, D = diag(n); parameter 0: v / 1^T v
  NashMTL,     // G w = 1 / w; parameter: the most that |J^T w| may be, 0 for no bound
  FairGrad,    // G w = w^(-1 / alpha); parameter: alpha
  AlignedMTL,  // sqrt(s) V L^(-1/2) V^T p, G = V L V^T; parameter: s is the smallest (0), median (1), mean (2) of L
  ConFIG,      // (1^T G v) / (v^T G v) v, v = D^-1 C^+ p
  RCGrad,      // of a target t: a_i = (min(1, n_t / n_i) + omega_i) / 2, a_t = 1 - sum_i a_i min(0, G_it) / n_t^2
  Rotated,     // the sum of g_t and the g_i that go against it, turned by the share omega_i of what is above 90 degrees
  Count        // (both: `vector` is omega, the parameter t)
};

struct TaskWeightsArgs {
  Method method;
  int64_t problems, tasks;
  const double* gram;    // [K, T, T]
  const double* vector;  // [T], or null
  const int64_t* order;  // [T, T]: of PCGrad and GradVac, row i the order of task i
  double parameter;
  double* state;  // [K, T, T], of GradVac: read and written
  double* out;    // [K, T]
  void* stream;
};

void task_weights(int method, View gram, View vector, View order, double parameter, View state, View out);

}  // namespace fastgmtl
