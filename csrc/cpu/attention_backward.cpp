// The backward of attention on the CPU, in three passes without atomics: over rows, for what an edge needs of its
// destination (its scores, lse and the dot product of g and y), side by side; over the transposed pattern, where
// weights are computed again, each edge brings one row of g for the dot product and for the gradient of the value, and
// leaves K numbers; over the rows again, and over fixed chunks for types, to add these up. Bytes moved: both patterns,
// value, y and d_value once, g once and each row of g once per edge, d_edge twice.
#include <memory>

#include "../common/dispatch.h"
#include "level.h"
#include "parallel.h"
#include "scores.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

template <class S, class I>
struct AttentionBackward : Scores<S, I> {
  using A = acc_t<S>;
  using Base = Scores<S, I>;
  using Base::col;
  using Base::heads;
  using Base::row_ptr;
  using Base::width;
  const AttentionBackwardArgs& args;
  const S *dst, *src, *value, *g, *y;
  S* d_value;
  A* d_edge;
  // Of destinations: four runs of K numbers (scores, lse, what lse has been rounded by, slack), in one cache line where
  // they fit.
  int64_t stride;
  std::unique_ptr<A[]> memory;
  A* nodes;

  explicit AttentionBackward(const AttentionBackwardArgs& a)
      : Base(a, a.back_ptr, a.back_col, a.back_id),
        args(a),
        dst(static_cast<const S*>(a.dst)),
        src(static_cast<const S*>(a.src)),
        value(static_cast<const S*>(a.value)),
        g(static_cast<const S*>(a.g)),
        y(static_cast<const S*>(a.y)),
        d_value(static_cast<S*>(a.d_value)),
        d_edge(static_cast<A*>(a.d_edge)) {
    constexpr int64_t kLine = 64 / sizeof(A);
    stride = 4 * heads;
    while (stride < kLine && kLine % stride) ++stride;
    memory.reset(new A[a.rows * stride + kLine]);
    nodes = reinterpret_cast<A*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
  }

  // Over destinations: <g, y> - g_lse and the others.
  void prepare(int64_t begin, int64_t end) const {
    constexpr int W = kWidth<S>;
    for (int64_t i = begin * heads; i < end * heads; ++i) {
      const S *left = g + i * width, *right = y + i * width;
      Vec<A, W> dots = {};
      int64_t c = 0;
      for (; c + W <= width; c += W) dots += load<W>(left + c) * load<W>(right + c);
      A dot = sum<A, W>(dots);
      for (; c < width; ++c) dot += widen(left[c]) * widen(right[c]);
      A* const node = nodes + i / heads * stride + i % heads;
      node[0] = dst ? widen(dst[i]) : A{0};
      node[heads] = static_cast<A>(args.lse[i]);
      node[2 * heads] = static_cast<A>(args.lse[i] - node[heads]);
      node[3 * heads] = args.g_lse ? static_cast<A>(dot - args.g_lse[i]) : dot;
    }
  }

  // Logits less lse, the derivative of a logit by z, and the slack, of the edges [begin, end) of source j. The slack is
  // needed after the dot products, whose rows of g will have driven its line out of the cache.
  template <int KK>
  void logits(int64_t j, int64_t begin, int64_t end, int64_t k, const A* keep, A* out, A* slopes, A* slacks) const {
    const Vec<A, KK> near = src ? load<KK>(src + j * heads + k) : Vec<A, KK>{}, one = Vec<A, KK>{} + A{1};
    for (int64_t e = begin; e < end; ++e) {
      const int64_t at = (e - begin) * heads + k;
      const A* const node = nodes + col[e] * stride + k;
      __builtin_prefetch(nodes + this->ahead(e) * stride + k);
      const Vec<A, KK> ends = dst ? load<KK>(node) + near : near;
      const Vec<A, KK> z = this->template z<KK>(ends, e, k);
      Vec<A, KK> l = this->template leaky<KK>(z), d = z > A{0} ? one : one * this->slope;
      if (keep && args.drop_logits) {
        const Vec<A, KK> factor = load<KK>(keep + at);
        l = factor > A{0} ? l * factor : Vec<A, KK>{};
        d *= factor;
      }
      store<KK>((l - load<KK>(node + heads)) - load<KK>(node + 2 * heads), out + at);
      store<KK>(d, slopes + at);
      store<KK>(load<KK>(node + 3 * heads), slacks + at);
    }
  }

