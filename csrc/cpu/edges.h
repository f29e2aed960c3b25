// What every loop over edges needs: ids, coefficients and strides, typed.
#pragma once

#include "../contract/spmm.h"
#include "simd.h"

namespace fastgmtl {
namespace {

// Rows of the dense operand this many edges ahead are fetched into the cache.
constexpr int kAhead = 16;

template <class S, class I>
struct Edges {
  using A = acc_t<S>;
  const int64_t* row_ptr;
  const I* col;
  const I* edge_id;
  const S* w;
  const A* col_scale;
  const A* row_scale;
  const I* arg;
  int64_t tasks, width, last;
  bool arg_of_rows;

  Edges(const EdgeArgs& args, const void* weight)
      : row_ptr(args.row_ptr),
        col(static_cast<const I*>(args.col)),
        edge_id(static_cast<const I*>(args.edge_id)),
        w(static_cast<const S*>(weight)),
        col_scale(args.scale_of_cols ? static_cast<const A*>(args.scale) : nullptr),
        row_scale(args.scale_of_cols ? nullptr : static_cast<const A*>(args.scale)),
        arg(static_cast<const I*>(args.arg)),
        tasks(args.tasks),
        width(args.width),
        last(args.edges - 1),
        arg_of_rows(args.arg_of == ArgOf::Rows) {}

  int64_t id(int64_t e) const { return edge_id ? static_cast<int64_t>(edge_id[e]) : e; }
  bool has_coefficient() const { return w || col_scale; }
  // Weight of edge e for task t, times the scale of its column.
  A coefficient(int64_t e, int64_t t) const {
    A value = w ? widen(w[id(e) * tasks + t]) : A{1};
    return col_scale ? value * col_scale[col[e]] : value;
  }
  A scale_of_row(int64_t row) const { return row_scale ? row_scale[row] : A{1}; }
  int64_t ahead(int64_t e) const { return col[e + kAhead < last ? e + kAhead : last]; }
  // Lines that edge `e + kAhead` will write its dot products to.
  void prefetch_output(const S* out, int64_t e, int64_t t) const {
    if (edge_id) __builtin_prefetch(out + edge_id[e + kAhead < last ? e + kAhead : last] * tasks + t, 1);
  }
};

// Coefficients of the edges of consecutive rows for tasks [t, t + NT). Weights stand in the user's order, which jumps:
// they are fetched for many edges at once, so that the misses overlap.
template <class S, class I, int NT>
class Coefficients {
 public:
  using A = acc_t<S>;
  Coefficients(const Edges<S, I>& edges, int64_t begin, int64_t end, int64_t t)
      : edges_(edges), first_(begin), filled_(begin), end_(end), t_(t) {}

  // Edges are asked for in order.
  const A* of(int64_t e) {
    if (e >= filled_) fill();
    return values_ + (e - first_) * NT;
  }

 private:
  static constexpr int kBatch = 256 / NT;

  void fill() {
    first_ = filled_;
    filled_ = first_ + kBatch < end_ ? first_ + kBatch : end_;
    const int n = static_cast<int>(filled_ - first_);
    if (edges_.w)
      for (int i = 0; i < n; ++i)
        for (int k = 0; k < NT; ++k)
          values_[i * NT + k] = widen(edges_.w[edges_.id(first_ + i) * edges_.tasks + t_ + k]);
    else
      for (int i = 0; i < n * NT; ++i) values_[i] = A{1};
    if (edges_.col_scale)
      for (int i = 0; i < n; ++i)
        for (int k = 0; k < NT; ++k) values_[i * NT + k] *= edges_.col_scale[edges_.col[first_ + i]];
  }

  const Edges<S, I>& edges_;
  int64_t first_, filled_, end_, t_;
  A values_[kBatch * NT];
};

}  // namespace
}  // namespace fastgmtl
