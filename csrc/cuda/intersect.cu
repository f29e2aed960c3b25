// intersect on CUDA; csrc/contract/intersect.h says what it computes.
#include "../contract/intersect.h"
#include "launch.cuh"
#include "warp.cuh"

namespace fastgmtl::cuda {
namespace {

struct Intersect {
  const int64_t* row_ptr;
  Index col;
  const int64_t *pairs, *without;
  int64_t queries, left_out;
  int64_t* counts;
  Index out[3];
  int64_t entries[3];
  bool counting;

  explicit Intersect(const IntersectArgs& args)
      : row_ptr(args.row_ptr),
        col{const_cast<void*>(args.col), args.wide_index},
        pairs(args.pairs),
        without(args.without),
        queries(args.queries),
        left_out(args.left_out),
        counts(args.counts),
        out{{args.out[0], args.wide_out}, {args.out[1], args.wide_out}, {args.out[2], args.wide_out}},
        entries{args.entries[0], args.entries[1], args.entries[2]},
        counting(args.counting) {}

  __device__ __forceinline__ bool has(int64_t begin, int64_t end, int64_t column) const {
    while (begin < end) {
      const int64_t middle = begin + (end - begin) / 2, found = col[middle];
      if (found == column) return true;
      if (found < column)
        begin = middle + 1;
      else
        end = middle;
    }
    return false;
  }
  __device__ __forceinline__ bool is_left_out(int64_t q, int64_t column) const {
    for (int64_t k = 0; k < left_out; ++k)
      if (load(without + k * queries + q) == column) return true;
    return false;
  }
};

// A warp takes one part (blockIdx.y) of one pair: its lanes take 32 columns of the one row (the shorter one where both
// must have them), look for them in the other, and vote. Bytes: the columns of that row, log2 of the other's length
// cached reads for each, and the result.
__global__ void __launch_bounds__(kBlock) intersect_kernel(Intersect job) {
  const int lane = threadIdx.x & 31, part = static_cast<int>(blockIdx.y);
  const int64_t q = static_cast<int64_t>(blockIdx.x) * (kBlock / 32) + (threadIdx.x >> 5), stride = job.queries + 1;
  if (q >= job.queries) return;
  const int64_t i = load(job.pairs + q), j = load(job.pairs + job.queries + q);
  int64_t begin = load(job.row_ptr + i), end = load(job.row_ptr + i + 1);
  int64_t other = load(job.row_ptr + j), other_end = load(job.row_ptr + j + 1);
  if (part == 2 || (part == 0 && end - begin > other_end - other)) {
    const int64_t first = begin, last = end;
    begin = other, end = other_end, other = first, other_end = last;
  }
  int64_t place = job.counting ? 0 : load(job.counts + part * stride + q);
  for (int64_t base = begin; base < end; base += 32) {
    bool kept = false;
    int64_t column = 0;
    if (base + lane < end) {
      column = job.col[base + lane];
      kept = job.has(other, other_end, column) == (part == 0) && !job.is_left_out(q, column);
    }
    const unsigned votes = __ballot_sync(0xffffffffu, kept);
    const int64_t at = place + __popc(votes & ((1u << lane) - 1));
    if (kept && !job.counting && at >= 0 && at < job.entries[part]) job.out[part].write(Pack<int64_t, 1>{{column}}, at);
    place += __popc(votes);
  }
  if (!job.counting || lane != 0) return;
  store_one(place, job.counts + part * stride + q + 1);
  if (q == 0) store_one(int64_t{0}, job.counts + part * stride);
}

}  // namespace

void intersect(const IntersectArgs& args, int device) {
  const DeviceGuard guard(device);
  launch("intersect", intersect_kernel, ceil_div(args.queries, kBlock / 32), args.parts, args.stream, Intersect(args));
}

}  // namespace fastgmtl::cuda
