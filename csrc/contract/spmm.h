// spmm: weighted sums (or extremes) of neighbour rows, for T tasks at once.
//
// With sddmm and spmm_backward (sddmm.h) it is one trilinear form and its partial derivatives:
//
//   F(g, w, x) = sum over edges e = (j -> i), tasks t, columns c of  s[i] w[e, t] g[i, t, c] x[j, t, c] [arg = e]
//
// spmm is dF/dg on the forward pattern and dF/dx on the transposed one, sddmm is dF/dw. s is 1, or 1 / degree for a
// mean. The last factor is there for extremes only: arg[i, t, c] names the one edge of row i whose message was taken.
// Each is linear in every tensor, so the derivative of one is another: the set is closed under differentiation.
//
// A task axis may be missing from x (one x for all tasks), from y (the sum over tasks) or from w (one weight for all
// tasks: then T and d are one axis). Sums are in float32 (float64 for float64), in row order, for any number of
// threads.
#pragma once

#include "pattern.h"

namespace fastgmtl {

enum class Reduce : int { Sum, Max, Min };

// Who `arg` belongs to: nobody; the rows of y (each takes that edge's message only); the rows of x (each goes along
// that edge only).
enum class ArgOf : int { None, Rows, Cols };

// What a kernel reads: pointers that have been checked.
struct EdgeArgs {
  const int64_t* row_ptr;
  const void* col;
  const void* edge_id;  // or null: positions
  int64_t rows, cols, edges;
  bool wide_index;       // col, edge_id and arg are int64, else int32
  DType dtype;           // of every dense tensor
  int64_t tasks, width;  // T and d; T is 1 unless the weights have a task axis (T and d are then one axis, `width`)
  const void* scale;     // [rows] or [cols], float64 for float64, else float32; or null
  bool scale_of_cols;
  const void* arg;  // [rows or cols, T * d]; or null
  ArgOf arg_of;
  int threads;
  void* stream;  // of CUDA
};

struct SpmmArgs : EdgeArgs {
  const void* x;  // [cols, T, d] or [cols, d]
  const void* w;  // [E, T] in the user's edge order, or null: ones
  void* y;        // [rows, T, d] or [rows, d]; every element is written, empty rows with 0
  void* new_arg;  // [rows, T * d] for extremes: edge id of the winner, -1 in empty rows
  bool x_per_task, y_per_task;
  Reduce reduce;
};

inline bool has_task_axis(const char* op, const char* what, const View& view, int64_t nodes, int64_t tasks,
                          int64_t* width) {
  if (view.rank != 2 && view.rank != 3)
    fail(op, std::string(what) + " must have shape [N, d] or [N, T, d], got " + shape_string(view));
  if (*width < 0) *width = view.size(view.rank - 1);
  if (view.rank == 2)
    require_shape(op, what, view, {nodes, *width});
  else
    require_shape(op, what, view, {nodes, tasks, *width});
  return view.rank == 3;
}

// The fields of EdgeArgs, from views. `row_side` has a row for every row of the pattern, `col_side` for every column;
// `weights` [E] or [E, T] may be missing.
inline EdgeArgs edge_args(const char* op, const Pattern& pattern, const View& row_side, const View& col_side,
                          const View& weights, const View& scale, bool scale_of_cols, const View& arg, ArgOf arg_of,
                          int threads, bool* row_per_task, bool* col_per_task) {
  pattern.check(op);
  EdgeArgs args{};
  args.row_ptr = pattern.row_ptr.as<int64_t>();
  args.col = pattern.col.data;
  args.edge_id = pattern.edge_id.data;
  args.rows = pattern.rows(), args.cols = pattern.cols, args.edges = pattern.edges();
  args.wide_index = pattern.col.dtype == DType::I64;
  args.dtype = col_side.dtype;
  args.threads = threads;
  args.stream = col_side.stream;
  if (!is_float(args.dtype)) throw TypeError(std::string(op) + ": features must be floating point");
  for (const View& view : {row_side, col_side, weights})
    if (view) {
      require_dtype(op, "every dense tensor", view, args.dtype);
      require_device(op, "every dense tensor", view, pattern.device());
    }
  const bool weight_per_task = weights && weights.rank == 2;
  int64_t tasks = weight_per_task ? weights.size(1) : row_side.rank == 3 ? row_side.size(1) : 1;
  if (weights && weight_per_task) require_shape(op, "weight", weights, {args.edges, tasks});
  if (weights && !weight_per_task) require_shape(op, "weight", weights, {args.edges});
  int64_t width = -1;
  *row_per_task = has_task_axis(op, "x_dst", row_side, args.rows, tasks, &width);
  *col_per_task = has_task_axis(op, "x_src", col_side, args.cols, tasks, &width);
  if (*row_per_task == *col_per_task && !weight_per_task) {
    width *= tasks;
    tasks = 1;
  } else if (tasks != 1 && (!weight_per_task || (!*row_per_task && !*col_per_task))) {
    fail(op, "a task axis must be on both sides, or on weight and on one side at least");
  }
  args.tasks = tasks, args.width = width;
  if (scale) {
    require_dtype(op, "scale", scale, args.dtype == DType::F64 ? DType::F64 : DType::F32);
    require_shape(op, "scale", scale, {scale_of_cols ? args.cols : args.rows});
    require_device(op, "scale", scale, pattern.device());
    args.scale = scale.data, args.scale_of_cols = scale_of_cols;
  }
  if (arg) {
    if (arg_of != ArgOf::Rows && arg_of != ArgOf::Cols) fail(op, "arg_of must be 1 (rows) or 2 (columns) with arg");
    require_dtype(op, "arg", arg, pattern.col.dtype);
    require_device(op, "arg", arg, pattern.device());
    const int64_t nodes = arg_of == ArgOf::Cols ? args.cols : args.rows;
    if (arg.numel() != nodes * tasks * width)
      fail(op, "arg must have an entry for every output element, got " + shape_string(arg));
    args.arg = arg.data, args.arg_of = arg_of;
  }
  return args;
}

void spmm(Pattern pattern, View x, View w, View scale, bool scale_of_cols, View arg, int arg_of, int reduce, View y,
          View new_arg, int threads);

}  // namespace fastgmtl
