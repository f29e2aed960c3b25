// gather_relu and gather_relu_backward on the CPU. The sum of both ends is made once for an edge and stays in the
// first-level cache with the rows of the samples; the block of B rows of an edge goes by as one stream. All three sums
// are made in one pass over g: those of an edge and of its row while they are gone through, those of samples and of
// columns in a table for each of a few chunks of rows. More threads than chunks share the columns, whose sums do not
// depend on one another. Bytes moved: forward the output once; backward g once and the tables, a small part of it.
#include <algorithm>
#include <type_traits>

#include "../common/dispatch.h"
#include "level.h"
#include "parallel.h"
#include "rows.h"
#include "scores.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

template <class S, class I>
struct GatherRelu {
  using A = acc_t<S>;
  const GatherReluArgs& args;
  const S *h, *s, *t, *at_h, *at_s, *at_t;
  const int64_t width;

  explicit GatherRelu(const GatherReluArgs& given)
      : args(given),
        h(static_cast<const S*>(given.h)),
        s(static_cast<const S*>(given.s)),
        t(static_cast<const S*>(given.t)),
        at_h(static_cast<const S*>(given.at_h)),
        at_s(static_cast<const S*>(given.at_s)),
        at_t(static_cast<const S*>(given.at_t)),
        width(given.width) {}

  int64_t id(int64_t e) const {
    return args.edge_id ? static_cast<int64_t>(static_cast<const I*>(args.edge_id)[e]) : e;
  }
  int64_t col(int64_t e) const { return static_cast<const I*>(args.col)[e]; }

