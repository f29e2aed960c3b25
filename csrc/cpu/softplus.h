// Softplus and its derivatives, for vectors of the loops in this folder.
#pragma once

#include <type_traits>

#include "../contract/edge_energy.h"
#include "simd.h"

namespace fastgmtl {
namespace {

template <class A, int W>
inline Vec<A, W> magnitude(Vec<A, W> x) {
  return x < A{0} ? -x : x;
}

// log(1 + u) for u in [0, 1]: 2 atanh(z) with z = u / (2 + u), at most 1/3, as a power series.
template <class A, int W>
inline Vec<A, W> log1p(Vec<A, W> u) {
  constexpr int kTerms = sizeof(A) == 4 ? 8 : 17;
  const Vec<A, W> z = u / (u + A{2}), square = z * z;
  Vec<A, W> sum = Vec<A, W>{} + A{1} / (2 * kTerms - 1);
  for (int k = kTerms - 2; k >= 0; --k) sum = sum * square + A{1} / (2 * k + 1);
  return (z + z) * sum;
}

// log x of x from 0.5 to 2^64: x = m 2^e with m around 1, and 2 atanh(z) with z = (m - 1) / (m + 1), at most 0.18.
template <class A, int W>
inline Vec<A, W> log(Vec<A, W> x) {
  constexpr bool kFloat = sizeof(A) == 4;
  using Word = std::conditional_t<kFloat, int32_t, int64_t>;
  using Bits = Vec<Word, W>;
  constexpr int kMantissa = kFloat ? 23 : 52, kTerms = kFloat ? 5 : 12;
  constexpr Word kRoot = kFloat ? Word{0x3f3504f3} : static_cast<Word>(0x3fe6a09e667f3bcd);  // of 1/2
  const Bits bits = reinterpret_cast<Bits>(x), power = (bits - kRoot) >> kMantissa;
  const Vec<A, W> m = reinterpret_cast<Vec<A, W>>(bits - (power << kMantissa));
  const Vec<A, W> z = (m - A{1}) / (m + A{1}), square = z * z;
  Vec<A, W> sum = Vec<A, W>{} + A{1} / (2 * kTerms - 1);
  for (int k = kTerms - 2; k >= 0; --k) sum = sum * square + A{1} / (2 * k + 1);
  return __builtin_convertvector(power, Vec<A, W>) * static_cast<A>(0.69314718055994530942) + (z + z) * sum;
}

// log(1 + e^x)
template <class A, int W>
inline Vec<A, W> softplus(Vec<A, W> x) {
  const Vec<A, W> small = log1p<A, W>(exp<W>(-magnitude<A, W>(x)));
  return x > A{0} ? x + small : (x == x ? small : x);
}

// 1 / (1 + e^-x)
template <class A, int W>
inline Vec<A, W> logistic(Vec<A, W> x) {
  const Vec<A, W> e = exp<W>(-magnitude<A, W>(x)), one = Vec<A, W>{} + A{1};
  return (x < A{0} ? e : one) / (one + e);
}

template <class A, int W>
inline Vec<A, W> softplus_derivative(Vec<A, W> x, const SoftplusDerivative& of) {
  const Vec<A, W> e = exp<W>(-magnitude<A, W>(x)), inverse = A{1} / (e + A{1}), q = e * inverse * inverse;
  Vec<A, W> sum{};
  for (int k = SoftplusDerivative::kTerms - 1; k >= 0; --k) sum = sum * q + static_cast<A>(of.term[k]);
  const Vec<A, W> r = (x < A{0} ? A{1} - e : e - A{1}) * inverse;
  return of.odd ? sum * q * r : sum * q;
}

}  // namespace
}  // namespace fastgmtl
