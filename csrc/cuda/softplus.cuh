// Softplus and its derivatives for kernels.
#pragma once

#include <cmath>

#include "../contract/edge_energy.h"
#include "warp.cuh"

namespace fastgmtl::cuda {

// e^-|x|, log(1 + u)
__device__ __forceinline__ float falling(float x) { return expf(-fabsf(x)); }
__device__ __forceinline__ double falling(double x) { return exp(-fabs(x)); }
__device__ __forceinline__ float log_of_one_and(float u) { return log1pf(u); }
__device__ __forceinline__ double log_of_one_and(double u) { return log1p(u); }

// log(1 + e^x)
template <class A>
__device__ __forceinline__ A softplus(A x) {
  return (x < A{0} ? A{0} : x) + log_of_one_and(falling(x));
}

// 1 / (1 + e^-x)
template <class A>
__device__ __forceinline__ A logistic(A x) {
  const A e = falling(x);
  return (x < A{0} ? e : A{1}) / (A{1} + e);
}

// What contract/edge_energy.h has, in the accumulator's type.
template <class A>
struct Derivative {
  A term[SoftplusDerivative::kTerms];
  bool odd;

  explicit Derivative(const SoftplusDerivative& from) : odd(from.odd) {
    for (int k = 0; k < SoftplusDerivative::kTerms; ++k) term[k] = static_cast<A>(from.term[k]);
  }
  __device__ __forceinline__ A operator()(A x) const {
    const A e = falling(x), inverse = A{1} / (A{1} + e), q = e * inverse * inverse;
    A sum = 0;
#pragma unroll
    for (int k = SoftplusDerivative::kTerms - 1; k >= 0; --k) sum = sum * q + term[k];
    const A r = (x < A{0} ? A{1} - e : e - A{1}) * inverse;
    return odd ? sum * q * r : sum * q;
  }
};

}  // namespace fastgmtl::cuda
