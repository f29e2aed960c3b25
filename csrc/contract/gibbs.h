// gibbs: sweeps of single-site updates of binary labels under the energy of a task graph.
//
// With signs z = 2 y - 1 and fields F[t] = a[t] + sum over parents s of J[s, t] z[s], the energy is the sum over t of
// -y[t] F[t] + softplus(F[t]), or (not normalised) of -y[t] F[t] alone. Of label k alone it depends on by
//
//   logit P(y[k] = 1 | rest) = F[k] + sum over children t of  2 y[t] J + softplus(F[t] - z[k] J - J)
//                                                              - softplus(F[t] - z[k] J + J)
//
// (without the softplus where it is not normalised). Sweep n goes through the labels in the order of its row of
// `order`; label k of sample b becomes 1 if the uniform number of that update is below the probability. The number is
// component b % 4 of Philox's counter (n T + k, b / 4), times 2^-32: what is drawn depends on neither order nor
// threads. Samples are independent of one another. The graph has no loops and no parallel edges. A step whose number is
// no label is left out.
#pragma once

#include "pattern.h"

namespace fastgmtl {

struct GibbsArgs {
  const int64_t* row_ptr;  // rows are parents, columns children
  const void* col;
  const void* edge_id;  // or null: positions
  int64_t tasks, edges;
  bool wide_index;
  DType dtype;
  int64_t samples;
  const void* field;     // F with the labels at the start: [T, B]
  const void* coupling;  // J: [E] or [E, B]
  bool wide_coupling;
  const int32_t* known;  // [T, B], not 0: the label stays; or null
  const int32_t* order;  // [sweeps, T]
  const int64_t* seed;
  int64_t sweeps, burn_in;  // sweeps that the mean leaves out
  bool normalised;
  int threads;
  void* stream;          // of CUDA
  const int32_t* start;  // [T, B]: labels at the start, 0 or 1
  int32_t* label;        // [T, B]: in the end
  void* mean;            // [T, B]: of the probabilities of 1; of labels that stay, the label
};

void gibbs(Pattern children, View field, View coupling, View start, View known, View order, View seed, int64_t burn_in,
           bool normalised, View label, View mean, int threads);

}  // namespace fastgmtl
