// edge_energy on the CPU. Samples lie beside one another, so a vector holds the samples of one edge: the sum of a row
// stays in a register while its edges are gone through, that of an edge while its samples are. What F alone makes of
// the softplus is computed once for each destination. Bytes moved: the pattern once for each vector of samples; the
// rows of both ends once for each edge, from the cache. The work is the exponentials, one for each edge and sample.
#include <algorithm>

#include "../common/dispatch.h"
#include "level.h"
#include "parallel.h"
#include "rows.h"
#include "scores.h"
#include "softplus.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

template <class A, int W>
inline Vec<A, W> load_labels(const int32_t* from, int64_t n) {
  typename VecOf<int32_t, W>::type labels = typename VecOf<int32_t, W>::type{} - 1;
  std::memcpy(&labels, from, n * sizeof(int32_t));
  return __builtin_convertvector(labels, Vec<A, W>);
}

template <class S, class I>
struct EdgeEnergy {
  using A = acc_t<S>;
  static constexpr int W = kWidth<S>;
  using V = Vec<A, W>;
  const EdgeEnergyArgs& args;
  const S *a, *c, *v, *field, *weight;
  const A* base = nullptr;  // of F alone: [destinations, B], where it is wanted

  explicit EdgeEnergy(const EdgeEnergyArgs& given)
      : args(given),
        a(static_cast<const S*>(given.a)),
        c(static_cast<const S*>(given.c)),
        v(static_cast<const S*>(given.v)),
        field(static_cast<const S*>(given.field)),
        weight(static_cast<const S*>(given.weight)) {}

  int64_t id(int64_t e) const {
    return args.edge_id ? static_cast<int64_t>(static_cast<const I*>(args.edge_id)[e]) : e;
  }
  int64_t col(int64_t e) const { return static_cast<const I*>(args.col)[e]; }

  // The derivative of softplus of order m + n.
  V of(V x) const {
    const int order = args.field_order + args.shift_order;
    if (order == 0) return softplus<A, W>(x);
    return order == 1 ? logistic<A, W>(x) : softplus_derivative<A, W>(x, args.derivative);
  }

  void bases(int64_t begin, int64_t end, A* out) const {
    for (int64_t k = begin; k < end; k += W) {
      const int64_t n = std::min<int64_t>(W, end - k);
      store_some<W>(of(load_some<W>(field + k, n)), n, out + k);
    }
  }

  // Samples b to b + n of one edge.
  V term(int64_t id, int64_t src, int64_t dst, int64_t b, int64_t n) const {
    const auto of_edge = [&](const S* values, bool wide) {
      return wide ? load_some<W>(values + id * args.width + b, n) : V{} + widen(values[id]);
    };
    const int64_t at_src = src * args.width + b, at_dst = dst * args.width + b;
    const V source = load_labels<A, W>(args.label_src + at_src, n), y = load_labels<A, W>(args.label_dst + at_dst, n);
    const V sign = (source + source - A{1}) * static_cast<A>(args.factor);
    const V shift = sign * of_edge(weight, args.wide_weight);
    V value = of(load_some<W>(field + at_dst, n) + shift);
    if (args.shift_order == 0) {
      value -= load_some<W>(base + at_dst, n);
      if (args.field_order == 0) value -= y * shift;
    } else {
      if (args.shift_order == 1 && args.field_order == 0) value -= y;
      for (int k = 0; k < args.shift_order; ++k) value *= sign;
    }
    if (a) value *= load_some<W>(a + at_src, n);
    if (c) value *= load_some<W>(c + at_dst, n);
    if (v) value *= of_edge(v, args.wide_v);
    const V nothing{};
    value = source < A{0} ? nothing : value;
    return y < A{0} ? nothing : value;
  }

  void rows(int64_t begin, int64_t end, S* out) const {
    const bool of_src = args.to == EnergyOf::Src;
    for (int64_t row = begin; row < end; ++row)
      for (int64_t b = 0; b < args.width; b += W) {
        const int64_t n = std::min<int64_t>(W, args.width - b);
        V sum{};
        for (int64_t e = args.row_ptr[row]; e < args.row_ptr[row + 1]; ++e)
          sum += of_src ? term(id(e), row, col(e), b, n) : term(id(e), col(e), row, b, n);
        store_some<W>(sum, n, out + row * args.width + b);
      }
  }

  void edges(int64_t begin, int64_t end, S* out) const {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t e = args.row_ptr[row]; e < args.row_ptr[row + 1]; ++e) {
        const int64_t edge = id(e);
        V total{};
        for (int64_t b = 0; b < args.width; b += W) {
          const int64_t n = std::min<int64_t>(W, args.width - b);
          const V value = term(edge, col(e), row, b, n);
          if (args.to == EnergyOf::Each)
            store_some<W>(value, n, out + edge * args.width + b);
          else
            total += value;
        }
        if (args.to == EnergyOf::Edge) narrow(sum<A, W>(total), out + edge);
      }
  }
};

}  // namespace

void edge_energy(const EdgeEnergyArgs& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    using A = acc_t<S>;
    EdgeEnergy<S, typename decltype(index)::type> job(args);
    S* const out = static_cast<S*>(args.out);
    const int64_t fields = args.shift_order ? 0 : args.destinations() * args.width;
    const Buffer<A> bases(fields);
    if (fields) {
      for_chunks(fields, 64, fields * static_cast<int64_t>(sizeof(A)), args.threads,
                 [&](int64_t, int64_t begin, int64_t end) { job.bases(begin, end, bases.get()); });
      job.base = bases.get();
    }
    // An exponential is worth about as much as moving 32 bytes.
    for_row_ranges(args.row_ptr, args.rows, args.width * 32, args.threads, [&](int64_t begin, int64_t end) {
      if (args.to == EnergyOf::Src || args.to == EnergyOf::Dst)
        job.rows(begin, end, out);
      else
        job.edges(begin, end, out);
    });
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
