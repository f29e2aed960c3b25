// gram and combine: products of matrices whose rows are lists of tensors, which are read where they lie.
//
// Row i of the matrix A is the concatenation of the tensors a[i][0], a[i][1], ... a[i][N-1]; the tensors a[.][n] of
// all rows have one number of elements and one dtype. Every n belongs to a group k, and A_k is A with only the columns
// of that group.
//
//   gram      G_k = A_k B_k^T                  for every group k, in float64
//   combine   O_k = W_k A_k  (+ O_k)           in the dtype of the tensors
//
// Each is linear in both of its arguments, and the derivative of one is the other: the pair is closed under
// differentiation. Elements of a chunk are multiplied and added in float32 (float64 for float64), chunks are added in
// float64; chunks depend on the sizes alone, so results are bit-equal for any number of threads.
#pragma once

#include <vector>

#include "../view.h"

namespace fastgmtl {

// A matrix as Python passes it: `count` rows of N tensors, row after row, where a missing tensor is zeros; or
// (`stacked`) N tensors with a first axis of `count`.
struct Rows {
  std::vector<View> tensors;
  int64_t count = 0;
  bool stacked = false;

  int64_t parts() const { return static_cast<int64_t>(tensors.size()) / (stacked ? 1 : count); }
};

// The tensors of all rows at one place n in the list.
struct Part {
  int64_t numel;
  int64_t group;
  DType dtype;
};

// Consecutive elements of one part.
struct Span {
  int64_t part, begin, end;
};

constexpr int64_t kChunk = 2048;  // elements
constexpr int64_t kMaxRows = 64;

// Pieces of whole chunks, each within one group: what a thread takes.
struct Pieces {
  std::vector<Span> spans;
  std::vector<int64_t> start;  // of each piece in `spans`, and the end
  int64_t count() const { return static_cast<int64_t>(start.size()) - 1; }
};

// What both kernels read: pointers that have been checked.
struct ListArgs {
  std::vector<Part> parts;
  Pieces pieces;
  std::vector<const void*> a;  // [N, rows of a]; null: zeros
  int64_t rows_a = 0, rows_b = 0, groups = 1;
  int threads = 1;
  void* stream = nullptr;
};

struct GramArgs : ListArgs {
  std::vector<const void*> b;  // [N, rows of b]; empty: b is a
  double* out = nullptr;       // [K, rows of a, rows of b]
  bool square() const { return b.empty(); }
};

// rows_a is the rows of A, rows_b those of O.
struct CombineArgs : ListArgs {
  const double* weights = nullptr;  // [K, rows of O, rows of a]
  std::vector<void*> out;           // [N, rows of O]
  bool accumulate = false;
};

void gram(const Rows& a, const Rows& b, const std::vector<int64_t>& groups, View out, int threads);

void combine(const Rows& a, View weights, const std::vector<int64_t>& groups, const Rows& out, bool accumulate,
             int threads);

}  // namespace fastgmtl
