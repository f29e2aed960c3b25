// gram on the CPU. A chunk of all rows is brought into the cache once and multiplied there by tiles of kTile x kTile
// rows whose sums stay in registers. Bytes moved: every row once.
#include <algorithm>
#include <memory>

#include "level.h"
#include "rows.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

constexpr int kTile = kBytes == 64 ? 4 : 3;

// out[i * stride + j] += <a_i, b_j> for M rows of a and N of b. Diagonal: a is b, and only j >= i are wanted.
template <class S, int M, int N, bool Diagonal>
void tile(const S* const* a, const S* const* b, int64_t numel, double* out, int64_t stride) {
  using A = acc_t<S>;
  constexpr int W = kBytes / sizeof(A);
  Vec<A, W> sum[M][N] = {};
  const auto add = [&](const Vec<A, W>(&left)[M], const Vec<A, W>(&right)[N]) {
    for (int i = 0; i < M; ++i)
      for (int j = Diagonal ? i : 0; j < N; ++j) sum[i][j] += left[i] * right[j];
  };
  int64_t c = 0;
  Vec<A, W> left[M], right[N];
  for (; c + W <= numel; c += W) {
    for (int j = 0; j < N; ++j) right[j] = load<W>(b[j] + c);
    for (int i = 0; i < M; ++i) left[i] = Diagonal ? right[i] : load<W>(a[i] + c);
    add(left, right);
  }
  if (c < numel) {
    for (int j = 0; j < N; ++j) right[j] = load_tail<W>(b[j] + c, numel - c);
    for (int i = 0; i < M; ++i) left[i] = Diagonal ? right[i] : load_tail<W>(a[i] + c, numel - c);
    add(left, right);
  }
  for (int i = 0; i < M; ++i)
    for (int j = Diagonal ? i : 0; j < N; ++j) out[i * stride + j] += fastgmtl::sum<A, W>(sum[i][j]);
}

// The same for m and n up to kTile.
template <class S, bool Diagonal, int M = kTile, int N = kTile>
void any_tile(int m, int n, const S* const* a, const S* const* b, int64_t numel, double* out, int64_t stride) {
  if constexpr (M > 1 && !Diagonal)
    if (m < M) return any_tile<S, Diagonal, M - 1, N>(m, n, a, b, numel, out, stride);
  if constexpr (N > 1)
    if (n < N) return any_tile<S, Diagonal, Diagonal ? N - 1 : M, N - 1>(m, n, a, b, numel, out, stride);
  tile<S, M, N, Diagonal>(a, b, numel, out, stride);
}

// One chunk: `out` has the places of the rows that are there.
template <class S>
void chunk(const Present<S>& a, const Present<S>* b, int64_t numel, double* out) {
  const int64_t stride = b ? b->count : a.count;
  for (int i = 0; i < a.count; i += kTile) {
    const int m = std::min(kTile, a.count - i);
    if (!b) any_tile<S, true>(m, m, a.row + i, a.row + i, numel, out + i * stride + i, stride);
    const Present<S>& other = b ? *b : a;
    for (int j = b ? 0 : i + kTile; j < other.count; j += kTile)
      any_tile<S, false>(m, std::min(kTile, other.count - j), a.row + i, other.row + j, numel, out + i * stride + j,
                         stride);
  }
}

template <class S>
void span(const GramArgs& args, const Span& where, double* out) {
  const int64_t s = args.rows_a, t = args.rows_b;
  Present<S> a(args.a.data() + where.part * s, s),
      b(args.b.data() + (args.square() ? 0 : where.part * t), args.square() ? 0 : t);
  const Present<S>& other = args.square() ? a : b;
  if (!a.count || !other.count) return;
  double sums[kMaxRows * kMaxRows];
  std::fill(sums, sums + a.count * other.count, 0.0);
  for (int64_t begin = where.begin; begin < where.end; begin += kChunk) {
    const int64_t numel = std::min(kChunk, where.end - begin);
    const Present<S> left = a.at(begin), right = b.at(begin);
    chunk(left, args.square() ? nullptr : &right, numel, sums);
  }
  for (int i = 0; i < a.count; ++i)
    for (int j = args.square() ? i : 0; j < other.count; ++j)
      out[a.index[i] * t + other.index[j]] += sums[i * other.count + j];
}

}  // namespace

void gram(const GramArgs& args) {
  const int64_t size = args.rows_a * args.rows_b;
  const Pieces& pieces = args.pieces;
  const std::unique_ptr<double[]> partial(new double[pieces.count() * size]());
  for_pieces(args, [&](int64_t p) {
    for (int64_t k = pieces.start[p]; k < pieces.start[p + 1]; ++k)
      of_dtype(args.parts[pieces.spans[k].part].dtype,
               [&](auto scalar) { span<decltype(scalar)>(args, pieces.spans[k], partial.get() + p * size); });
  });
  std::fill(args.out, args.out + args.groups * size, 0.0);
  for (int64_t p = 0; p < pieces.count(); ++p) {
    double* out = args.out + args.parts[pieces.spans[pieces.start[p]].part].group * size;
    for (int64_t i = 0; i < size; ++i) out[i] += partial[p * size + i];
  }
  if (!args.square()) return;
  for (int64_t k = 0; k < args.groups; ++k)
    for (int64_t i = 0; i < args.rows_a; ++i)
      for (int64_t j = 0; j < i; ++j)
        args.out[k * size + i * args.rows_a + j] = args.out[k * size + j * args.rows_a + i];
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
