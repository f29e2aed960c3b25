// block_spmm and block_sddmm as Python calls them: views are checked, then entry.h chooses what runs.
#include "../cpu/pages.h"
#include "block_spmm.h"
#include "entry.h"

namespace fastgmtl {
namespace {

// The fields that both have, of blocks [E, ., .], rows [rows, a, c] and columns [cols, b, c].
BlockArgs block_args(const char* op, const Pattern& pattern, const View& blocks, const View& of_rows,
                     const View& of_cols, bool transposed, int threads) {
  pattern.check(op);
  BlockArgs args{};
  args.row_ptr = pattern.row_ptr.as<int64_t>(), args.col = pattern.col.data, args.edge_id = pattern.edge_id.data;
  args.rows = pattern.rows(), args.cols = pattern.cols, args.edges = pattern.edges();
  args.wide_index = pattern.col.dtype == DType::I64;
  for (const View* view : {&blocks, &of_rows, &of_cols})
    if (view->rank != 3)
      fail(op, "every dense tensor must have three axes, got " + (*view ? shape_string(*view) : std::string("None")));
  args.row_size = of_rows.size(1), args.col_size = of_cols.size(1), args.width = of_cols.size(2);
  args.row_stride = transposed ? 1 : args.col_size, args.col_stride = transposed ? args.row_size : 1;
  require_shape(op, "x of rows", of_rows, {args.rows, args.row_size, args.width});
  require_shape(op, "x of columns", of_cols, {args.cols, args.col_size, args.width});
  if (transposed)
    require_shape(op, "blocks", blocks, {args.edges, args.col_size, args.row_size});
  else
    require_shape(op, "blocks", blocks, {args.edges, args.row_size, args.col_size});
  args.dtype = of_cols.dtype;
  if (!is_float(args.dtype)) throw TypeError(std::string(op) + ": x must be floating point");
  for (const View* view : {&blocks, &of_rows, &of_cols}) {
    require_dtype(op, "every dense tensor", *view, args.dtype);
    require_device(op, "every dense tensor", *view, pattern.device());
  }
  args.blocks = blocks.data, args.x = of_cols.data, args.threads = threads, args.stream = of_cols.stream;
  return args;
}

}  // namespace

void block_spmm(Pattern pattern, View blocks, View x, bool transposed, View y, int threads) {
  const char* op = "block_spmm";
  BlockArgs args = block_args(op, pattern, blocks, y, x, transposed, threads);
  args.out = y.data;
  cpu::advise_huge_pages(y);
  if (y.numel()) run(op, pattern, args, cpu::block_spmm, FASTGMTL_CUDA(block_spmm));
}

void block_sddmm(Pattern pattern, View g, View x, View out, int threads) {
  const char* op = "block_sddmm";
  BlockArgs args = block_args(op, pattern, out, g, x, false, threads);
  args.g = g.data, args.out = out.data;
  cpu::advise_huge_pages(out);
  if (out.numel()) run(op, pattern, args, cpu::block_sddmm, FASTGMTL_CUDA(block_sddmm));
}

}  // namespace fastgmtl
