// attention on the CPU. Rows are taken in batches whose logits stay in the first-level cache: logits and their maxima,
// all exponentials of the batch as one array, then the weighted sums, a tile of heads and columns in registers at a
// time, as in spmm.cpp. A row longer than a batch goes in pieces: when its maximum rises, what has been summed is
// scaled down. Bytes moved: the pattern and the scores once, each row of values once per edge, y and lse once.
#include <cmath>
#include <limits>

#include "../common/dispatch.h"
#include "level.h"
#include "parallel.h"
#include "scores.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

template <class S, class I>
struct Attention : Scores<S, I> {
  using A = acc_t<S>;
  using Base = Scores<S, I>;
  using Base::col;
  using Base::heads;
  using Base::row_ptr;
  using Base::width;
  static constexpr A kNone = -std::numeric_limits<A>::infinity();
  const S *dst, *src, *value;
  S* y;
  double* lse;
  bool drop_logits;

  explicit Attention(const AttentionArgs& args)
      : Base(args, args.row_ptr, args.col, args.edge_id),
        dst(static_cast<const S*>(args.dst)),
        src(static_cast<const S*>(args.src)),
        value(static_cast<const S*>(args.value)),
        y(static_cast<S*>(args.y)),
        lse(args.lse),
        drop_logits(args.drop_logits) {}

  // Logits of the edges [begin, end) of row r, and `top`, raised to their maximum.
  template <int KK>
  void logits(int64_t r, int64_t begin, int64_t end, int64_t k, const A* keep, A* out, A* top) const {
    const Vec<A, KK> near = dst ? load<KK>(dst + r * heads + k) : Vec<A, KK>{};
    Vec<A, KK> best = load<KK>(top + k);
    for (int64_t e = begin; e < end; ++e) {
      const int64_t at = (e - begin) * heads + k;
      const Vec<A, KK> ends = src ? near + load<KK>(src + col[e] * heads + k) : near;
      Vec<A, KK> l = this->template leaky<KK>(this->template z<KK>(ends, e, k));
      if (keep && drop_logits) {
        const Vec<A, KK> factor = load<KK>(keep + at);
        l = factor > A{0} ? l * factor : Vec<A, KK>{};
      }
      store<KK>(l, out + at);
      best = l > best ? l : best;
    }
    store<KK>(best, top + k);
  }

  // What is subtracted from logits with the maximum `top`.
  template <int KK>
  static Vec<A, KK> finite(Vec<A, KK> top) {
    return top == kNone ? Vec<A, KK>{} : top;
  }

  template <int KK>
  void subtract(int64_t n, int64_t k, const A* top, A* out) const {
    const Vec<A, KK> by = finite<KK>(load<KK>(top + k));
    for (int64_t i = 0; i < n; ++i) store<KK>(load<KK>(out + i * heads + k) - by, out + i * heads + k);
  }

  // Adds n rows of `weights` to `total`: in double, for a row may have a million small ones after a large one.
  template <int KK>
  void add(int64_t n, int64_t k, const A* weights, double* total) const {
    Vec<double, KK> sum = load<KK>(total + k);
    for (int64_t i = 0; i < n; ++i) sum += __builtin_convertvector(load<KK>(weights + i * heads + k), Vec<double, KK>);
    store<KK>(sum, total + k);
  }

  // Columns [c, c + NV * W) of heads [k, k + NT) of the edges [begin, end), which are those of the rows [first, last),
  // times `scale`, to y; or, with `sums`, a piece of one row, added to them.
  template <int W, int NV, int NT>
  void tile(int64_t first, int64_t last, int64_t begin, int64_t end, int64_t k, int64_t c, const A* weights,
            const A* scale, A* sums) const {
    const int64_t stride = heads * width, at = k * width + c;
    for (int64_t r = first; r < last; ++r) {
      Vec<A, W> sum[NT][NV] = {};
      if (sums)
        for (int i = 0; i < NT * NV; ++i) sum[i / NV][i % NV] = load<W>(sums + at + i / NV * width + i % NV * W);
      const int64_t stop = std::min(end, row_ptr[r + 1]);
      for (int64_t e = std::max(begin, row_ptr[r]); e < stop; ++e) {
        const S* from = value + col[e] * stride + at;
        const S* later = value + this->ahead(e) * stride + at;
        const A* weight = weights + (e - begin) * heads + k;
        for (int i = 0; i < NT; ++i) {
          prefetch(later + i * width, NV * W * sizeof(S));
          for (int v = 0; v < NV; ++v) sum[i][v] += weight[i] * load<W>(from + i * width + v * W);
        }
      }
      for (int i = 0; i < NT * NV; ++i) {
        const int64_t to = at + i / NV * width + i % NV * W;
        if (sums)
          store<W>(sum[i / NV][i % NV], sums + to);
        else
          store<W>(sum[i / NV][i % NV] * scale[(r - first) * heads + k + i / NV], y + r * stride + to);
      }
    }
  }