  // Gradients of z of the edges [begin, end) of a source, and their sum.
  template <int KK>
  void scores(int64_t begin, int64_t end, int64_t k, const A* weights, const A* keep, const A* dots, const A* slopes,
              const A* slacks, A* total) const {
    Vec<A, KK> sum = load<KK>(total + k);
    for (int64_t e = begin; e < end; ++e) {
      const int64_t at = (e - begin) * heads + k;
      Vec<A, KK> d = load<KK>(dots + at);
      if (keep && !args.drop_logits) d *= load<KK>(keep + at);
      d = (d - load<KK>(slacks + at)) * load<KK>(weights + at) * load<KK>(slopes + at);
      sum += d;
      if (!d_edge) continue;
      store<KK>(d, d_edge + this->id(e) * heads + k);
      __builtin_prefetch(d_edge + this->id(std::min(e + kAhead, this->last)) * heads + k, 1);
    }
    store<KK>(sum, total + k);
  }

  // Columns [c, c + NV * W) of heads [k, k + NT) of the edges [begin, end), which are those of the sources
  // [first, last): their part of the dot products, and d_value; or, with `sums`, a piece of one source, added to them.
  template <int W, int NV, int NT>
  void tile(int64_t first, int64_t last, int64_t begin, int64_t end, int64_t k, int64_t c, const A* weights, A* dots,
            A* sums) const {
    const int64_t full = heads * width, at = k * width + c;
    for (int64_t j = first; j < last; ++j) {
      const S* const mine = value + j * full + at;
      Vec<A, W> sum[NT][NV] = {};
      if (sums)
        for (int i = 0; i < NT * NV; ++i) sum[i / NV][i % NV] = load<W>(sums + at + i / NV * width + i % NV * W);
      const int64_t stop = std::min(end, row_ptr[j + 1]);
      for (int64_t e = std::max(begin, row_ptr[j]); e < stop; ++e) {
        const S* const theirs = g + col[e] * full + at;
        const S* const later = g + this->ahead(e) * full + at;
        const A* const weight = weights + (e - begin) * heads + k;
        A* const dot = dots + (e - begin) * heads + k;
        for (int i = 0; i < NT; ++i) {
          prefetch(later + i * width, NV * W * sizeof(S));
          Vec<A, W> products = {};
          for (int v = 0; v < NV; ++v) {
            const Vec<A, W> back = load<W>(theirs + i * width + v * W);
            products += back * load<W>(mine + i * width + v * W);
            sum[i][v] += weight[i] * back;
          }
          const A part = fastgmtl::sum<A, W>(products);
          dot[i] = c ? dot[i] + part : part;
        }
      }
      for (int i = 0; i < NT * NV; ++i) {
        const int64_t to = at + i / NV * width + i % NV * W;
        if (sums)
          store<W>(sum[i / NV][i % NV], sums + to);
        else
          store<W>(sum[i / NV][i % NV], d_value + j * full + to);
      }
    }
  }

