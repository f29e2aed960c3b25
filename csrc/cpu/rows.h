// What both loops over lists of tensors need: the rows that are there, dtypes, pieces in parallel.
#pragma once

#include "../contract/gram.h"
#include "simd.h"

namespace fastgmtl {
namespace {

// Of a register: the compiler goes through memory for vectors that are larger.
#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

// Those of the rows of a part that are not missing.
template <class S>
struct Present {
  const S* row[kMaxRows];
  int index[kMaxRows];
  int count = 0;

  Present() = default;
  Present(const void* const* rows, int64_t n) {
    for (int i = 0; i < n; ++i)
      if (rows[i]) row[count] = static_cast<const S*>(rows[i]), index[count++] = i;
  }
  // The same from element `begin` on.
  Present at(int64_t begin) const {
    Present out;
    out.count = count;
    for (int i = 0; i < count; ++i) out.row[i] = row[i] + begin;
    return out;
  }
};

// The first `n` < W elements, and zeros.
template <int W, class S>
inline Vec<acc_t<S>, W> load_tail(const S* from, int64_t n) {
  S whole[W] = {};
  std::memcpy(whole, from, n * sizeof(S));
  return load<W>(whole);
}

// `n` elements from `from` on, and `rest` in the other places of the vector.
template <int W, class S>
inline Vec<acc_t<S>, W> load_some(const S* from, int64_t n) {
  return n == W ? load<W>(from) : load_tail<W>(from, n);
}

// The first `n` <= W elements.
template <int W, class S>
inline void store_some(const Vec<acc_t<S>, W>& value, int64_t n, S* to) {
  if (n == W) return store<W>(value, to);
  for (int64_t i = 0; i < n; ++i) narrow(value[i], to + i);
}

// body(S{})
template <class Body>
void of_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::F32:
      return body(float{});
    case DType::F64:
      return body(double{});
    case DType::BF16:
      return body(Bf16{});
    case DType::F16:
      return body(F16{});
    default:
      return;  // indices never get here: the contract refuses them
  }
}

// body(p) for every piece; little work stays on the calling thread.
template <class Body>
void for_pieces(const ListArgs& args, const Body& body) {
  const int64_t count = args.pieces.count();
  int64_t work = 0;
  for (const Part& part : args.parts) work += part.numel * (args.rows_a + args.rows_b);
  constexpr int64_t kSerial = 1 << 16;
  if (args.threads <= 1 || work < kSerial) {
    for (int64_t p = 0; p < count; ++p) body(p);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(args.threads)
  for (int64_t p = 0; p < count; ++p) body(p);
}

}  // namespace
}  // namespace fastgmtl
