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
