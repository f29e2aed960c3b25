// spmm on the CPU. A row is summed in registers, a tile of columns at a time: kRegisters vectors of 64 bytes, fetched
// kAhead edges before they are needed. All T tasks of a tile are served by one visit to the edge. Bytes moved: the
// pattern once per tile (from the cache after the first), each row of x once per edge, y once.
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
struct Spmm : Edges<S, I> {
  using A = acc_t<S>;
  using Edges<S, I>::row_ptr;
  using Edges<S, I>::col;
  using Edges<S, I>::width;
  using Edges<S, I>::tasks;
  const SpmmArgs& args;
  const S* x;
  S* y;
  int64_t x_stride, y_stride;

  explicit Spmm(const SpmmArgs& a)
      : Edges<S, I>(a, a.w),
        args(a),
        x(static_cast<const S*>(a.x)),
        y(static_cast<S*>(a.y)),
        x_stride(a.width * (a.x_per_task ? a.tasks : 1)),
        y_stride(a.width * (a.y_per_task ? a.tasks : 1)) {}

  // Columns [c, c + NV * W) of tasks [t, t + NT) of the rows [begin, end).
  // XT, YT: whether x and y have the task axis; without it in y the sum runs over all tasks.
  template <int W, int NV, int NT, bool XT, bool YT, bool Weighted>
  void tile(int64_t begin, int64_t end, int64_t t, int64_t c) const {
    const int64_t x_at = (XT && YT ? t * width : 0) + c, y_at = (YT ? t * width : 0) + c;
    Coefficients<S, I, NT> coefficients(*this, row_ptr[begin], row_ptr[end], t);
    for (int64_t r = begin; r < end; ++r) {
      Vec<A, W> sum[NT][NV] = {};
      for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
        const S* from = x + col[e] * x_stride + x_at;
        const S* later = x + this->ahead(e) * x_stride + x_at;
        if constexpr (!YT) {
          for (int64_t task = 0; task < tasks; ++task) {
            prefetch(later + task * width, NV * W * sizeof(S));
            const A weight = this->coefficient(e, task);
            for (int k = 0; k < NV; ++k) sum[0][k] += weight * load<W>(from + task * width + k * W);
          }
        } else if constexpr (!XT) {
          prefetch(later, NV * W * sizeof(S));
          const A* weight = coefficients.of(e);
          for (int k = 0; k < NV; ++k) {
            const Vec<A, W> value = load<W>(from + k * W);
            for (int i = 0; i < NT; ++i) sum[i][k] += weight[i] * value;
          }
        } else {
          const A* weight = Weighted ? coefficients.of(e) : nullptr;
          for (int i = 0; i < NT; ++i) {
            prefetch(later + i * width, NV * W * sizeof(S));
            for (int k = 0; k < NV; ++k) {
              const Vec<A, W> value = load<W>(from + i * width + k * W);
              sum[i][k] += Weighted ? weight[i] * value : value;
            }
          }
        }
      }
      const A scale = this->scale_of_row(r);
      for (int i = 0; i < NT; ++i)
        for (int k = 0; k < NV; ++k) store<W>(sum[i][k] * scale, y + r * y_stride + y_at + i * width + k * W);
    }
  }

  // All columns of NT tasks: the widest tiles that the registers hold, then narrower ones.
  template <int NT, bool XT, bool YT, bool Weighted>
  void columns(int64_t begin, int64_t end, int64_t t) const {
    constexpr int W = kWidth<S>;
    int64_t c = 0;
    const auto run = [&](auto lanes, auto vectors) {
      constexpr int N = decltype(lanes)::value, NV = decltype(vectors)::value;
      if constexpr (NV * NT <= kRegisters || NV == 1)
        for (; c + NV * N <= this->width; c += NV * N)
          this->template tile<N, NV, NT, XT, YT, Weighted>(begin, end, t, c);
    };
    if constexpr (NT == 1) {
      run(Int<W>{}, Int<16>{});
      run(Int<W>{}, Int<8>{});
    }
    run(Int<W>{}, Int<4>{});
    run(Int<W>{}, Int<2>{});
    run(Int<W>{}, Int<1>{});
    if constexpr (W > 8) run(Int<8>{}, Int<1>{});
    run(Int<4>{}, Int<1>{});
    run(Int<2>{}, Int<1>{});
    run(Int<1>{}, Int<1>{});
  }

  template <bool XT>
  void all_tasks(int64_t begin, int64_t end) const {
    int64_t t = 0;
    for (; t + 4 <= tasks; t += 4) columns<4, XT, true, true>(begin, end, t);
    for (; t + 2 <= tasks; t += 2) columns<2, XT, true, true>(begin, end, t);
    for (; t < tasks; ++t) columns<1, XT, true, true>(begin, end, t);
  }

  void sums(int64_t begin, int64_t end) const {
    if (tasks == 1)
      this->has_coefficient() ? columns<1, true, true, true>(begin, end, 0)
                              : columns<1, true, true, false>(begin, end, 0);
    else if (!args.y_per_task)
      columns<1, true, false, true>(begin, end, 0);
    else if (args.x_per_task)
      all_tasks<true>(begin, end);
    else
      all_tasks<false>(begin, end);
  }

  static constexpr int kTile = 64;

  // body(row, task, first column, number of columns) for every tile of every row.
  template <class Body>
  void for_tiles(int64_t begin, int64_t end, const Body& body) const {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t t = 0; t < tasks; ++t)
        for (int64_t c = 0; c < width; c += kTile) body(r, t, c, static_cast<int>(std::min<int64_t>(kTile, width - c)));
  }

  // A NaN wins and stays; of equal messages the first edge wins.
  template <bool Max>
  void extremes(int64_t begin, int64_t end) const {
    I* const winner = static_cast<I*>(args.new_arg);
    for_tiles(begin, end, [&](int64_t r, int64_t t, int64_t c, int n) {
      A best[kTile];
      int32_t at[kTile];
      const int64_t first = row_ptr[r], x_at = (args.x_per_task ? t * width : 0) + c;
      const int64_t y_at = r * y_stride + t * width + c;
      for (int64_t e = first; e < row_ptr[r + 1]; ++e) {
        const S* from = x + col[e] * x_stride + x_at;
        prefetch(x + this->ahead(e) * x_stride + x_at, n * static_cast<int>(sizeof(S)));
        const A weight = this->coefficient(e, t);
        const int32_t place = static_cast<int32_t>(e - first);
        for (int k = 0; k < n; ++k) {
          const A message = weight * widen(from[k]);
          const bool wins = (place == 0) | (Max ? message > best[k] : message < best[k]) |
                            ((message != message) & (best[k] == best[k]));
          best[k] = wins ? message : best[k];
          at[k] = wins ? place : at[k];
        }
      }
      const bool empty = first == row_ptr[r + 1];
      for (int k = 0; k < n; ++k) {
        narrow(empty ? A{0} : best[k], y + y_at + k);
        winner[y_at + k] = static_cast<I>(empty ? -1 : this->id(first + at[k]));
      }
    });
  }

  // Sums over those edges only that `arg` names.
  void selected(int64_t begin, int64_t end) const {
    for_tiles(begin, end, [&](int64_t r, int64_t t, int64_t c, int n) {
      A sum[kTile] = {};
      const int64_t full = tasks * width, tile_at = t * width + c, x_at = (args.x_per_task ? t * width : 0) + c;
      for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
        const S* from = x + col[e] * x_stride + x_at;
        const I* edge = this->arg + (this->arg_of_rows ? r : static_cast<int64_t>(col[e])) * full + tile_at;
        const A weight = this->coefficient(e, t);
        const I id = static_cast<I>(this->id(e));
#pragma GCC ivdep  // as in sddmm: one loop, wherever the memory lies
        for (int k = 0; k < n; ++k) sum[k] += edge[k] == id ? weight * widen(from[k]) : A{0};
      }
      const A scale = this->scale_of_row(r);
      S* to = y + r * y_stride + (args.y_per_task || tasks == 1 ? t * width : 0) + c;
      // Without a task axis in y the tasks add up, in order.
      for (int k = 0; k < n; ++k) {
        const bool more = !args.y_per_task && t > 0;
        narrow(sum[k] * scale + (more ? widen(to[k]) : A{0}), to + k);
      }
    });
  }
};

}  // namespace

void spmm(const SpmmArgs& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    const Spmm<S, typename decltype(index)::type> job(args);
    const int64_t edge_bytes = job.x_stride * static_cast<int64_t>(sizeof(S)) + 8;
    for_row_ranges(args.row_ptr, args.rows, edge_bytes, args.threads, [&](int64_t begin, int64_t end) {
      if (args.reduce == Reduce::Max) return job.template extremes<true>(begin, end);
      if (args.reduce == Reduce::Min) return job.template extremes<false>(begin, end);
      args.arg ? job.selected(begin, end) : job.sums(begin, end);
    });
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
