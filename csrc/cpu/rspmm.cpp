// rspmm on the CPU. As in spmm a row is summed in registers, a tile of columns at a time, and rows of both operands are
// fetched kAhead edges before they are needed. Bytes moved: the pattern once per tile, two rows per edge (those of
// relations are few and stay in the cache), y once.
#include "../contract/rspmm.h"

#include <algorithm>
#include <type_traits>

#include "../common/dispatch.h"
#include "edges.h"
#include "level.h"
#include "parallel.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

template <int N>
using Int = std::integral_constant<int, N>;

template <class S, class I>
struct Rspmm : Edges<S, I> {
  using A = acc_t<S>;
  using Edges<S, I>::row_ptr;
  using Edges<S, I>::col;
  using Edges<S, I>::width;
  const RspmmArgs& args;
  const I* two;
  const S *a, *b, *c;
  S* y;
  int64_t half;
  A sign;  // of the imaginary part of b: -1 where it is conjugated

  explicit Rspmm(const RspmmArgs& r)
      : Edges<S, I>(r, r.w),
        args(r),
        two(static_cast<const I*>(r.two)),
        a(static_cast<const S*>(r.a)),
        b(static_cast<const S*>(r.b)),
        c(static_cast<const S*>(r.c)),
        y(static_cast<S*>(r.y)),
        half(r.half),
        sign(r.to == RspmmTo::Src || r.to == RspmmTo::Rel ? A{-1} : A{1}) {}

  const S* a_of(int64_t e) const { return a + col[e] * width; }
  const S* b_of(int64_t e) const { return b + two[e] * width; }
  void fetch(int64_t e, int64_t at, int bytes) const {
    const int64_t later = e + kAhead < this->last ? e + kAhead : this->last;
    prefetch(a_of(later) + at, bytes);
    prefetch(b_of(later) + at, bytes);
  }

