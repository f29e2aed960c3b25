// sddmm and spmm_backward on the CPU. The row of `a` stays in the first-level cache, each edge brings one row of `b`,
// which is used for the dot product and, in spmm_backward, for the sum: what two kernels would read twice.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "../common/dispatch.h"
#include "edges.h"
#include "level.h"
#include "parallel.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

template <class S, class I>
struct Sddmm : Edges<S, I> {
  using A = acc_t<S>;
  using Edges<S, I>::row_ptr;
  using Edges<S, I>::col;
  using Edges<S, I>::width;
  using Edges<S, I>::tasks;
  static constexpr int W = kWidth<S>;
  const SddmmArgs& args;
  const S *a, *b;
  S *out, *y;
  int64_t a_stride, b_stride;

  explicit Sddmm(const SddmmArgs& s)
      : Edges<S, I>(s, s.w),
        args(s),
        a(static_cast<const S*>(s.a)),
        b(static_cast<const S*>(s.b)),
        out(static_cast<S*>(s.out)),
        y(static_cast<S*>(s.y)),
        a_stride(s.width * (s.a_per_task ? s.tasks : 1)),
        b_stride(s.width * (s.b_per_task ? s.tasks : 1)) {}

  // Tasks [t, t + NT) of one row of width NV * W. AT: whether `a` and y have the task axis; `total` is the sum.
  template <int NV, int NT, bool AT, bool Y>
  void edges(int64_t r, int64_t t, A* total) const {
    constexpr int NS = AT ? NT : 1;
    const int64_t b_step = args.b_per_task ? width : 0;
    const S* const mine = a + r * a_stride + (AT ? t * width : 0);
    Vec<A, W> sums[NS][NV];
    if constexpr (Y)
      for (int k = 0; k < NS * NV; ++k) sums[k / NV][k % NV] = load<W>(total + k * W);
    const A row_scale = this->scale_of_row(r);
    for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
      const S* const theirs = b + col[e] * b_stride + t * b_step;
      const S* const later = b + this->ahead(e) * b_stride + t * b_step;
      this->prefetch_output(out, e, t);
      const A scale = this->col_scale ? this->col_scale[col[e]] : row_scale;
      S* const to = out + this->id(e) * tasks + t;
      for (int i = 0; i < NT; ++i) {
        if (i == 0 || b_step) prefetch(later + i * b_step, NV * W * sizeof(S));
        const A weight = Y ? this->coefficient(e, t + i) : A{0};
        Vec<A, W> dots = {};
        for (int k = 0; k < NV; ++k) {
          const Vec<A, W> value = load<W>(theirs + i * b_step + k * W);
          dots += value * load<W>(mine + (AT ? i * width : 0) + k * W);
          if constexpr (Y) sums[AT ? i : 0][k] += weight * value;
        }
        narrow(sum<A, W>(dots) * scale, to + i);
      }
    }
    if constexpr (Y)
      for (int k = 0; k < NS * NV; ++k) store<W>(sums[k / NV][k % NV], total + k * W);
  }

  // One task of one row of any width; the sum stays in memory, in the first-level cache. Without ivdep there would be
  // two loops, one with fused products and one without, and where the memory lies would decide which of them rounds.
  template <bool Y>
  void edges_of_any_width(int64_t r, int64_t t, A* total) const {
    const S* const mine = a + r * a_stride + (args.a_per_task ? t * width : 0);
    const int64_t b_at = args.b_per_task ? t * width : 0;
    const A row_scale = this->scale_of_row(r);
    for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
      const S* const theirs = b + col[e] * b_stride + b_at;
      prefetch(b + this->ahead(e) * b_stride + b_at, static_cast<int>(width * sizeof(S)));
      const A weight = Y ? this->coefficient(e, t) : A{0};
      Vec<A, W> dots = {};
      int64_t c = 0;
      for (; c + W <= width; c += W) {
        const Vec<A, W> value = load<W>(theirs + c);
        dots += value * load<W>(mine + c);
        if constexpr (Y) store<W>(load<W>(total + c) + weight * value, total + c);
      }
      A dot = sum<A, W>(dots);
#pragma GCC ivdep
      for (; c < width; ++c) {
        const A value = widen(theirs[c]);
        dot += value * widen(mine[c]);
        if constexpr (Y) total[c] += weight * value;
      }
      narrow(dot * (this->col_scale ? this->col_scale[col[e]] : row_scale), out + this->id(e) * tasks + t);
    }
  }

  // The same over those edges and columns only that `arg` names.
  void selected(int64_t r, int64_t t, A* total) const {
    const S* const mine = a + r * a_stride + (args.a_per_task ? t * width : 0);
    const A row_scale = this->scale_of_row(r);
    for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
      const S* const theirs = b + col[e] * b_stride + (args.b_per_task ? t * width : 0);
      const int64_t node = this->arg_of_rows ? r : static_cast<int64_t>(col[e]);
      const I* const edge = this->arg + node * tasks * width + t * width;
      const I id = static_cast<I>(this->id(e));
      const A weight = this->coefficient(e, t);
      A dot = 0;
#pragma GCC ivdep
      for (int64_t c = 0; c < width; ++c) {
        if (edge[c] != id) continue;
        const A value = widen(theirs[c]);
        dot += value * widen(mine[c]);
        if (y) total[c] += weight * value;
      }
      narrow(dot * (this->col_scale ? this->col_scale[col[e]] : row_scale), out + this->id(e) * tasks + t);
    }
  }

  // NT tasks of a row with registers for all of them, if there are; whether there were.
  template <int NT, bool AT, bool Y>
  bool in_registers(int64_t r, int64_t t, A* total) const {
    bool done = false;
    const auto attempt = [&](auto vectors) {
      constexpr int NV = decltype(vectors)::value;
      if constexpr (NV * NT <= kRegisters)
        if (this->width == NV * W) this->template edges<NV, NT, AT, Y>(r, t, total), done = true;
    };
    attempt(std::integral_constant<int, 1>{});
    attempt(std::integral_constant<int, 2>{});
    attempt(std::integral_constant<int, 4>{});
    attempt(std::integral_constant<int, 8>{});
    attempt(std::integral_constant<int, 16>{});
    return done;
  }

  template <bool AT, bool Y>
  void row(int64_t r, A* total) const {
    int64_t t = 0;
    const auto at = [&] { return Y && AT ? total + t * this->width : total; };
    if (!this->arg) {
      while (t + 4 <= tasks && in_registers<4, AT, Y>(r, t, at())) t += 4;
      while (t + 2 <= tasks && in_registers<2, AT, Y>(r, t, at())) t += 2;
    }
    for (; t < tasks; ++t) {
      if (this->arg)
        selected(r, t, at());
      else if (!in_registers<1, AT, Y>(r, t, at()))
        edges_of_any_width<Y>(r, t, at());
    }
  }

  void rows(int64_t begin, int64_t end) const {
    std::vector<A> total(y ? a_stride : 0);
    for (int64_t r = begin; r < end; ++r) {
      std::fill(total.begin(), total.end(), A{0});
      if (y)
        args.a_per_task ? row<true, true>(r, total.data()) : row<false, true>(r, total.data());
      else
        args.a_per_task ? row<true, false>(r, nullptr) : row<false, false>(r, nullptr);
      const A scale = this->scale_of_row(r);
      for (size_t c = 0; c < total.size(); ++c) narrow(total[c] * scale, y + r * a_stride + c);
    }
  }
};

}  // namespace

void sddmm(const SddmmArgs& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    const Sddmm<S, typename decltype(index)::type> job(args);
    const int64_t edge_bytes = job.b_stride * static_cast<int64_t>(sizeof(S)) + 8;
    for_row_ranges(args.row_ptr, args.rows, edge_bytes, args.threads,
                   [&](int64_t begin, int64_t end) { job.rows(begin, end); });
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
