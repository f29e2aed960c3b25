// Vectors of floats for the loops in this folder, in the compiler's own vector type: one source for every instruction
// set. Everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "../common/accumulator.h"

namespace fastgmtl {
namespace {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

template <class A, int W>
struct VecOf {
  typedef A type __attribute__((vector_size(W * sizeof(A))));
  typedef A unaligned __attribute__((vector_size(W * sizeof(A)), aligned(alignof(A)), may_alias));
};
template <class A, int W>
using Vec = typename VecOf<A, W>::type;

inline float bits_to_float(uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline uint32_t float_to_bits(float value) {
  uint32_t out;
  std::memcpy(&out, &value, 4);
  return out;
}

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(Bf16 value) { return bits_to_float(static_cast<uint32_t>(value.bits) << 16); }
inline float widen(F16 value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#else
  // The exponent is moved by a multiplication, which also handles subnormal numbers; infinities are put right after.
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16, rest = value.bits & 0x7fff;
  const float magnitude = bits_to_float(rest << 13) * bits_to_float(0x77800000);
  const uint32_t bits = rest >= 0x7c00 ? 0x7f800000 | (rest & 0x3ff) << 13 : float_to_bits(magnitude);
  return bits_to_float(sign | bits);
#endif
}

inline void narrow(float value, float* out) { *out = value; }
inline void narrow(double value, double* out) { *out = value; }
inline void narrow(float value, Bf16* out) {
  const uint32_t bits = float_to_bits(value);
  out->bits = value != value ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline void narrow(float value, F16* out) {
#if defined(__F16C__)
  out->bits = _cvtss_sh(value, 0);
#else
  const uint32_t bits = float_to_bits(value), sign = (bits >> 16) & 0x8000;
  uint32_t rest = bits & 0x7fffffff, half;
  if (rest >= 0x7f800000) {
    half = rest > 0x7f800000 ? 0x7e00 : 0x7c00;
  } else if (rest >= 0x477ff000) {
    half = 0x7c00;
  } else if (rest >= 0x38800000) {
    half = (rest - 0x38000000 + 0xfff + ((rest >> 13) & 1)) >> 13;
  } else {
    // Adding 0.5 leaves the rounded subnormal in the low bits of the sum.
    half = float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000;
  }
  out->bits = static_cast<uint16_t>(sign | half);
#endif
}

// W elements as a vector of the accumulator type.
template <int W, class S>
inline Vec<acc_t<S>, W> load(const S* from) {
  if constexpr (sizeof(S) == sizeof(acc_t<S>)) {
    return *reinterpret_cast<const typename VecOf<acc_t<S>, W>::unaligned*>(from);
  } else {
    Vec<float, W> out;
#if defined(__AVX512F__)
    if constexpr (W == 16 && sizeof(S) == 2) {
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      if constexpr (__is_same(S, F16))
        return reinterpret_cast<Vec<float, W>>(_mm512_cvtph_ps(bits));
      else
        return reinterpret_cast<Vec<float, W>>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
#elif defined(__F16C__) && defined(__AVX2__)
    if constexpr (W % 8 == 0) {
      for (int i = 0; i < W / 8; ++i) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8 * i));
        __m256 part;
        if constexpr (__is_same(S, F16))
          part = _mm256_cvtph_ps(bits);
        else
          part = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
        std::memcpy(reinterpret_cast<char*>(&out) + 32 * i, &part, 32);
      }
      return out;
    }
#endif
    for (int i = 0; i < W; ++i) out[i] = widen(from[i]);
    return out;
  }
}

template <int W, class S>
inline void store(const Vec<acc_t<S>, W>& value, S* to) {
  if constexpr (sizeof(S) == sizeof(acc_t<S>)) {
    *reinterpret_cast<typename VecOf<acc_t<S>, W>::unaligned*>(to) = value;
  } else {
    for (int i = 0; i < W; ++i) narrow(value[i], to + i);
  }
}

// Sum of the elements, pairwise.
template <class A, int W>
inline A sum(const Vec<A, W>& value) {
  if constexpr (W == 1) {
    return value[0];
  } else {
    Vec<A, W / 2> low, high;
    std::memcpy(&low, &value, sizeof(low));
    std::memcpy(&high, reinterpret_cast<const char*>(&value) + sizeof(low), sizeof(high));
    return sum<A, W / 2>(low + high);
  }
}

// e^x, to 1.5 units in the last place; 0 below the smallest normal number, NaN for NaN. For x up to 88 (709 in double).
// x = n log 2 + r with |r| <= log(2) / 2: a polynomial of r (Cephes; in double the Taylor series) times 2^n, n taken
// from the low bits of x / log 2 + 1.5 * 2^23 (2^52).
template <int W>
inline Vec<float, W> exp(Vec<float, W> x) {
  using Bits = Vec<uint32_t, W>;
  x = x > 88.0f ? Vec<float, W>{} + 88.0f : x;
  const Vec<float, W> shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  const Vec<float, W> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float, W> p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Bits power = (reinterpret_cast<Bits>(shifted) << 23) + 0x3f800000u;
  return x < -87.3f ? Vec<float, W>{} : p * reinterpret_cast<Vec<float, W>>(power);
}

template <int W>
inline Vec<double, W> exp(Vec<double, W> x) {
  using Bits = Vec<uint64_t, W>;
  x = x > 709.0 ? Vec<double, W>{} + 709.0 : x;
  const Vec<double, W> shifted = x * 1.4426950408889634 + 6755399441055744.0, n = shifted - 6755399441055744.0;
  const Vec<double, W> r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  Vec<double, W> p = r * (1 / 6227020800.0) + 1 / 479001600.0;
  double factorial = 479001600.0;
  for (int k = 12; k > 0; --k) {
    factorial /= k;
    p = p * r + 1 / factorial;
  }
  const Bits power = (reinterpret_cast<Bits>(shifted) << 52) + 0x3ff0000000000000u;
  return x < -708.3 ? Vec<double, W>{} : p * reinterpret_cast<Vec<double, W>>(power);
}

// Elements of a full vector, 64 bytes of accumulators, and how many such vectors the registers hold beside operands.
template <class S>
constexpr int kWidth = 64 / sizeof(acc_t<S>);
#if defined(__AVX512F__)
constexpr int kRegisters = 16;
#elif defined(__AVX2__)
constexpr int kRegisters = 4;
#else
constexpr int kRegisters = 2;
#endif

inline void prefetch(const void* address, int bytes) {
  const char* line = static_cast<const char*>(address);
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(line + i);
}

}  // namespace
}  // namespace fastgmtl
