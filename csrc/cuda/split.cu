#include "../common/dispatch.h"
#include "split.cuh"

namespace fastgmtl::cuda {
namespace {

struct LongRows {
  const int64_t* row_ptr;
  int64_t rows, pieces;
  int64_t* row_of;
  int length;
};

// Thread k finds the row that edge k * length lies in, by bisection, and keeps it if the row is long.
// Bytes: 8 written and about 20 cached reads of row_ptr a piece.
__global__ void __launch_bounds__(kBlock) long_rows_kernel(LongRows job) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (k >= job.pieces) return;
  const int64_t edge = k * job.length;
  int64_t low = 0, high = job.rows;  // row_ptr[low] <= edge < row_ptr[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (load(job.row_ptr + middle) <= edge)
      low = middle;
    else
      high = middle;
  }
  const int64_t degree = load(job.row_ptr + low + 1) - load(job.row_ptr + low);
  store_one(degree > job.length ? low : int64_t{-1}, job.row_of + k);
}

constexpr int kColumns = 32, kSlices = kBlock / kColumns;

// Whether message `a` at position `at` beats `b`: a NaN beats all else, of equals the first wins.
template <class A>
__device__ __forceinline__ bool beats(A a, int at, A b, int b_at, bool max) {
  if (b_at < 0) return at >= 0;
  if (at < 0) return false;
  const bool nan = a != a, b_nan = b != b;
  if (nan || b_nan) return nan && (!b_nan || at < b_at);
  return a == b ? at < b_at : (max ? a > b : a < b);
}

// A block takes 32 columns of the long row whose first piece is blockIdx.x; there is nothing to do for other pieces.
// Thread (slice, column) adds every kSlices-th piece, in order, then the first slice adds the slices, in order.
// Bytes: the partial results of long rows once, their y once.
template <class S, bool Extreme>
__global__ void __launch_bounds__(kBlock) combine_kernel(Combine job) {
  using A = acc_t<S>;
  __shared__ A value_memory[kBlock];
  __shared__ int at_memory[kBlock];
  const Shared<A> values(value_memory);
  const Shared<int> places(at_memory);
  const A* const partial = static_cast<const A*>(job.partial);
  const int me = threadIdx.x, slice = me / kColumns;
  const int64_t c = static_cast<int64_t>(blockIdx.y) * kColumns + me % kColumns;
  const bool live = c < job.columns;
  const int64_t k = blockIdx.x, row = load(job.split.row_of + k);
  if (row < 0 || (k > 0 && load(job.split.row_of + k - 1) == row)) return;
  const int64_t last = (load(job.row_ptr + row + 1) - 1) / job.split.length;
  A total{};
  int at = -1;
#pragma unroll 4
  for (int64_t piece = k + slice; live && piece <= last; piece += kSlices) {
    const A value = load(partial + piece * job.columns + c);
    if (!Extreme) {
      total += value;
    } else if (const int place = load(job.winner + piece * job.columns + c); beats(value, place, total, at, job.max)) {
      total = value;
      at = place;
    }
  }
  values.set(me, total);
  if (Extreme) places.set(me, at);
  __syncthreads();
  if (slice == 0 && live) {
    for (int other = me + kColumns; other < kBlock; other += kColumns) {
      const A value = values.get(other);
      if (!Extreme) {
        total += value;
      } else if (const int place = places.get(other); beats(value, place, total, at, job.max)) {
        total = value;
        at = place;
      }
    }
    S out;
    narrow(job.row_scale ? total * load(static_cast<const A*>(job.row_scale) + row) : total, out);
    store_one(out, static_cast<S*>(job.y) + row * job.columns + c);
    if (Extreme) {
      const int64_t edge = load(job.row_ptr + row) + at;
      job.new_arg.write(Pack<int64_t, 1>{{job.edge_id ? job.edge_id[edge] : edge}}, row * job.columns + c);
    }
  }
}

}  // namespace

SplitWorkspace::SplitWorkspace(const EdgeArgs& args, int64_t bytes, int device)
    : SplitWorkspace(args, bytes, device, piece_length(args.edges),
                     args.edges > piece_length(args.edges) ? ceil_div(args.edges, piece_length(args.edges)) : 0) {}

SplitWorkspace::SplitWorkspace(const EdgeArgs& args, int64_t bytes, int device, int length, int64_t pieces)
    : memory(pieces ? ceil_div(pieces * bytes, 8) * 8 + pieces * 8 : 0, device,
             static_cast<cudaStream_t>(args.stream)) {
  if (!pieces) return;
  int64_t* const row_of = memory.at<int64_t>(ceil_div(pieces * bytes, 8) * 8);
  split = {row_of, pieces, length};
  launch("long_rows", long_rows_kernel, ceil_div(pieces, kBlock), 1, args.stream,
         LongRows{args.row_ptr, args.rows, pieces, row_of, length});
}

void combine(DType dtype, const Combine& job, void* stream) {
  dispatch_types<__nv_bfloat16, __half>(dtype, job.edge_id.wide, [&](auto scalar, auto) {
    using S = typename decltype(scalar)::type;
    launch("combine", job.winner ? combine_kernel<S, true> : combine_kernel<S, false>, job.split.pieces,
           ceil_div(job.columns, kColumns), stream, job);
  });
}

}  // namespace fastgmtl::cuda
