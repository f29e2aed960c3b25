// gcn_norm on the CPU: one pass for the degrees, one that writes. Bytes moved: the pattern twice, the result once.
#include "../contract/gcn_norm.h"

#include <cmath>
#include <memory>

#include "pages.h"
#include "parallel.h"

namespace fastgmtl {
namespace {

template <class I, class S>
void normalise(const Pattern& pattern, double fill, int64_t* new_ptr, I* new_col, S* weight, int threads) {
  const int64_t rows = pattern.rows();
  const int64_t* const row_ptr = pattern.row_ptr.as<int64_t>();
  const I* const col = pattern.col.as<I>();
  const std::unique_ptr<S[]> scale(new S[static_cast<size_t>(rows)]);
  constexpr int64_t kEdgeBytes = sizeof(I);
  for_row_ranges(row_ptr, rows, kEdgeBytes, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t loops = 0;
      for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) loops += col[e] == r;
      const int64_t others = row_ptr[r + 1] - row_ptr[r] - loops;
      scale[r] = static_cast<S>(1 / std::sqrt(static_cast<double>(others) + (loops ? 1 : fill)));
    }
  });
  for_row_ranges(row_ptr, rows, kEdgeBytes, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      bool has_loop = false;
      for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; ++e) {
        const bool loop = col[e] == r;
        has_loop |= loop;
        new_col[e + r] = col[e];
        weight[e + r] = loop ? S{0} : scale[r] * scale[col[e]];
      }
      const int64_t last = row_ptr[r + 1] + r;
      new_ptr[r] = row_ptr[r] + r;
      new_col[last] = static_cast<I>(r);
      weight[last] = static_cast<S>(has_loop ? 1 : fill) * scale[r] * scale[r];
    }
  });
  new_ptr[rows] = row_ptr[rows] + rows;
}

}  // namespace

void gcn_norm(Pattern pattern, double fill, View row_ptr, View col, View weight, int threads) {
  constexpr const char* op = "gcn_norm";
  pattern.check(op);
  const int64_t rows = pattern.rows(), total = pattern.edges() + rows;
  if (pattern.cols != rows) fail(op, "the pattern must be square");
  if (!(fill > 0)) fail(op, "fill must be positive");
  require_shape(op, "row_ptr", row_ptr, {rows + 1});
  require_shape(op, "col", col, {total});
  require_shape(op, "weight", weight, {total});
  require_dtype(op, "row_ptr", row_ptr, DType::I64);
  require_dtype(op, "col", col, pattern.col.dtype);
  for (const View& view : {pattern.row_ptr, row_ptr, col, weight}) require_device(op, "every tensor", view, Device{});
  const auto run = [&](auto index, auto value) {
    using I = decltype(index);
    using S = decltype(value);
    normalise<I, S>(pattern, fill, row_ptr.as<int64_t>(), col.as<I>(), weight.as<S>(), threads);
  };
  cpu::advise_huge_pages(weight);
  const bool wide = col.dtype == DType::I64;
  if (weight.dtype == DType::F32)
    wide ? run(int64_t{}, float{}) : run(int32_t{}, float{});
  else if (weight.dtype == DType::F64)
    wide ? run(int64_t{}, double{}) : run(int32_t{}, double{});
  else
    throw TypeError("gcn_norm: weight must be float32 or float64");
}

}  // namespace fastgmtl
