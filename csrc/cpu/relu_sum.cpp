// relu_sum and relu_sum_backward on the CPU. A row's edges are gone through for as many columns as the registers hold
// sums of; the features of edges go by once. The backward makes both gradients in one pass over the transposed pattern.
// Bytes moved: e once, and the rows of sources from the cache; backward e, its gradient, and the rows of g.
#include <algorithm>
#include <type_traits>

#include "../common/dispatch.h"
#include "level.h"
#include "parallel.h"
#include "rows.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

template <class S, class I>
struct ReluSum {
  using A = acc_t<S>;
  const ReluSumArgs& args;
  const S *x, *e, *at_x, *at_e;
  const int64_t width;

  explicit ReluSum(const ReluSumArgs& given)
      : args(given),
        x(static_cast<const S*>(given.x)),
        e(static_cast<const S*>(given.e)),
        at_x(static_cast<const S*>(given.at_x)),
        at_e(static_cast<const S*>(given.at_e)),
        width(given.width) {}

  int64_t id(int64_t edge) const {
    return args.edge_id ? static_cast<int64_t>(static_cast<const I*>(args.edge_id)[edge]) : edge;
  }
  int64_t col(int64_t edge) const { return static_cast<const I*>(args.col)[edge]; }

  template <int N>
  using Int = std::integral_constant<int, N>;

  // body(Int<W>, Int<NV>, c): tiles of NV vectors of W columns, the widest first.
  template <class Body>
  void for_tiles(const Body& body) const {
    constexpr int W = kBytes / sizeof(A);
    int64_t c = 0;
    for (; c + 8 * W <= width; c += 8 * W) body(Int<W>{}, Int<8>{}, c);
    for (; c + 4 * W <= width; c += 4 * W) body(Int<W>{}, Int<4>{}, c);
    for (; c + W <= width; c += W) body(Int<W>{}, Int<1>{}, c);
    if constexpr (W > 4)
      for (; c + 4 <= width; c += 4) body(Int<4>{}, Int<1>{}, c);
    for (; c < width; ++c) body(Int<1>{}, Int<1>{}, c);
  }

  // Relu: at_x and at_e are what is summed; else whether there are x and e.
  template <bool Relu, bool Sources, bool Edges>
  void rows(int64_t begin, int64_t end, S* y) const {
    for (int64_t row = begin; row < end; ++row)
      for_tiles([&](auto lanes, auto vectors, int64_t c) {
        constexpr int W = decltype(lanes)::value, NV = decltype(vectors)::value;
        Vec<A, W> total[NV] = {};
        for (int64_t edge = args.row_ptr[row]; edge < args.row_ptr[row + 1]; ++edge) {
          const int64_t source = col(edge) * width + c, own = id(edge) * width + c;
          for (int v = 0; v < NV; ++v) {
            const Vec<A, W> at = load<W>(at_x + source + v * W) + load<W>(at_e + own + v * W);
            Vec<A, W> value = at;
            if constexpr (!Relu) value = Vec<A, W>{};
            if constexpr (!Relu && Sources) value += load<W>(x + source + v * W);
            if constexpr (!Relu && Edges) value += load<W>(e + own + v * W);
            total[v] += at <= A{0} ? Vec<A, W>{} : value;
          }
        }
        for (int v = 0; v < NV; ++v) store<W>(total[v], y + row * width + c + v * W);
      });
  }

  template <bool Edges>
  void gradients(int64_t begin, int64_t end, const S* g, S* d_x, S* d_e) const {
    for (int64_t row = begin; row < end; ++row)
      for_tiles([&](auto lanes, auto vectors, int64_t c) {
        constexpr int W = decltype(lanes)::value, NV = decltype(vectors)::value;
        Vec<A, W> total[NV] = {};
        const S* const source = at_x + row * width + c;
        for (int64_t edge = args.row_ptr[row]; edge < args.row_ptr[row + 1]; ++edge) {
          const int64_t far = col(edge) * width + c, own = id(edge) * width + c;
          for (int v = 0; v < NV; ++v) {
            const Vec<A, W> at = load<W>(source + v * W) + load<W>(at_e + own + v * W);
            const Vec<A, W> value = at <= A{0} ? Vec<A, W>{} : load<W>(g + far + v * W);
            total[v] += value;
            if constexpr (Edges) store<W>(value, d_e + own + v * W);
          }
        }
        if (d_x)
          for (int v = 0; v < NV; ++v) store<W>(total[v], d_x + row * width + c + v * W);
      });
  }
};

// body(ReluSum) for the types of the arguments.
template <class Body>
void with_types(const ReluSumArgs& args, const Body& body) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    body(ReluSum<typename decltype(scalar)::type, typename decltype(index)::type>(args), scalar);
  });
}

}  // namespace

void relu_sum(const ReluSumArgs& args) {
  with_types(args, [&](const auto& job, auto scalar) {
    using S = typename decltype(scalar)::type;
    S* const y = static_cast<S*>(args.y);
    const int64_t bytes = 2 * args.width * static_cast<int64_t>(sizeof(S));
    for_row_ranges(args.row_ptr, args.rows, bytes, args.threads, [&](int64_t begin, int64_t end) {
      if (args.is_relu())
        job.template rows<true, true, true>(begin, end, y);
      else if (args.x && args.e)
        job.template rows<false, true, true>(begin, end, y);
      else if (args.x)
        job.template rows<false, true, false>(begin, end, y);
      else
        job.template rows<false, false, true>(begin, end, y);
    });
  });
}

void relu_sum_backward(const ReluSumBackwardArgs& args) {
  with_types(args, [&](const auto& job, auto scalar) {
    using S = typename decltype(scalar)::type;
    const S* const g = static_cast<const S*>(args.g);
    S *const d_x = static_cast<S*>(args.d_x), *const d_e = static_cast<S*>(args.d_e);
    const int64_t bytes = 3 * args.width * static_cast<int64_t>(sizeof(S));
    for_row_ranges(args.row_ptr, args.rows, bytes, args.threads, [&](int64_t begin, int64_t end) {
      d_e ? job.template gradients<true>(begin, end, g, d_x, d_e)
          : job.template gradients<false>(begin, end, g, d_x, nullptr);
    });
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
