// Lists of tensors for kernels: as many parts as fit into the parameters of a launch, which nobody has to copy to the
// device first (and which a CUDA graph keeps).
#pragma once

#include <vector>

#include "../common/dispatch.h"
#include "../contract/gram.h"
#include "launch.cuh"
#include "warp.cuh"

namespace fastgmtl::cuda {

// A number as a type.
template <int N>
struct Lanes {
  static constexpr int value = N;
};

struct Batch {
  static constexpr int kPointers = 320, kParts = 40;
  const void* row[kPointers];  // of each part all rows of a, then of b (gram) or of the result (combine)
  int64_t numel[kParts];
  int first_piece[kParts + 1];  // within the launch
  int group[kParts];
  int parts, per_part, piece;  // `piece`: elements

  // The part that piece `k` of the launch is of.
  __device__ __forceinline__ int part_of(int k) const {
    int part = 0;
    while (k >= first_piece[part + 1]) ++part;
    return part;
  }
};

// Cuts the parts into batches of one dtype and calls body(batch, dtype, 16-byte aligned) for each.
template <class Body>
void for_batches(const ListArgs& args, const std::vector<const void*>& b, int64_t piece, const Body& body) {
  const int64_t rows_b = b.empty() ? 0 : args.rows_b, per_part = args.rows_a + rows_b;
  const int64_t most = per_part * Batch::kParts <= Batch::kPointers ? Batch::kParts : Batch::kPointers / per_part;
  const int64_t count = static_cast<int64_t>(args.parts.size());
  for (int64_t n = 0; n < count;) {
    Batch batch{};
    batch.per_part = static_cast<int>(per_part), batch.piece = static_cast<int>(piece);
    bool aligned = true;
    const DType dtype = args.parts[n].dtype;
    for (; n < count && batch.parts < most && args.parts[n].dtype == dtype; ++n) {
      const Part& part = args.parts[n];
      if (part.numel == 0) continue;
      // A launch has less than 2^31 pieces.
      const int64_t pieces = ceil_div(part.numel, piece);
      if (batch.parts && batch.first_piece[batch.parts] + pieces > INT32_MAX / 2) break;
      const void** row = batch.row + batch.parts * per_part;
      for (int64_t i = 0; i < args.rows_a; ++i) row[i] = args.a[n * args.rows_a + i];
      for (int64_t i = 0; i < rows_b; ++i) row[args.rows_a + i] = b[n * rows_b + i];
      for (int64_t i = 0; i < per_part; ++i) aligned = aligned && reinterpret_cast<uintptr_t>(row[i]) % 16 == 0;
      batch.numel[batch.parts] = part.numel, batch.group[batch.parts] = static_cast<int>(part.group);
      batch.first_piece[batch.parts + 1] = batch.first_piece[batch.parts] + static_cast<int>(pieces);
      ++batch.parts;
    }
    if (batch.parts) body(batch, dtype, aligned);
  }
}

// body(Tag<scalar>)
template <class Body>
void of_dtype(DType dtype, const Body& body) {
  dispatch_types<__nv_bfloat16, __half>(dtype, false, [&](auto scalar, auto) { body(scalar); });
}

}  // namespace fastgmtl::cuda
