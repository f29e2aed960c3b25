// Work-balanced parallel loops over rows. The ranges depend on the pattern alone, never on the number of threads, and
// a row belongs to one range: results are bit-equal for any number of threads.
#pragma once

#include <cstdint>

namespace fastgmtl {

// First row r in [0, rows] with row_ptr[r] + r >= work: an edge and a row each count as one unit of work.
inline int64_t row_at_work(const int64_t* row_ptr, int64_t rows, int64_t work) {
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (row_ptr[middle] + middle < work)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Calls body(begin, end) for ranges of rows of about equal work, taken by the threads as they become free.
// `edge_bytes` is what an edge moves; small problems stay on the calling thread.
template <class Body>
void for_row_ranges(const int64_t* row_ptr, int64_t rows, int64_t edge_bytes, int threads, const Body& body) {
  const int64_t work = row_ptr[rows] + rows;
  constexpr int64_t kSerial = 1 << 17, kRanges = 256;
  if (threads <= 1 || work * edge_bytes < kSerial) {
    body(int64_t{0}, rows);
    return;
  }
  const int64_t ranges = work < kRanges ? work : kRanges;
  const auto boundary = [&](int64_t k) {
    return k == ranges ? rows : row_at_work(row_ptr, rows, work / ranges * k + work % ranges * k / ranges);
  };
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t k = 0; k < ranges; ++k) {
    const int64_t begin = boundary(k), end = boundary(k + 1);
    if (begin < end) body(begin, end);
  }
}

// Calls body(k, begin, end) for `chunks` equal ranges of [0, items), at most one for each item, taken by the threads as
// they become free. Small problems (`bytes` in all) stay on the calling thread.
template <class Body>
void for_chunks(int64_t items, int64_t chunks, int64_t bytes, int threads, const Body& body) {
  constexpr int64_t kSerial = 1 << 17;
  const int64_t count = chunks < items ? chunks : items;
  const auto boundary = [&](int64_t k) { return items / count * k + items % count * k / count; };
#pragma omp parallel for schedule(dynamic, 1) num_threads(bytes < kSerial ? 1 : threads) if (threads > 1)
  for (int64_t k = 0; k < count; ++k) body(k, boundary(k), boundary(k + 1));
}

}  // namespace fastgmtl
