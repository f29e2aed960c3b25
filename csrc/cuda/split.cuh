// How rows are dealt out, for every kernel over edges.
//
// A group of lanes takes one row. A row of more than `length` edges is cut at the multiples of `length` into pieces,
// which groups of their own take; piece k begins at edge k * length, the first one of a row at the row itself, so no
// piece has 2 * length edges. Sums of pieces go to a workspace and are added in a fixed order by a second kernel: no
// atomics, and the same result every time. `length` depends on the number of edges only.
#pragma once

#include "../contract/spmm.h"
#include "launch.cuh"
#include "warp.cuh"

namespace fastgmtl::cuda {

// What a kernel needs of the edges, typed.
template <class S>
struct Edges {
  using A = acc_t<S>;
  const int64_t* row_ptr;
  Index col, edge_id, arg;
  const S* w;
  const A *row_scale, *col_scale;
  int64_t rows, tasks, width;
  bool arg_of_rows;

  Edges() = default;
  Edges(const EdgeArgs& args, const void* weight)
      : row_ptr(args.row_ptr),
        col{const_cast<void*>(args.col), args.wide_index},
        edge_id{const_cast<void*>(args.edge_id), args.wide_index},
        arg{const_cast<void*>(args.arg), args.wide_index},
        w(static_cast<const S*>(weight)),
        row_scale(args.scale_of_cols ? nullptr : static_cast<const A*>(args.scale)),
        col_scale(args.scale_of_cols ? static_cast<const A*>(args.scale) : nullptr),
        rows(args.rows),
        tasks(args.tasks),
        width(args.width),
        arg_of_rows(args.arg_of == ArgOf::Rows) {}

  __device__ __forceinline__ int64_t id(int64_t e) const { return edge_id ? edge_id[e] : e; }
  // The ids of edges `at`, or anything where they are not wanted.
  template <int U>
  __device__ __forceinline__ void ids(const int64_t (&at)[U], int64_t (&out)[U], bool wanted) const {
    if (edge_id && wanted) return edge_id.gather(at, out);
#pragma unroll
    for (int u = 0; u < U; ++u) out[u] = at[u];
  }
  // s w[id, first + task], or 0 where an edge is not live; s is 1 or the scale of its column.
  template <int U, int K>
  __device__ __forceinline__ void weights(const int64_t (&node)[U], const int64_t (&id)[U], const int (&first)[U],
                                          const int (&task)[K], const bool (&live)[U], A (&out)[U][K]) const {
    S raw[U][K];
    A scale[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      scale[u] = A{1};
      if (col_scale) scale[u] = load(col_scale + node[u]);
#pragma unroll
      for (int k = 0; k < K; ++k) {
        raw[u][k] = S{};
        if (w && (k == 0 || tasks > 1)) raw[u][k] = load(w + id[u] * tasks + first[u] + task[k]);
      }
    }
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const A weight = w ? widen(tasks > 1 ? raw[u][k] : raw[u][0]) : A{1};
        out[u][k] = live[u] ? scale[u] * weight : A{0};
      }
  }
  __device__ __forceinline__ A scale_of_row(int64_t row) const { return row_scale ? load(row_scale + row) : A{1}; }
  __device__ __forceinline__ A scale_of_col(int64_t col) const { return col_scale ? load(col_scale + col) : A{1}; }
};

struct Split {
  const int64_t* row_of;  // [pieces] the long row that piece k is of, or -1
  int64_t pieces;         // 0: no row can be long
  int length;
};

// The edges [begin, end) of `row`, whose first one is `first`. piece < 0: all of them.
struct Range {
  int64_t row, first, begin, end, piece;
};

// The edges of job `job`: first the pieces, then the rows. False where there is nothing to do.
__device__ __forceinline__ bool range_of(const Split& split, const int64_t* row_ptr, int64_t rows, int64_t job,
                                         Range& out) {
  const bool is_piece = job < split.pieces;
  out.row = is_piece ? load(split.row_of + job) : job - split.pieces;
  if (out.row < 0 || out.row >= rows) return false;
  out.piece = is_piece ? job : -1;
  out.first = out.begin = load(row_ptr + out.row);
  out.end = load(row_ptr + out.row + 1);
  if (!is_piece) return split.pieces == 0 || out.end - out.begin <= split.length;
  const int64_t start = job * split.length;
  if (start - out.first >= split.length) out.begin = start;
  if (out.end - start > split.length) out.end = start + split.length;
  return true;
}

// Number of edges up to which a row is one group's work: large graphs can afford longer ones.
constexpr int piece_length(int64_t edges) {
  int length = 64;
  while (length < 512 && edges / length > 16384) length *= 2;
  return length;
}

// Workspace of the second step: the partial results of the pieces, then row_of.
struct SplitWorkspace {
  Split split{};
  Workspace memory;

  // bytes: of the partial results of one piece.
  SplitWorkspace(const EdgeArgs& args, int64_t bytes, int device);

  template <class T>
  T* partial(int64_t byte = 0) const {
    return memory.at<T>(byte);
  }

 private:
  SplitWorkspace(const EdgeArgs& args, int64_t bytes, int device, int length, int64_t pieces);
};

// The second step: y of every long row from its pieces, and new_arg for extremes.
struct Combine {
  Split split;
  const int64_t* row_ptr;
  int64_t columns;
  const void* partial;    // [pieces, columns] in the accumulator's type
  const int32_t* winner;  // [pieces, columns] position in the row, for extremes; or null
  const void* row_scale;
  Index edge_id, new_arg;
  void* y;  // [rows, columns]
  bool max;
};
void combine(DType dtype, const Combine& job, void* stream);

// ------------------------------------------------------------------------------------------------------ geometry

// Lanes of a group that has to cover `vectors` vectors.
constexpr int log_lanes_for(int64_t vectors, int least) {
  int log = least;
  while (log < 5 && (int64_t{1} << log) < vectors) ++log;
  return log;
}

inline bool aligned16(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers)
    if (reinterpret_cast<uintptr_t>(pointer) % 16) return false;
  return true;
}

// Blocks for all pieces and rows.
constexpr int64_t blocks_for(const Split& split, int64_t rows, int log_lanes) {
  return ceil_div(split.pieces + rows, kBlock >> log_lanes);
}

}  // namespace fastgmtl::cuda
