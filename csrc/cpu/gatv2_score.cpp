// gatv2_score and gatv2_backward on the CPU. The row of the near end stays in the first-level cache, each edge brings a
// row of the far end (two where f is of other features), for all heads; nothing but K numbers is left of an edge. The
// gradient sums f, g times, in registers, a tile of heads and columns at a time, over rows for x_dst and att, over the
// transposed pattern for x_src. Bytes moved: the pattern and g, each row of the far end once per edge, the near end and
// its gradient once.
#include "../common/dispatch.h"
#include "level.h"
#include "parallel.h"
#include "scores.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

// Edges by one of their ends.
template <class S, class I>
struct Gatv2 {
  using A = acc_t<S>;
  static constexpr int kChunks = 64;  // of rows, for d_att
  const int64_t* row_ptr;
  const I* col;
  const I* edge_id;
  int64_t rows, last, heads, width, stride;
  A slope;
  const S *near, *far, *at_near, *at_far, *att;

  Gatv2(const Gatv2Args& args)
      : row_ptr(args.row_ptr),
        col(static_cast<const I*>(args.col)),
        edge_id(static_cast<const I*>(args.edge_id)),
        rows(args.rows),
        last(args.edges - 1),
        heads(args.heads),
        width(args.width),
        stride(args.heads * args.width),
        slope(static_cast<A>(args.slope)),
        near(static_cast<const S*>(args.x_dst)),
        far(static_cast<const S*>(args.x_src)),
        at_near(static_cast<const S*>(args.at_dst)),
        at_far(static_cast<const S*>(args.at_src)),
        att(static_cast<const S*>(args.att)) {}

  // By the source.
  static Gatv2 transposed(const Gatv2BackwardArgs& args) {
    Gatv2 out(args);
    out.row_ptr = args.back_ptr, out.rows = args.cols;
    out.col = static_cast<const I*>(args.back_col), out.edge_id = static_cast<const I*>(args.back_id);
    std::swap(out.near, out.far);
    std::swap(out.at_near, out.at_far);
    return out;
  }

  int64_t id(int64_t e) const { return edge_id ? static_cast<int64_t>(edge_id[e]) : e; }
  int64_t ahead(int64_t e) const { return col[e + kAhead < last ? e + kAhead : last]; }
  int64_t edge_bytes() const { return stride * static_cast<int64_t>(sizeof(S)) + 8; }

  // f of W sums of features.
  template <int W>
  Vec<A, W> f(Vec<A, W> h) const {
    const Vec<A, W> one = Vec<A, W>{} + A{1};
    return h > A{0} ? one : one * slope;
  }

  // Part of the dot product of one head from column c on.
  template <int W>
  Vec<A, W> product(int64_t mine, int64_t theirs, int64_t c) const {
    const Vec<A, W> h = load<W>(at_near + mine) + load<W>(at_far + theirs);
    const Vec<A, W> x = at_far == far && at_near == near ? h : load<W>(near + mine) + load<W>(far + theirs);
    return load<W>(att + c) * this->template f<W>(h) * x;
  }

