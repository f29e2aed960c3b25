// What both passes of attention need: logits of a batch of edges, their dropout, and loops over heads and columns.
#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>

#include "../common/philox.h"
#include "../contract/attention.h"
#include "edges.h"

namespace fastgmtl {
namespace {

template <int N>
using Int = std::integral_constant<int, N>;

// body(Int<KK>, k) for groups of KK heads that together are all heads: vectors as wide as the heads allow.
template <class S, class Body>
void for_heads(int64_t heads, const Body& body) {
  int64_t k = 0;
  if constexpr (kWidth<S> > 8)
    for (; k + 16 <= heads; k += 16) body(Int<16>{}, k);
  for (; k + 8 <= heads; k += 8) body(Int<8>{}, k);
  for (; k + 4 <= heads; k += 4) body(Int<4>{}, k);
  for (; k + 2 <= heads; k += 2) body(Int<2>{}, k);
  for (; k < heads; ++k) body(Int<1>{}, k);
}

// body(Int<W>, Int<NV>, Int<NT>, k, c) for tiles of NT heads and NV * W columns: the widest that the registers hold,
// then narrower ones.
template <class S, class Body>
void for_tiles(int64_t heads, int64_t width, const Body& body) {
  const auto columns = [&](auto tasks, int64_t k) {
    constexpr int NT = decltype(tasks)::value, W = kWidth<S>;
    int64_t c = 0;
    const auto run = [&](auto lanes, auto vectors) {
      constexpr int N = decltype(lanes)::value, NV = decltype(vectors)::value;
      if constexpr (NV * NT <= kRegisters || NV == 1)
        for (; c + NV * N <= width; c += NV * N) body(lanes, vectors, tasks, k, c);
    };
    if constexpr (NT == 1) {
      run(Int<W>{}, Int<16>{});
      run(Int<W>{}, Int<8>{});
    }
    run(Int<W>{}, Int<4>{});
    run(Int<W>{}, Int<2>{});
    run(Int<W>{}, Int<1>{});
    if constexpr (W > 8) run(Int<8>{}, Int<1>{});
    run(Int<4>{}, Int<1>{});
    run(Int<2>{}, Int<1>{});
    run(Int<1>{}, Int<1>{});
  };
  int64_t k = 0;
  for (; k + 4 <= heads; k += 4) columns(Int<4>{}, k);
  for (; k + 2 <= heads; k += 2) columns(Int<2>{}, k);
  for (; k < heads; ++k) columns(Int<1>{}, k);
}

// Batches of edges of consecutive rows: body(first row, last row, first edge, last edge). A batch has whole rows, at
// most `most` of them and of edges, or a piece of one row that has more edges than that, at a multiple of `most` from
// the row's first edge. What is summed in which order depends on the row alone.
template <class Body>
void for_batches(const int64_t* row_ptr, int64_t begin, int64_t end, int64_t most, const Body& body) {
  for (int64_t r = begin; r < end;) {
    if (row_ptr[r + 1] - row_ptr[r] > most) {
      for (int64_t e = row_ptr[r]; e < row_ptr[r + 1]; e += most) body(r, r + 1, e, std::min(e + most, row_ptr[r + 1]));
      ++r;
      continue;
    }
    int64_t last = r + 1;
    while (last < end && last - r < most && row_ptr[last + 1] - row_ptr[r] <= most) ++last;
    body(r, last, row_ptr[r], row_ptr[last]);
    r = last;
  }
}

// Numbers, zero at first. No std::vector: its functions would be shared with code for other processors.
template <class A>
struct Buffer {
  std::unique_ptr<A[]> data;
  explicit Buffer(int64_t size) : data(new A[size]()) {}
  A* get() const { return data.get(); }
};

// K numbers for each edge of a batch, with room for a full vector at the end.
template <class A>
struct Batch : Buffer<A> {
  static constexpr int64_t kElements = 2048;
  static int64_t edges(int64_t heads) { return std::max<int64_t>(16, kElements / heads); }
  explicit Batch(int64_t heads) : Buffer<A>(edges(heads) * heads + 16) {}
};

// Logits over a pattern whose rows are one end of the edges (`near`) and whose columns the other (`far`).
template <class S, class I>
struct Scores {
  using A = acc_t<S>;
  const int64_t* row_ptr;
  const I* col;
  const I* edge_id;
  const S *type, *edge;
  const I* edge_type;
  int64_t heads, width, types, last;
  A slope;
  uint64_t seed;
  uint32_t threshold;  // of dropout; 0: none
  A kept;              // what a number that is not dropped is multiplied by

