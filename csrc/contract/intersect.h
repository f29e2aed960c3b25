// intersect: which columns a pair of rows has in common, and which only one of them has.
//
// Rows are sets: their columns ascend strictly. For each pair (i, j) and part
//
//   0: the columns of i that are columns of j as well
//   1: the columns of i that are none of j
//   2: the columns of j that are none of i
//
// less those that are left out for this pair, in ascending order. Called twice: first to count, then, with the places
// at which the columns of each pair begin, to list them. What a pair gets depends on this pair alone.
#pragma once

#include "pattern.h"

namespace fastgmtl {

struct IntersectArgs {
  const int64_t* row_ptr;
  const void* col;
  bool wide_index;
  int64_t rows, cols;
  const int64_t* pairs;    // [2, Q], each in [0, rows)
  const int64_t* without;  // [left_out, Q]: columns that no part of a pair gets
  int64_t queries, left_out;
  int parts;  // 1 or 3
  bool counting;
  int64_t* counts;     // [parts, Q + 1]: 0, then the number of columns of each pair; to list: where they begin
  void* out[3];        // of each part [entries], to list
  int64_t entries[3];  // no place beyond is written
  bool wide_out;
  int threads;
  void* stream;  // of CUDA
};

// both, first and second are what is listed of parts 0, 1 and 2; None to count. Of one part, first and second are None.
void intersect(Pattern pattern, View pairs, View without, View counts, View both, View first, View second, int threads);

}  // namespace fastgmtl