  void scores(int64_t begin, int64_t end, S* out) const {
    constexpr int W = kWidth<S>;
    for (int64_t r = begin; r < end; ++r)
      for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
        S* const to = out + id(e) * heads;
        const int64_t later = ahead(e) * stride;
        for (int64_t k = 0; k < heads; ++k) {
          const int64_t at = k * width, mine = r * stride + at, theirs = col[e] * stride + at;
          prefetch(at_far + later + at, static_cast<int>(width * sizeof(S)));
          if (at_far != far) prefetch(far + later + at, static_cast<int>(width * sizeof(S)));
          Vec<A, W> dots = {};
          int64_t c = 0;
          for (; c + W <= width; c += W) dots += this->template product<W>(mine + c, theirs + c, at + c);
          A dot = sum<A, W>(dots);
          for (; c < width; ++c) dot += this->template product<1>(mine + c, theirs + c, at + c)[0];
          narrow(dot, to + k);
        }
      }
  }

  // Columns [c, c + NV * W) of heads [k, k + NT) of the rows [begin, end): to `out` times att, and to `d_att`.
  template <int W, int NV, int NT, bool Att>
  void tile(int64_t begin, int64_t end, int64_t k, int64_t c, const S* g, S* out, double* d_att) const {
    const int64_t at = k * width + c;
    const auto place = [&](int i) { return at + i / NV * width + i % NV * W; };
    for (int64_t r = begin; r < end; ++r) {
      Vec<A, W> sums[NT * NV] = {}, of_att[Att ? NT * NV : 1] = {};
      for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
        const int64_t from = col[e] * stride, later = ahead(e) * stride;
        const S* const weight = g + id(e) * heads + k;
        for (int i = 0; i < NT * NV; ++i) {
          const Vec<A, W> h = load<W>(at_near + r * stride + place(i)) + load<W>(at_far + from + place(i));
          const Vec<A, W> part = widen(weight[i / NV]) * this->template f<W>(h);
          sums[i] += part;
          if constexpr (Att)
            of_att[i] += part * (load<W>(near + r * stride + place(i)) + load<W>(far + from + place(i)));
          if (i % NV == 0) {
            prefetch(at_far + later + place(i), NV * W * sizeof(S));
            if (Att && at_far != far) prefetch(far + later + place(i), NV * W * sizeof(S));
          }
        }
      }
      for (int i = 0; i < NT * NV; ++i) {
        if (out) store<W>(sums[i] * load<W>(att + place(i)), out + r * stride + place(i));
        if constexpr (Att)
          for (int n = 0; n < W; ++n) d_att[place(i) + n] += of_att[i][n];
      }
    }
  }

  void gradients(int64_t begin, int64_t end, const S* g, S* out, double* d_att) const {
    for_tiles<S>(heads, width, [&](auto lanes, auto vectors, auto tasks, int64_t k, int64_t c) {
      constexpr int W = decltype(lanes)::value, NV = decltype(vectors)::value, NT = decltype(tasks)::value;
      d_att ? this->template tile<W, NV, NT, true>(begin, end, k, c, g, out, d_att)
            : this->template tile<W, NV, NT, false>(begin, end, k, c, g, out, nullptr);
    });
  }

  // The same for all rows, in chunks that depend on the pattern alone; sums of the chunks are added in order.
  void gradients_and_att(const S* g, S* out, S* d_att, int threads) const {
    const Buffer<double> sums(kChunks * stride);
    const int64_t work = row_ptr[rows] + rows;
    const auto boundary = [&](int64_t n) {
      return n == kChunks ? rows : row_at_work(row_ptr, rows, work / kChunks * n + work % kChunks * n / kChunks);
    };
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads > 1 ? threads : 1)
    for (int n = 0; n < kChunks; ++n) gradients(boundary(n), boundary(n + 1), g, out, sums.get() + n * stride);
    for (int64_t i = 0; i < stride; ++i) {
      double total = 0;
      for (int n = 0; n < kChunks; ++n) total += sums.get()[n * stride + i];
      narrow(static_cast<A>(total), d_att + i);
    }
  }
};

}  // namespace

void gatv2_score(const Gatv2Args& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    const Gatv2<S, typename decltype(index)::type> job(args);
    for_row_ranges(args.row_ptr, args.rows, job.edge_bytes(), args.threads,
                   [&](int64_t begin, int64_t end) { job.scores(begin, end, static_cast<S*>(args.out)); });
  });
}

void gatv2_backward(const Gatv2BackwardArgs& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    using Job = Gatv2<S, typename decltype(index)::type>;
    const S* const g = static_cast<const S*>(args.g);
    const auto by_rows = [&](const Job& job, S* out) {
      for_row_ranges(job.row_ptr, job.rows, job.edge_bytes(), args.threads,
                     [&](int64_t begin, int64_t end) { job.gradients(begin, end, g, out, nullptr); });
    };
    S* const d_dst = static_cast<S*>(args.d_dst);
    if (args.d_att)
      Job(args).gradients_and_att(g, d_dst, static_cast<S*>(args.d_att), args.threads);
    else if (d_dst)
      by_rows(Job(args), d_dst);
    if (args.d_src) by_rows(Job::transposed(args), static_cast<S*>(args.d_src));
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