  Scores(const AttentionArgs& args, const int64_t* row_ptr, const void* col, const void* edge_id)
      : row_ptr(row_ptr),
        col(static_cast<const I*>(col)),
        edge_id(static_cast<const I*>(edge_id)),
        type(static_cast<const S*>(args.type)),
        edge(static_cast<const S*>(args.edge)),
        edge_type(static_cast<const I*>(args.edge_type)),
        heads(args.heads),
        width(args.width),
        types(args.types),
        last(args.edges - 1),
        slope(static_cast<A>(args.slope)),
        seed(args.dropout > 0 ? static_cast<uint64_t>(*args.seed) : 0),
        threshold(dropout_threshold(args.dropout)),
        kept(static_cast<A>(1 / (1 - args.dropout))) {}

  int64_t id(int64_t e) const { return edge_id ? static_cast<int64_t>(edge_id[e]) : e; }
  int64_t ahead(int64_t e) const { return col[e + kAhead < last ? e + kAhead : last]; }

  // z of KK heads; `ends` is the sum of the scores of both ends.
  template <int KK>
  Vec<A, KK> z(Vec<A, KK> ends, int64_t e, int64_t k) const {
    if (type) {
      const int64_t t = edge_type[id(e)];
      const bool known = static_cast<uint64_t>(t) < static_cast<uint64_t>(types);
      ends += known ? load<KK>(type + t * heads + k) : Vec<A, KK>{} + static_cast<A>(__builtin_nan(""));
    }
    if (edge) ends += load<KK>(edge + id(e) * heads + k);
    return ends;
  }
  template <int KK>
  Vec<A, KK> leaky(Vec<A, KK> z) const {
    return z > A{0} ? z : z * slope;
  }

  // What dropout multiplies the edges [begin, end) by, [edges, K]. A product in place of a choice: nobody can predict
  // the branch that compilers make of one.
  void dropout(int64_t begin, int64_t end, A* out) const {
    constexpr int N = 32;
    uint32_t c[4][N];
    A factor[4][N];
    uint64_t ids[N] = {};
    for (int64_t e = begin; e < end; e += N) {
      const int n = static_cast<int>(std::min<int64_t>(N, end - e));
      for (int i = 0; i < n; ++i) ids[i] = static_cast<uint64_t>(id(e + i));
      for (int64_t quad = 0; quad < heads; quad += 4) {
        for (int i = 0; i < N; ++i) {
          c[0][i] = static_cast<uint32_t>(ids[i]), c[1][i] = static_cast<uint32_t>(ids[i] >> 32);
          c[2][i] = static_cast<uint32_t>(quad / 4), c[3][i] = 0;
        }
        for (int round = 0; round < 10; ++round) {
          const uint32_t k0 = philox_key0(seed, round), k1 = philox_key1(seed, round);
          for (int i = 0; i < N; ++i) philox_round(c[0][i], c[1][i], c[2][i], c[3][i], k0, k1);
        }
        for (int k = 0; k < 4; ++k)
          for (int i = 0; i < N; ++i) factor[k][i] = static_cast<A>(c[k][i] >= threshold) * kept;
        A* const to = out + (e - begin) * heads + quad;
        if (quad + 4 <= heads)
          for (int i = 0; i < n; ++i)
            store<4>(Vec<A, 4>{factor[0][i], factor[1][i], factor[2][i], factor[3][i]}, to + i * heads);
        else
          for (int i = 0; i < n; ++i)
            for (int k = 0; k < heads - quad; ++k) to[i * heads + k] = factor[k][i];
      }
    }
  }
};

// e^x of n numbers in place; full vectors, so that a number's result does not depend on its place.
template <class A>
void exp_all(A* values, int64_t n) {
  constexpr int W = 64 / sizeof(A);
  for (int64_t i = 0; i < n; i += W) store<W>(exp<W>(load<W>(values + i)), values + i);
}

}  // namespace
}  // namespace fastgmtl
