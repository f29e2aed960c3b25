// block_spmm and block_sddmm: products with a sparse matrix of small dense blocks, and the gradient of the blocks.
//
//   y[i, a, c] = the sum over edges m from j to i and b of  M[m, a, b] x[j, b, c]      (block_spmm)
//   M[m, a, b] = the sum over c of  y[i, a, c] x[j, b, c]                              (block_sddmm)
//
// Read over the transposed pattern, with M transposed, the first gives x of y. All three are derivatives of one form
// that is linear in M, x and y, so the derivatives of each are the other two. Sums are in float32 (float64 for
// float64), in an order that the pattern decides.
#pragma once

#include "pattern.h"

namespace fastgmtl {

struct BlockArgs {
  const int64_t* row_ptr;
  const void* col;
  const void* edge_id;  // or null: positions
  int64_t rows, cols, edges;
  bool wide_index;
  DType dtype;
  int64_t row_size, col_size, width;  // a, b and c
  int64_t row_stride, col_stride;     // of the entries of a block: from a to a + 1, from b to b + 1
  const void* blocks;                 // [E, ...], in the user's edge order
  const void* x;                      // [cols, b, c]
  const void* g;                      // of block_sddmm [rows, a, c]
  void* out;                          // [rows, a, c], or [E, a, b]
  int threads;
  void* stream;  // of CUDA
};

// blocks [E, a, b], or [E, b, a] if they are `transposed`; x [cols, b, c]; y [rows, a, c].
void block_spmm(Pattern pattern, View blocks, View x, bool transposed, View y, int threads);

// g [rows, a, c], x [cols, b, c], out [E, a, b].
void block_sddmm(Pattern pattern, View g, View x, View out, int threads);

}  // namespace fastgmtl
