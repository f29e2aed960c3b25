// combine on the CPU. A row of the result is summed in registers over all rows of the matrix, kVectors vectors at a
// time. Nothing is fetched ahead: each row is read in order, which the hardware follows, and fetches of ours only take
// the places of its own. Bytes moved: every row once, every result once.
#include <algorithm>

#include "level.h"
#include "rows.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

constexpr int kVectors = kBytes == 64 ? 4 : 8;  // of a step

// to[c] = (to[c] if More) + sum over rows of weight[i] row_i[c]
template <class S, bool More>
void mix(const Present<S>& rows, const acc_t<S>* weight, int64_t numel, S* to) {
  using A = acc_t<S>;
  constexpr int W = kBytes / sizeof(A), kStep = kVectors * W;
  int64_t c = 0;
  for (; c + kStep <= numel; c += kStep) {
    Vec<A, W> sum[kVectors] = {};
    if constexpr (More)
      for (int k = 0; k < kVectors; ++k) sum[k] = load<W>(to + c + k * W);
    for (int i = 0; i < rows.count; ++i) {
      const S* from = rows.row[i] + c;
      for (int k = 0; k < kVectors; ++k) sum[k] += weight[i] * load<W>(from + k * W);
    }
    for (int k = 0; k < kVectors; ++k) store<W>(sum[k], to + c + k * W);
  }
  for (; c < numel; ++c) {
    A sum = More ? widen(to[c]) : A{0};
    for (int i = 0; i < rows.count; ++i) sum += weight[i] * widen(rows.row[i][c]);
    narrow(sum, to + c);
  }
}

template <class S>
void span(const CombineArgs& args, const Span& where) {
  const int64_t t = args.rows_a, s = args.rows_b;
  const Present<S> rows(args.a.data() + where.part * t, t);
  const double* weights = args.weights + args.parts[where.part].group * s * t;
  // One chunk after another, so that the rows are in the cache for the second result.
  for (int64_t begin = where.begin; begin < where.end; begin += kChunk) {
    const int64_t numel = std::min(kChunk, where.end - begin);
    const Present<S> here = rows.at(begin);
    for (int64_t j = 0; j < s; ++j) {
      acc_t<S> weight[kMaxRows];
      for (int i = 0; i < rows.count; ++i) weight[i] = static_cast<acc_t<S>>(weights[j * t + rows.index[i]]);
      S* to = static_cast<S*>(args.out[where.part * s + j]) + begin;
      args.accumulate ? mix<S, true>(here, weight, numel, to) : mix<S, false>(here, weight, numel, to);
    }
  }
}

}  // namespace

void combine(const CombineArgs& args) {
  const Pieces& pieces = args.pieces;
  for_pieces(args, [&](int64_t p) {
    for (int64_t k = pieces.start[p]; k < pieces.start[p + 1]; ++k)
      of_dtype(args.parts[pieces.spans[k].part].dtype,
               [&](auto scalar) { span<decltype(scalar)>(args, pieces.spans[k]); });
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
