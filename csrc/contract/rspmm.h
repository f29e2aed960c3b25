// rspmm: sums (or extremes) over edges of messages that an edge's source and the edge's relation make together.
//
// For an edge e from j to i of relation r, with features x of sources, z of relations and g of destinations,
//
//   F(g, x, z, w) = sum over e and columns c of  s[i] w[e] g[i, c] (x[j] * z[r])[c] [arg = e]
//
// where * is the product of columns (Mul), or of complex numbers (Rotate): the columns are blocks of 2 * half, of which
// the first half are real parts and the second half imaginary ones. An operator is the derivative of F by g (Dst), x
// (Src), z (Rel) or w (Edge). F is linear in each, so the derivatives of the operators are these operators, to any
// order. s is 1, or 1 / degree for a mean; the last factor is there for extremes only: arg[i, c] names the one edge
// whose message was taken.
//
// All have one form: row r of y is the sum over its edges of w * product(a[one], b[two]), in row order, for any number
// of threads. With a complex product by Src and Rel, a is g, and b is conjugated:
//
//   to    rows          a    b    (Edge: the dot product with c, of the row)
//   Dst   destinations  x    z
//   Src   sources       g    z
//   Rel   relations     g    x
//   Edge  destinations  x    z    g
//
// An extreme (Dst only) may have messages x + z too (Add); sums of these are spmm.
#pragma once

#include "spmm.h"

namespace fastgmtl {

enum class RspmmTo : int { Dst, Src, Rel, Edge };
enum class Message : int { Mul, Add, Rotate };

// EdgeArgs: `col` is `one`, and cols the rows of a. arg and scale belong to destinations.
struct RspmmArgs : EdgeArgs {
  const void* two;        // [E], in row order
  const void *a, *b, *c;  // [cols, width], [any, width], for Edge [rows, width]
  const void* w;          // [E] in the user's order, or null: ones
  void* y;                // [rows, width], for Edge [E] in the user's order; every element is written
  void* new_arg;          // [rows, width] for extremes: edge id of the winner, -1 in empty rows
  int64_t half;           // of Rotate, else 0
  RspmmTo to;
  Message message;
  Reduce reduce;
};

void rspmm(Pattern pattern, View two, View a, View b, View c, View w, View scale, View arg, int to, int message,
           int64_t half, int reduce, View y, View new_arg, int threads);

}  // namespace fastgmtl
