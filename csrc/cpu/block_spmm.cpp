// block_spmm and block_sddmm on the CPU. Of a row's result a tile stays in registers while its edges are gone through:
// up to eight lines of the block, a vector of columns each; a line of x is loaded once for all of them. Blocks are read
// once for each tile of columns. Bytes moved: the blocks once (where the columns are one tile), the rows of x from the
// cache, the result once.
#include <algorithm>
#include <type_traits>

#include "../common/dispatch.h"
#include "level.h"
#include "parallel.h"
#include "rows.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

template <int N>
using Int = std::integral_constant<int, N>;

template <class S, class I>
struct Blocks {
  using A = acc_t<S>;
  static constexpr int kWide = kBytes / sizeof(A);
  const BlockArgs& args;
  const S *const blocks, *const x, *const g;
  const int64_t size, width;  // of a block's memory, of a line

  explicit Blocks(const BlockArgs& given)
      : args(given),
        blocks(static_cast<const S*>(given.blocks)),
        x(static_cast<const S*>(given.x)),
        g(static_cast<const S*>(given.g)),
        size(given.row_size * given.col_size),
        width(given.width) {}

  int64_t id(int64_t edge) const {
    return args.edge_id ? static_cast<int64_t>(static_cast<const I*>(args.edge_id)[edge]) : edge;
  }
  int64_t col(int64_t edge) const { return static_cast<const I*>(args.col)[edge]; }

  // body(Int<W>, c): vectors of W columns.
  template <class Body>
  void for_columns(const Body& body) const {
    int64_t c = 0;
    for (; c + kWide <= width; c += kWide) body(Int<kWide>{}, c);
    if constexpr (kWide > 4)
      for (; c + 4 <= width; c += 4) body(Int<4>{}, c);
    for (; c < width; ++c) body(Int<1>{}, c);
  }

  // body(Int<N>, a): groups of N lines.
  template <class Body>
  static void for_lines(int64_t lines, const Body& body) {
    int64_t a = 0;
    for (; a + 8 <= lines; a += 8) body(Int<8>{}, a);
    for (; a + 4 <= lines; a += 4) body(Int<4>{}, a);
    if (lines - a == 3) return body(Int<3>{}, a);
    if (lines - a == 2) return body(Int<2>{}, a);
    if (lines - a == 1) body(Int<1>{}, a);
  }

  void products(int64_t begin, int64_t end, S* y) const {
    for (int64_t row = begin; row < end; ++row)
      for_columns([&](auto lanes, int64_t c) {
        constexpr int W = decltype(lanes)::value;
        for_lines(args.row_size, [&](auto lines, int64_t a) {
          constexpr int N = decltype(lines)::value;
          Vec<A, W> total[N] = {};
          for (int64_t edge = args.row_ptr[row]; edge < args.row_ptr[row + 1]; ++edge) {
            const S* const line = x + col(edge) * args.col_size * width + c;
            const S* const block = blocks + id(edge) * size + a * args.row_stride;
            for (int64_t b = 0; b < args.col_size; ++b) {
              const Vec<A, W> value = load<W>(line + b * width);
              for (int n = 0; n < N; ++n) total[n] += widen(block[n * args.row_stride + b * args.col_stride]) * value;
            }
          }
          for (int n = 0; n < N; ++n) store<W>(total[n], y + (row * args.row_size + a + n) * width + c);
        });
      });
  }

  void outer(int64_t begin, int64_t end, S* out) const {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t edge = args.row_ptr[row]; edge < args.row_ptr[row + 1]; ++edge)
        for_lines(args.row_size, [&](auto lines, int64_t a) {
          constexpr int N = decltype(lines)::value;
          const S* const of_row = g + (row * args.row_size + a) * width;
          S* const block = out + id(edge) * size + a * args.col_size;
          for (int64_t b = 0; b < args.col_size; ++b) {
            const S* const line = x + (col(edge) * args.col_size + b) * width;
            Vec<A, kWide> wide[N] = {};
            A rest[N] = {};
            int64_t c = 0;
            for (; c + kWide <= width; c += kWide)
              for (int n = 0; n < N; ++n) wide[n] += load<kWide>(of_row + n * width + c) * load<kWide>(line + c);
            for (; c < width; ++c)
              for (int n = 0; n < N; ++n) rest[n] += widen(of_row[n * width + c]) * widen(line[c]);
            for (int n = 0; n < N; ++n) narrow(sum<A, kWide>(wide[n]) + rest[n], block + n * args.col_size + b);
          }
        });
  }
};

// body(Blocks, begin, end) for ranges of rows of about equal work.
template <class Body>
void for_ranges(const BlockArgs& args, const Body& body) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    const Blocks<S, typename decltype(index)::type> job(args);
    const int64_t bytes = (args.row_size + args.width) * args.col_size * static_cast<int64_t>(sizeof(S));
    for_row_ranges(args.row_ptr, args.rows, bytes, args.threads,
                   [&](int64_t begin, int64_t end) { body(job, begin, end, static_cast<S*>(args.out)); });
  });
}

}  // namespace

void block_spmm(const BlockArgs& args) {
  for_ranges(args, [](const auto& job, int64_t begin, int64_t end, auto* out) { job.products(begin, end, out); });
}

void block_sddmm(const BlockArgs& args) {
  for_ranges(args, [](const auto& job, int64_t begin, int64_t end, auto* out) { job.outer(begin, end, out); });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
