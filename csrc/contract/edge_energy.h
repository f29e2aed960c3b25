// edge_energy: sums over edges of how a change at the source changes the energy at the destination, and all partial
// derivatives of these sums.
//
// For an edge e from j to i and a sample b, with labels y (0 or 1; -1: missing, and the edge counts as nothing there),
// the sign z = 2 y[j, b] - 1, the shift h = factor z w[e] and softplus S,
//
//   p[e, b] = S(F[i, b] + h) - S(F[i, b]) - y[i, b] h
//
// is the change of -y F + S(F) when F[i, b] is shifted by h. An operator sums
//
//   a[j, b] c[i, b] v[e] (factor z)^n  D^m_F D^n_h p[e, b]         (what is null is 1)
//
// over the edges of each source (Src), those of each destination (Dst), the samples (Edge) or nothing (Each). The sum
// is linear in a, c and v, and the derivative by F or w only raises m or n: the derivatives of the operator are the
// same operator, to any order. m + n is at most kMaxOrder.
#pragma once

#include "pattern.h"

namespace fastgmtl {

enum class EnergyOf : int { Src, Dst, Edge, Each };

// The derivative of softplus of order n > 1 as a polynomial: with the logistic function s, q = s (1 - s) and r = 1 - 2
// s it is q Q(q), times r for odd n. (q and r are exact to rounding where s is near 1, powers of s are not.)
struct SoftplusDerivative {
  static constexpr int kTerms = 5;
  double term[kTerms];  // of Q
  bool odd;
};

// dq = q r and dr = -2 q, hence Q + q Q' follows an even order, and (1 - 6 q) Q + (1 - 4 q) q Q' an odd one.
inline SoftplusDerivative softplus_derivative(int order) {
  SoftplusDerivative out{{1}, false};
  for (int n = 2; n < order; ++n) {
    SoftplusDerivative next{{}, !out.odd};
    for (int k = 0; k < out.kTerms; ++k) {
      next.term[k] += (k + 1) * out.term[k];
      if (out.odd && k + 1 < out.kTerms) next.term[k + 1] -= (4 * k + 6) * out.term[k];
    }
    out = next;
  }
  return out;
}

struct EdgeEnergyArgs {
  static constexpr int kMaxOrder = 9;
  const int64_t* row_ptr;  // rows are sources for Src, else destinations
  const void* col;
  const void* edge_id;  // or null: positions
  int64_t rows, cols, edges;
  bool wide_index;
  DType dtype;
  int64_t width;                         // samples
  const void *a, *c, *v;                 // [sources, B], [destinations, B], [E] or [E, B]; or null
  const void* field;                     // F: [destinations, B]
  const void* weight;                    // w: [E] or [E, B]
  bool wide_v, wide_weight;              // whether there is one for each sample
  const int32_t *label_src, *label_dst;  // y: [sources, B], [destinations, B]
  EnergyOf to;
  int field_order, shift_order;   // m and n
  SoftplusDerivative derivative;  // of order m + n
  double factor;
  int threads;
  void* stream;  // of CUDA
  void* out;     // [sources, B], [destinations, B], [E] or [E, B]

  int64_t sources() const { return to == EnergyOf::Src ? rows : cols; }
  int64_t destinations() const { return to == EnergyOf::Src ? cols : rows; }
};

void edge_energy(Pattern pattern, View a, View c, View v, View field, View weight, View label_src, View label_dst,
                 int to, int field_order, int shift_order, double factor, View out, int threads);

}  // namespace fastgmtl