  void sources(int64_t first_row, int64_t last_row) const {
    const int64_t most = Batch<A>::edges(heads);
    const bool drops = this->threshold;
    Batch<A> weights(heads), slopes(heads), slacks(heads), dots(heads), keeps(drops ? heads : 1),
        dropped(drops ? heads : 1);
    const Buffer<A> sums(heads * width), total(heads);
    A *const w = weights.get(), *const dot = dots.get();
    const A* const keep = drops ? keeps.get() : nullptr;
    for_batches(row_ptr, first_row, last_row, most, [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
      const bool piece = end - begin < row_ptr[last] - row_ptr[first];
      const int64_t n = (end - begin) * heads;
      const auto from = [&](int64_t j) { return piece ? begin : row_ptr[j]; };
      const auto to = [&](int64_t j) { return piece ? end : row_ptr[j + 1]; };
      if (drops) this->dropout(begin, end, keeps.get());
      const auto part = [&](const A* array, int64_t j) { return array ? array + (from(j) - begin) * heads : nullptr; };
      for (int64_t j = first; j < last; ++j)
        for_heads<S>(heads, [&](auto group, int64_t k) {
          const int64_t at = (from(j) - begin) * heads;
          this->template logits<decltype(group)::value>(j, from(j), to(j), k, part(keep, j), w + at, slopes.get() + at,
                                                        slacks.get() + at);
        });
      exp_all(w, n);
      const A* given = w;
      if (drops && !args.drop_logits) {
        for (int64_t i = 0; i < n; ++i) dropped.get()[i] = w[i] * keep[i];
        given = dropped.get();
      }
      if (width == 0) std::fill(dot, dot + n, A{0});
      if (piece && begin == row_ptr[first]) std::fill(sums.get(), sums.get() + heads * width, A{0});
      for_tiles<S>(heads, width, [&](auto lanes, auto vectors, auto tasks, int64_t k, int64_t c) {
        constexpr int W = decltype(lanes)::value, NV = decltype(vectors)::value, NT = decltype(tasks)::value;
        this->template tile<W, NV, NT>(first, last, begin, end, k, c, given, dot, piece ? sums.get() : nullptr);
      });
      if (piece && end == row_ptr[last])
        for (int64_t i = 0; i < heads * width; ++i) narrow(sums.get()[i], d_value + first * heads * width + i);
      if (!d_edge && !args.d_src) return;
      for (int64_t j = first; j < last; ++j) {
        if (!piece || begin == row_ptr[first]) std::fill(total.get(), total.get() + heads, A{0});
        for_heads<S>(heads, [&](auto group, int64_t k) {
          this->template scores<decltype(group)::value>(from(j), to(j), k, part(w, j), part(keep, j), part(dot, j),
                                                        part(slopes.get(), j), part(slacks.get(), j), total.get());
        });
        if (args.d_src && (!piece || end == row_ptr[last]))
          for (int64_t k = 0; k < heads; ++k) narrow(total.get()[k], static_cast<S*>(args.d_src) + j * heads + k);
      }
    });
  }

  // d_dst of destinations: sums of d_edge over their edges.
  void destinations(int64_t begin, int64_t end) const {
    const I* const ids = static_cast<const I*>(args.edge_id);
    for (int64_t r = begin; r < end; ++r)
      for_heads<S>(heads, [&](auto group, int64_t k) {
        constexpr int KK = decltype(group)::value;
        Vec<A, KK> sum = {};
        for (int64_t e = args.row_ptr[r]; e < args.row_ptr[r + 1]; ++e)
          sum += load<KK>(d_edge + (ids ? static_cast<int64_t>(ids[e]) : e) * heads + k);
        store<KK>(sum, static_cast<S*>(args.d_dst) + r * heads + k);
      });
  }

  // d_type: sums over chunks of edges, then over the chunks; their number depends on the sizes alone.
  void all_types() const {
    const int64_t size = this->types * heads;
    const int64_t chunks = std::max<int64_t>(1, std::min<int64_t>({64, args.edges / 16384, args.edges / (size + 1)}));
    const Buffer<double> buffer(chunks * size);
    double* const sums = buffer.get();
#pragma omp parallel for schedule(static, 1) num_threads(std::max(1, args.threads))
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      for (int64_t e = args.edges * chunk / chunks; e < args.edges * (chunk + 1) / chunks; ++e) {
        const int64_t t = this->edge_type[e];
        if (static_cast<uint64_t>(t) >= static_cast<uint64_t>(this->types)) continue;
        for (int64_t k = 0; k < heads; ++k) sums[chunk * size + t * heads + k] += d_edge[e * heads + k];
      }
    for (int64_t i = 0; i < size; ++i) {
      double total = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[chunk * size + i];
      narrow(static_cast<A>(total), static_cast<S*>(args.d_type) + i);
    }
  }
};

}  // namespace

void attention_backward(const AttentionBackwardArgs& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    const AttentionBackward<S, typename decltype(index)::type> job(args);
    const int64_t size = args.heads * static_cast<int64_t>(sizeof(S)), row_bytes = size * args.width + 8;
    for_row_ranges(args.row_ptr, args.rows, row_bytes, args.threads,
                   [&](int64_t begin, int64_t end) { job.prepare(begin, end); });
    for_row_ranges(args.back_ptr, args.cols, row_bytes, args.threads,
                   [&](int64_t begin, int64_t end) { job.sources(begin, end); });
    if (args.d_dst)
      for_row_ranges(args.row_ptr, args.rows, 4 * size, args.threads,
                     [&](int64_t begin, int64_t end) { job.destinations(begin, end); });
    if (args.d_type) job.all_types();
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
