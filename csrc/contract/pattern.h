// The sparsity pattern every graph operator reads, as views and, once checked, as pointers.
#pragma once

#include "../view.h"

namespace fastgmtl {

// Rows of edges. On the forward pattern rows are destinations and columns sources; on the transpose the reverse.
struct Pattern {
  View row_ptr;  // [rows + 1] int64
  View col;      // [E] int32 or int64
  View edge_id;  // [E] as col: position of an edge in the user's order, or nothing: that order is the order of the rows
  int64_t cols = 0;

  int64_t rows() const { return row_ptr.size(0) - 1; }
  int64_t edges() const { return col.size(0); }
  Device device() const { return col.device; }

  void check(const char* op) const {
    if (row_ptr.rank != 1 || row_ptr.size(0) < 1) fail(op, "row_ptr must have shape [rows + 1]");
    if (col.rank != 1) fail(op, "col must have shape [E], got " + shape_string(col));
    require_dtype(op, "row_ptr", row_ptr, DType::I64);
    if (col.dtype != DType::I32 && col.dtype != DType::I64) throw TypeError(std::string(op) + ": col must be an index");
    require_device(op, "row_ptr", row_ptr, device());
    if (edge_id) {
      require_shape(op, "edge_id", edge_id, {edges()});
      require_dtype(op, "edge_id", edge_id, col.dtype);
      require_device(op, "edge_id", edge_id, device());
    }
  }
};

}  // namespace fastgmtl