  // The row that has the edge at `e`.
  int64_t row_of(int64_t e) const {
    int64_t low = 0, high = args.rows;  // row_ptr[low] <= e < row_ptr[high]
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (args.row_ptr[middle] <= e ? low : high) = middle;
    }
    return low;
  }

  // body(Int<W>, c) for the columns [begin, end).
  template <class Body>
  static void for_columns(int64_t begin, int64_t end, const Body& body) {
    constexpr int W = kBytes / sizeof(A);
    int64_t c = begin;
    for (; c + W <= end; c += W) body(Int<W>{}, c);
    if constexpr (W > 4)
      for (; c + 4 <= end; c += 4) body(Int<4>{}, c);
    for (; c < end; ++c) body(Int<1>{}, c);
  }

  // out = left + right, of which null is 0.
  static void add(const S* left, const S* right, int64_t begin, int64_t end, A* out) {
    for_columns(begin, end, [&](auto lanes, int64_t c) {
      constexpr int W = decltype(lanes)::value;
      Vec<A, W> sum{};
      if (left) sum += load<W>(left + c);
      if (right) sum += load<W>(right + c);
      store<W>(sum, out + c);
    });
  }

  // P value
  template <int W>
  static Vec<A, W> where_positive(Vec<A, W> at, Vec<A, W> value) {
    return at <= A{0} ? Vec<A, W>{} : value;
  }

  // The edges at [begin, end). Relu: at_h, at_s and at_t are what is summed; else `sampled`: whether there is h.
  template <bool Relu, bool Sampled>
  void edges(int64_t begin, int64_t end, S* out) const {
    const Buffer<A> ends(width), at_ends(width);
    A *const of_ends = ends.get(), *const at_of_ends = at_ends.get();
    int64_t row = row_of(begin);
    for (int64_t e = begin; e < end; ++e) {
      while (e >= args.row_ptr[row + 1]) ++row;
      const int64_t src = col(e) * width, dst = row * width;
      add(at_s + src, at_t + dst, 0, width, at_of_ends);
      if (!Relu) add(s ? s + src : nullptr, t ? t + dst : nullptr, 0, width, of_ends);
      S* to = out + id(e) * args.samples * width;
      for (int64_t b = 0; b < args.samples; ++b, to += width) {
        const S *const sample = Sampled ? h + b * width : nullptr, *const at_sample = at_h + b * width;
        for_columns(0, width, [=](auto lanes, int64_t c) {
          constexpr int W = decltype(lanes)::value;
          const Vec<A, W> at = load<W>(at_sample + c) + load<W>(at_of_ends + c);
          Vec<A, W> value = at;
          if constexpr (!Relu) value = load<W>(of_ends + c);
          if constexpr (!Relu && Sampled) value += load<W>(sample + c);
          store<W>(where_positive<W>(at, value), to + c);
        });
      }
    }
  }

  // Columns [begin, end) of the sums over the rows [first, last): of samples and of columns added to tables, of rows
  // written. What is null is not wanted.
  template <bool Samples, bool Ends>
  void sums(int64_t first, int64_t last, int64_t begin, int64_t end, const S* g, A* of_samples, A* of_cols,
            S* of_rows) const {
    const Buffer<A> at_ends(width), edge(width), row_sum(width);
    A *const at = at_ends.get(), *const of_edge = edge.get(), *const of_row = row_sum.get();
    for (int64_t row = first; row < last; ++row) {
      if (of_rows) std::fill(of_row + begin, of_row + end, A{0});
      for (int64_t e = args.row_ptr[row]; e < args.row_ptr[row + 1]; ++e) {
        add(at_s + col(e) * width, at_t + row * width, begin, end, at);
        if (Ends) std::fill(of_edge + begin, of_edge + end, A{0});
        const S* from = g + id(e) * args.samples * width;
        const S* sample = at_h;
        A* of_sample = of_samples;
        for (int64_t b = 0; b < args.samples; ++b, from += width, sample += width, of_sample += Samples ? width : 0)
          for_columns(begin, end, [=](auto lanes, int64_t c) {
            constexpr int W = decltype(lanes)::value;
            const Vec<A, W> value = where_positive<W>(load<W>(sample + c) + load<W>(at + c), load<W>(from + c));
            if constexpr (Samples) store<W>(load<W>(of_sample + c) + value, of_sample + c);
            if constexpr (Ends) store<W>(load<W>(of_edge + c) + value, of_edge + c);
          });
        for (A* const total : {of_cols ? of_cols + col(e) * width : nullptr, of_rows ? of_row : nullptr})
          if (total)
            for_columns(begin, end, [&](auto lanes, int64_t c) {
              constexpr int W = decltype(lanes)::value;
              store<W>(load<W>(total + c) + load<W>(of_edge + c), total + c);
            });
      }
      if (of_rows)
        for_columns(begin, end, [&](auto lanes, int64_t c) {
          constexpr int W = decltype(lanes)::value;
          store<W>(load<W>(of_row + c), of_rows + row * width + c);
        });
    }
  }

  // Tables of the chunks added up, in order: `count` numbers each.
  static void total(const A* tables, int64_t chunks, int64_t count, int threads, S* out) {
    const int64_t bytes = chunks * count * static_cast<int64_t>(sizeof(A));
    for_chunks(count, 64, bytes, threads, [&](int64_t, int64_t begin, int64_t end) {
      for_columns(begin, end, [&](auto lanes, int64_t c) {
        constexpr int W = decltype(lanes)::value;
        Vec<A, W> sum = load<W>(tables + c);
        for (int64_t k = 1; k < chunks; ++k) sum += load<W>(tables + k * count + c);
        store<W>(sum, out + c);
      });
    });
  }

  void gradients(const GatherReluBackwardArgs& back) const {
    // Chunks of rows: their tables shall be a small part of g.
    const int64_t table = std::max(back.d_h ? args.samples : 0, back.d_s ? args.cols : 0);
    const int64_t chunks = std::clamp<int64_t>(args.edges * args.samples / (4 * table + 1), 1, 8);
    const int64_t work = args.row_ptr[args.rows] + args.rows;
    const auto boundary = [&](int64_t k) {
      return k == chunks ? args.rows
                         : row_at_work(args.row_ptr, args.rows, work / chunks * k + work % chunks * k / chunks);
    };
    // Of the columns, a cache line at least.
    constexpr int64_t kLine = 64 / sizeof(S);
    const int64_t shares = std::max<int64_t>(1, (args.threads + chunks - 1) / chunks);
    const int64_t tile = ((width + shares - 1) / shares + kLine - 1) / kLine * kLine, tiles = (width + tile - 1) / tile;
    const int64_t sampled = args.samples * width, gathered = args.cols * width;
    const Buffer<A> of_samples(back.d_h ? chunks * sampled : 0), of_cols(back.d_s ? chunks * gathered : 0);
    const S* const g = static_cast<const S*>(back.g);
    S* const of_rows = static_cast<S*>(back.d_t);
    const int64_t bytes = args.edges * sampled * static_cast<int64_t>(sizeof(S));
    for_chunks(chunks * tiles, chunks * tiles, bytes, args.threads, [&](int64_t item, int64_t, int64_t) {
      const int64_t k = item / tiles, c = item % tiles * tile;
      const auto run = [&](auto samples, auto ends) {
        sums<decltype(samples)::value, decltype(ends)::value>(
            boundary(k), boundary(k + 1), c, std::min(width, c + tile), g,
            back.d_h ? of_samples.get() + k * sampled : nullptr, back.d_s ? of_cols.get() + k * gathered : nullptr,
            of_rows);
      };
      const bool ends = back.d_s || back.d_t;
      if (back.d_h)
        ends ? run(std::true_type{}, std::true_type{}) : run(std::true_type{}, std::false_type{});
      else if (ends)
        run(std::false_type{}, std::true_type{});
    });
    if (back.d_h) total(of_samples.get(), chunks, sampled, args.threads, static_cast<S*>(back.d_h));
    if (back.d_s) total(of_cols.get(), chunks, gathered, args.threads, static_cast<S*>(back.d_s));
  }
};

}  // namespace

void gather_relu(const GatherReluArgs& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    const GatherRelu<S, typename decltype(index)::type> job(args);
    S* const out = static_cast<S*>(args.out);
    const int64_t bytes = args.edges * args.samples * args.width * static_cast<int64_t>(sizeof(S));
    for_chunks(args.edges, 256, bytes, args.threads, [&](int64_t, int64_t begin, int64_t end) {
      if (args.is_relu())
        job.template edges<true, true>(begin, end, out);
      else if (args.h)
        job.template edges<false, true>(begin, end, out);
      else
        job.template edges<false, false>(begin, end, out);
    });
  });
}

void gather_relu_backward(const GatherReluBackwardArgs& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    GatherRelu<typename decltype(scalar)::type, typename decltype(index)::type>(args).gradients(args);
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