  // Columns [at, at + NV * W) of the rows [begin, end). Of a rotation real parts are counted, of all blocks; their
  // imaginary parts come with them.
  template <int W, int NV, bool Rotate, bool Weighted>
  void tile(int64_t begin, int64_t end, int64_t at) const {
    constexpr int P = Rotate ? 2 : 1;
    int64_t column[NV];
    for (int k = 0; k < NV; ++k) {
      const int64_t unit = at + k * W;
      column[k] = Rotate ? unit / half * 2 * half + unit % half : unit;
    }
    Coefficients<S, I, 1> coefficients(*this, row_ptr[begin], row_ptr[end], 0);
    for (int64_t r = begin; r < end; ++r) {
      Vec<A, W> sum[P][NV] = {};
      for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
        const S *left = a_of(e), *right = b_of(e);
        // The parts of blocks lie together as far as tiles have whole ones.
        fetch(e, column[0], P * NV * W * sizeof(S));
        const A weight = Weighted ? *coefficients.of(e) : A{1};
        for (int k = 0; k < NV; ++k) {
          Vec<A, W> x = load<W>(left + column[k]);
          const Vec<A, W> z = load<W>(right + column[k]);
          if constexpr (Weighted) x *= weight;
          if constexpr (Rotate) {
            Vec<A, W> xi = load<W>(left + column[k] + half);
            const Vec<A, W> zi = sign * load<W>(right + column[k] + half);
            if constexpr (Weighted) xi *= weight;
            sum[0][k] += x * z - xi * zi;
            sum[1][k] += x * zi + xi * z;
          } else {
            sum[0][k] += x * z;
          }
        }
      }
      const A scale = this->scale_of_row(r);
      for (int p = 0; p < P; ++p)
        for (int k = 0; k < NV; ++k) store<W>(sum[p][k] * scale, y + r * width + column[k] + p * half);
    }
  }

  // Columns [at, to): the widest tiles that the registers hold, then narrower ones. Vectors have to divide `block`.
  template <bool Rotate, bool Weighted>
  void columns(int64_t begin, int64_t end, int64_t at, int64_t to, int64_t block) const {
    constexpr int W = kWidth<S>, P = Rotate ? 2 : 1;
    const auto run = [&](auto lanes, auto vectors) {
      constexpr int N = decltype(lanes)::value, NV = decltype(vectors)::value;
      if constexpr (NV * P <= kRegisters || NV == 1)
        if (block % N == 0)
          for (; at + NV * N <= to; at += NV * N) this->template tile<N, NV, Rotate, Weighted>(begin, end, at);
    };
    run(Int<W>{}, Int<8>{});
    run(Int<W>{}, Int<4>{});
    run(Int<W>{}, Int<2>{});
    run(Int<W>{}, Int<1>{});
    if constexpr (W > 8) run(Int<8>{}, Int<1>{});
    run(Int<4>{}, Int<1>{});
    run(Int<2>{}, Int<1>{});
    run(Int<1>{}, Int<1>{});
  }

  template <bool Weighted>
  void sums_of(int64_t begin, int64_t end) const {
    if (!half) return columns<false, Weighted>(begin, end, 0, width, 0);
    // A tile takes vectors of several blocks where none has parts of two.
    if (half % kWidth<S> == 0) return columns<true, Weighted>(begin, end, 0, width / 2, half);
    for (int64_t at = 0; at < width / 2; at += half) columns<true, Weighted>(begin, end, at, at + half, 0);
  }

  void sums(int64_t begin, int64_t end) const {
    this->has_coefficient() ? sums_of<true>(begin, end) : sums_of<false>(begin, end);
  }

  static constexpr int kTile = 64;

  // body(row, first column, number of columns) for every tile of every row; a tile has parts of one kind.
  template <class Body>
  void for_tiles(int64_t begin, int64_t end, const Body& body) const {
    const int64_t block = half ? half : width;
    for (int64_t r = begin; r < end; ++r)
      for (int64_t first = 0; first < width; first += block)
        for (int64_t at = first; at < first + block; at += kTile)
          body(r, at, static_cast<int>(std::min<int64_t>(kTile, first + block - at)));
  }

  // The messages of columns [at, at + n) of edge e. `named` is the row of arg that chooses elements of a, or null.
  void message(int64_t e, int64_t at, int n, const I* named, A* out) const {
    named ? made<true>(e, at, n, named, out) : made<false>(e, at, n, named, out);
  }
  // Loops without branches, which are vectorised.
  template <bool Named>
  void made(int64_t e, int64_t at, int n, const I* named, A* out) const {
    const I id = static_cast<I>(this->id(e));
    const auto chosen = [&](const S* from, int64_t column, int k) {
      const A value = widen(from[k]);
      if constexpr (Named) return named[column + k] == id ? value : A{0};
      return value;
    };
    const bool imaginary = half && at / half % 2;
    const int64_t re = imaginary ? at - half : at, im = re + half;
    const S *x = a_of(e) + re, *z = b_of(e) + re, *xi = a_of(e) + im, *zi = b_of(e) + im;
    if (args.message == Message::Add)
      for (int k = 0; k < n; ++k) out[k] = widen(x[k]) + widen(z[k]);
    else if (!half)
      for (int k = 0; k < n; ++k) out[k] = chosen(x, re, k) * widen(z[k]);
    else if (imaginary)
      for (int k = 0; k < n; ++k) out[k] = chosen(x, re, k) * sign * widen(zi[k]) + chosen(xi, im, k) * widen(z[k]);
    else
      for (int k = 0; k < n; ++k) out[k] = chosen(x, re, k) * widen(z[k]) - chosen(xi, im, k) * sign * widen(zi[k]);
  }

  // A NaN wins and stays; of equal messages the first edge wins.
  template <bool Max>
  void extremes(int64_t begin, int64_t end) const {
    I* const winner = static_cast<I*>(args.new_arg);
    for_tiles(begin, end, [&](int64_t r, int64_t at, int n) {
      A best[kTile], value[kTile];
      int32_t place[kTile];
      const int64_t first = row_ptr[r];
      for (int64_t e = first; e < row_ptr[r + 1]; ++e) {
        fetch(e, at, n * static_cast<int>(sizeof(S)));
        message(e, at, n, nullptr, value);
        const A weight = this->coefficient(e, 0);
        const int32_t here = static_cast<int32_t>(e - first);
        for (int k = 0; k < n; ++k) {
          const A mine = weight * value[k];
          const bool wins =
              (here == 0) | (Max ? mine > best[k] : mine < best[k]) | ((mine != mine) & (best[k] == best[k]));
          best[k] = wins ? mine : best[k];
          place[k] = wins ? here : place[k];
        }
      }
      const bool empty = first == row_ptr[r + 1];
      for (int k = 0; k < n; ++k) {
        narrow(empty ? A{0} : best[k], y + r * width + at + k);
        winner[r * width + at + k] = static_cast<I>(empty ? -1 : this->id(first + place[k]));
      }
    });
  }

  // Sums over those edges only that `arg` names.
  void selected(int64_t begin, int64_t end) const {
    for_tiles(begin, end, [&](int64_t r, int64_t at, int n) {
      A sum[kTile] = {}, value[kTile];
      for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
        fetch(e, at, n * static_cast<int>(sizeof(S)));
        const I* const named = this->arg + (this->arg_of_rows ? r : static_cast<int64_t>(col[e])) * width;
        message(e, at, n, this->arg_of_rows ? nullptr : named, value);
        const A weight = this->coefficient(e, 0);
        const I id = static_cast<I>(this->id(e));
        if (this->arg_of_rows) {
          for (int k = 0; k < n; ++k) sum[k] += named[at + k] == id ? weight * value[k] : A{0};
        } else {
          for (int k = 0; k < n; ++k) sum[k] += weight * value[k];
        }
      }
      const A scale = this->scale_of_row(r);
      for (int k = 0; k < n; ++k) narrow(sum[k] * scale, y + r * width + at + k);
    });
  }

  // The dot product of c with the message of edge e over columns [at, to), in vectors of W as far as they go.
  template <int W, bool Rotate>
  A dot(const S* mine, int64_t e, int64_t& at, int64_t to) const {
    const S *left = a_of(e), *right = b_of(e);
    Vec<A, W> total = {};
    for (; at + W <= to; at += W) {
      const Vec<A, W> x = load<W>(left + at), z = load<W>(right + at), g = load<W>(mine + at);
      if constexpr (Rotate) {
        const Vec<A, W> xi = load<W>(left + at + half), zi = load<W>(right + at + half);
        total += g * (x * z - xi * zi) + load<W>(mine + at + half) * (x * zi + xi * z);
      } else {
        total += g * x * z;
      }
    }
    return sum<A, W>(total);
  }

  template <bool Rotate>
  A whole_dot(const S* mine, int64_t e) const {
    A total{0};
    const int64_t block = Rotate ? half : width, step = Rotate ? 2 * half : width;
    for (int64_t first = 0; first < width; first += step) {
      int64_t at = first;
      total += dot<kWidth<S>, Rotate>(mine, e, at, first + block);
      total += dot<4, Rotate>(mine, e, at, first + block);
      total += dot<1, Rotate>(mine, e, at, first + block);
    }
    return total;
  }

  void edges(int64_t begin, int64_t end) const {
    for (int64_t r = begin; r < end; ++r) {
      const S* const mine = c + r * width;
      const I* const named = this->arg ? this->arg + r * width : nullptr;
      const A scale = this->scale_of_row(r);
      for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
        fetch(e, 0, static_cast<int>(std::min<int64_t>(width * sizeof(S), 1024)));
        this->prefetch_output(y, e, 0);
        A total{0};
        if (named)
          total = chosen_dot(mine, named, e);
        else
          total = half ? whole_dot<true>(mine, e) : whole_dot<false>(mine, e);
        narrow(total * scale, y + this->id(e));
      }
    }
  }

  A chosen_dot(const S* mine, const I* named, int64_t e) const {
    A value[kTile], total{0};
    const I id = static_cast<I>(this->id(e));
    for_tiles(0, 1, [&](int64_t, int64_t at, int n) {
      message(e, at, n, nullptr, value);
      for (int k = 0; k < n; ++k) total += named[at + k] == id ? widen(mine[at + k]) * value[k] : A{0};
    });
    return total;
  }
};

}  // namespace

void rspmm(const RspmmArgs& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    const Rspmm<S, typename decltype(index)::type> job(args);
    const int64_t edge_bytes = 2 * args.width * static_cast<int64_t>(sizeof(S)) + 12;
    for_row_ranges(args.row_ptr, args.rows, edge_bytes, args.threads, [&](int64_t begin, int64_t end) {
      if (args.to == RspmmTo::Edge) return job.edges(begin, end);
      if (args.reduce == Reduce::Max) return job.template extremes<true>(begin, end);
      if (args.reduce == Reduce::Min) return job.template extremes<false>(begin, end);
      args.arg ? job.selected(begin, end) : job.sums(begin, end);
    });
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
