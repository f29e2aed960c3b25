// sddmm: per-edge dot products; spmm_backward: the same and a weighted sum in one pass over the edges. See spmm.h.
#pragma once

#include "spmm.h"

namespace fastgmtl {

//   out[e, t] = s sum over c of  a[i, t, c] b[j, t, c] [arg = e]      for every edge e of row i to column j
//   y[i, t]   = sum over e of  s w[e, t] b[j, t] [arg = e]            (spmm_backward only)
struct SddmmArgs : EdgeArgs {
  const void* a;  // [rows, T, d] or [rows, d]
  const void* b;  // [cols, T, d] or [cols, d]
  void* out;      // [E, T], in the user's edge order
  bool a_per_task, b_per_task;
  const void* w;  // [E, T], or null: ones
  void* y;        // as a, or null: not wanted
};

void sddmm(Pattern pattern, View a, View b, View scale, bool scale_of_cols, View arg, int arg_of, View out,
           int threads);

void spmm_backward(Pattern pattern, View a, View b, View w, View scale, bool scale_of_cols, View arg, int arg_of,
                   View y, View out, int threads);

}  // namespace fastgmtl
