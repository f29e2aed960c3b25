// Counting sort of edges into rows: one histogram per thread over its share of the edges, an exclusive sum over rows
// and threads, one scatter. Reads the edges twice and writes the result once.
#include "../contract/csr.h"

#include <algorithm>
#include <memory>

namespace fastgmtl {
namespace {

// A histogram has one counter per row and thread; more threads than this many edges per row and thread do not pay.
int useful_threads(int64_t edges, int64_t rows, int threads) {
  const int64_t by_work = edges / 16384 + 1;
  const int64_t by_memory = 4 * edges / (rows + 1) + 1;
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, by_work, by_memory})));
}

template <class In>
[[noreturn]] void out_of_range(const In* index, int64_t edges, int64_t size, const char* what) {
  for (int64_t e = 0; e < edges; ++e)
    if (index[e] < 0 || index[e] >= size)
      throw IndexError("graph: every " + std::string(what) + " must be in [0, " + std::to_string(size) + "), edge " +
                       std::to_string(e) + " has " + std::to_string(index[e]) +
                       "; give the number of nodes or mend the edge list");
  throw IndexError("graph: the edge list changed while it was read");
}

// Whether all indices are in range, and whether rows never decrease.
template <class In>
struct Scan {
  bool row_ok = true, col_ok = true, sorted = true;
  Scan(const In* row, const In* col, int64_t edges, int64_t rows, int64_t cols, int threads) {
    // A negative index is a huge unsigned one. No branches: the loop is vectorised.
    int row_bad = 0, col_bad = 0, unsorted = 0;
#pragma omp parallel for simd schedule(static) num_threads(threads) reduction(| : row_bad, col_bad, unsorted)
    for (int64_t e = 0; e < edges; ++e) {
      row_bad |= static_cast<uint64_t>(row[e]) >= static_cast<uint64_t>(rows);
      col_bad |= static_cast<uint64_t>(col[e]) >= static_cast<uint64_t>(cols);
      unsorted |= row[e] < row[e - (e > 0)];
    }
    row_ok = !row_bad, col_ok = !col_bad, sorted = !unsorted;
  }
};

template <class In, class Out>
void copy_sorted(const In* row, const In* col, const Out* id, int64_t edges, int64_t rows, int64_t* row_ptr,
                 Out* new_col, Out* new_id, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t e = 0; e < edges; ++e) {
    new_col[e] = static_cast<Out>(col[e]);
    if (id) new_id[e] = id[e];
    // Row boundaries: an edge writes the starts of all rows between its predecessor's and its own.
    for (int64_t r = e ? static_cast<int64_t>(row[e - 1]) + 1 : 0; r <= row[e]; ++r) row_ptr[r] = e;
  }
  for (int64_t r = edges ? static_cast<int64_t>(row[edges - 1]) + 1 : 0; r <= rows; ++r) row_ptr[r] = edges;
}

// Count is int32_t where E allows: the histograms are what has to stay in the cache.
template <class In, class Out, class Count>
void counting_sort(const In* row, const In* col, const Out* id, int64_t edges, int64_t rows, int64_t* row_ptr,
                   Out* new_col, Out* new_id, int threads) {
  const std::unique_ptr<Count[]> place(new Count[static_cast<size_t>(rows) * threads]());
  const int64_t share = (edges + threads - 1) / threads;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int t = 0; t < threads; ++t) {
    Count* mine = place.get() + t * rows;
    const int64_t end = std::min(edges, (t + 1) * share);
    for (int64_t e = t * share; e < end; ++e) ++mine[row[e]];
  }
  int64_t sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    row_ptr[r] = sum;
    for (int t = 0; t < threads; ++t) {
      const Count count = place[t * rows + r];
      place[t * rows + r] = static_cast<Count>(sum);
      sum += count;
    }
  }
  row_ptr[rows] = sum;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int t = 0; t < threads; ++t) {
    Count* mine = place.get() + t * rows;
    const int64_t end = std::min(edges, (t + 1) * share);
    for (int64_t e = t * share; e < end; ++e) {
      const int64_t p = mine[row[e]]++;
      new_col[p] = static_cast<Out>(col[e]);
      new_id[p] = id ? id[e] : static_cast<Out>(e);
    }
  }
}

template <class In, class Out>
bool sort_edges(const View& row, const View& col, const View& edge_id, int64_t cols, const View& row_ptr,
                const View& new_col, const View& new_id, int threads) {
  const int64_t edges = row.size(0), rows = row_ptr.size(0) - 1;
  threads = useful_threads(edges, rows, threads);
  const In *from = row.as<In>(), *to = col.as<In>();
  const Out* id = edge_id ? edge_id.as<Out>() : nullptr;
  const Scan<In> scan(from, to, edges, rows, cols, threads);
  if (!scan.row_ok) out_of_range(from, edges, rows, "destination");
  if (!scan.col_ok) out_of_range(to, edges, cols, "source");
  int64_t* ptr = row_ptr.as<int64_t>();
  if (scan.sorted)
    copy_sorted(from, to, id, edges, rows, ptr, new_col.as<Out>(), new_id.as<Out>(), threads);
  else if (edges <= INT32_MAX)
    counting_sort<In, Out, int32_t>(from, to, id, edges, rows, ptr, new_col.as<Out>(), new_id.as<Out>(), threads);
  else
    counting_sort<In, Out, int64_t>(from, to, id, edges, rows, ptr, new_col.as<Out>(), new_id.as<Out>(), threads);
  return scan.sorted;
}

}  // namespace

bool csr(View row, View col, View edge_id, int64_t cols, View row_ptr, View new_col, View new_id, int threads) {
  constexpr const char* op = "csr";
  const int64_t edges = row.rank == 1 ? row.size(0) : -1;
  if (edges < 0) fail(op, "row must have shape [E], got " + shape_string(row));
  for (const auto& [what, view] : {std::pair("col", col), std::pair("new_col", new_col), std::pair("new_id", new_id)})
    require_shape(op, what, view, {edges});
  if (row_ptr.rank != 1 || row_ptr.size(0) < 1) fail(op, "row_ptr must have shape [rows + 1]");
  require_dtype(op, "row_ptr", row_ptr, DType::I64);
  require_dtype(op, "col", col, row.dtype);
  require_dtype(op, "new_id", new_id, new_col.dtype);
  for (const View& view : {row, new_col})
    if (view.dtype != DType::I32 && view.dtype != DType::I64) throw TypeError("csr: indices must be int32 or int64");
  if (edge_id) {
    require_shape(op, "edge_id", edge_id, {edges});
    require_dtype(op, "edge_id", edge_id, new_col.dtype);
  }
  for (const View& view : {row, col, row_ptr, new_col, new_id}) require_device(op, "every tensor", view, Device{});
  const auto run = row.dtype == DType::I64
                       ? (new_col.dtype == DType::I64 ? sort_edges<int64_t, int64_t> : sort_edges<int64_t, int32_t>)
                       : (new_col.dtype == DType::I64 ? sort_edges<int32_t, int64_t> : sort_edges<int32_t, int32_t>);
  return run(row, col, edge_id, cols, row_ptr, new_col, new_id, threads);
}

}  // namespace fastgmtl