  // lse of row r, and in `scale` what its weights are multiplied by.
  void finish(int64_t r, const A* top, const double* total, A* scale) const {
    for (int64_t k = 0; k < heads; ++k) {
      const bool none = total[k] == 0;
      lse[r * heads + k] = none ? 0.0 : double{top[k]} + std::log(static_cast<A>(total[k]));
      scale[k] = none ? A{0} : static_cast<A>(1 / total[k]);
    }
  }

  void rows(int64_t first_row, int64_t last_row) const {
    const int64_t most = Batch<A>::edges(heads);
    Batch<A> weights(heads), keeps(this->threshold ? heads : 1), tops(heads), scales(heads);
    Batch<double> totals(heads);
    const Buffer<A> sums(heads * width), before(heads + 16);
    A *const w = weights.get(), *const top = tops.get(), *const scale = scales.get();
    double* const total = totals.get();
    const A* const keep = this->threshold ? keeps.get() : nullptr;
    for_batches(row_ptr, first_row, last_row, most, [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
      const bool piece = end - begin < row_ptr[last] - row_ptr[first];
      const int64_t n = (last - first) * heads, edges = end - begin;
      const auto from = [&](int64_t r) { return piece ? 0 : row_ptr[r] - begin; };
      const auto count = [&](int64_t r) { return piece ? edges : row_ptr[r + 1] - row_ptr[r]; };
      if (keep) this->dropout(begin, end, keeps.get());
      if (!piece || begin == row_ptr[first]) {
        std::fill(top, top + n, kNone);
        std::fill(total, total + n, 0.0);
        if (piece) std::fill(sums.get(), sums.get() + heads * width, A{0});
      }
      if (piece) std::copy(top, top + heads, before.get());
      for (int64_t r = first; r < last; ++r) {
        A *const mine = w + from(r) * heads, *const my_top = top + (r - first) * heads;
        const A* const my_keep = keep ? keep + from(r) * heads : nullptr;
        for_heads<S>(heads, [&](auto group, int64_t k) {
          constexpr int KK = decltype(group)::value;
          const int64_t b = begin + from(r);
          this->template logits<KK>(r, b, b + count(r), k, my_keep, mine, my_top);
          this->template subtract<KK>(count(r), k, my_top, mine);
        });
      }
      exp_all(w, edges * heads);
      if (piece) rescale(before.get(), top, total, sums.get());
      for (int64_t r = first; r < last; ++r)
        for_heads<S>(heads, [&](auto group, int64_t k) {
          this->template add<decltype(group)::value>(count(r), k, w + from(r) * heads, total + (r - first) * heads);
        });
      if (keep && !drop_logits)
        for (int64_t i = 0; i < edges * heads; ++i) w[i] *= keep[i];
      if (!piece)
        for (int64_t r = first; r < last; ++r) {
          const int64_t at = (r - first) * heads;
          finish(r, top + at, total + at, scale + at);
        }
      for_tiles<S>(heads, width, [&](auto lanes, auto vectors, auto tasks, int64_t k, int64_t c) {
        constexpr int W = decltype(lanes)::value, NV = decltype(vectors)::value, NT = decltype(tasks)::value;
        this->template tile<W, NV, NT>(first, last, begin, end, k, c, w, scale, piece ? sums.get() : nullptr);
      });
      if (piece && end == row_ptr[last]) {
        finish(first, top, total, scale);
        for (int64_t i = 0; i < heads * width; ++i)
          narrow(sums.get()[i] * scale[i / width], y + first * heads * width + i);
      }
    });
  }

  // Sums relative to the maxima `before`, relative to `top`.
  void rescale(A* before, const A* top, double* total, A* sums) const {
    for_heads<S>(heads, [&](auto group, int64_t k) {
      constexpr int KK = decltype(group)::value;
      store<KK>(load<KK>(before + k) - finite<KK>(load<KK>(top + k)), before + k);
    });
    exp_all(before, heads);
    for (int64_t k = 0; k < heads; ++k) total[k] *= before[k];
    for (int64_t i = 0; i < heads * width; ++i) sums[i] *= before[i / width];
  }
};

}  // namespace

void attention(const AttentionArgs& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    const Attention<S, typename decltype(index)::type> job(args);
    const int64_t edge_bytes = args.heads * (args.width + 4) * static_cast<int64_t>(sizeof(S)) + 8;
    for_row_ranges(args.row_ptr, args.rows, edge_bytes, args.threads,
                   [&](int64_t begin, int64_t end) { job.rows(begin, end); });
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
