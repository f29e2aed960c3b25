// csr: sort E edges by row. Stable, so that parallel edges keep their order and the result is the same for any number
// of threads.
#pragma once

#include "../view.h"

namespace fastgmtl {

// row, col      [E] int32 or int64
// edge_id       [E] of the index type of new_col, or nothing: positions 0 .. E-1
// row_ptr       [rows + 1] int64, written
// new_col       [E] int32 or int64, written
// new_id        [E] as new_col, written unless true is returned and no edge_id was given
// Returns whether the edges were sorted by row already. Throws IndexError for an index outside of [0, rows) or
// [0, cols), before anything is written.
bool csr(View row, View col, View edge_id, int64_t cols, View row_ptr, View new_col, View new_id, int threads);

}  // namespace fastgmtl
