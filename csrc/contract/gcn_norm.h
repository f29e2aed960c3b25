// gcn_norm: the pattern with a loop in every row and the weights of its symmetric normalisation, for edges of weight 1.
#pragma once

#include "pattern.h"

namespace fastgmtl {

// pattern   square; its edge ids are not read
// fill      weight of the loop of a row that has none (a row with loops: 1)
// row_ptr   [rows + 1], written: one edge more in each row
// col       [E + rows] of the index type of the pattern, written: the row's columns, then its loop
// weight    [E + rows] float32 or float64, written: 1 / sqrt(d_i d_j); 0 for the loops of the pattern
void gcn_norm(Pattern pattern, double fill, View row_ptr, View col, View weight, int threads);

}  // namespace fastgmtl
