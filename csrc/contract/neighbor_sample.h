// neighbor_sample: the neighbourhoods of seeds, hop by hop, of one graph or of several over typed nodes.
//
// The seeds of a type are its first nodes, in their order. At each hop every node that the hop before has added (first:
// every seed) draws edges of each edge type into it: all, `fanout` of them without replacement (all if there are no
// more), or `fanout` with replacement. The source of an edge becomes a node unless it is one already; with `disjoint`,
// unless it is one of the same seed: then seeds have neighbourhoods of their own. Nodes are numbered in the order in
// which the edges name them, so that every hop's nodes and edges are consecutive and edges are sorted by destination
// within each edge type.
//
// Randomness is a function of the seed, the edge type, the number of the node that draws and a counter: the result does
// not depend on threads.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "pattern.h"

namespace fastgmtl {

struct SampledNodes {
  std::vector<int64_t> node, batch;  // batch: which of the seeds, for disjoint ones
  std::vector<int64_t> per_hop;      // seeds first
};
struct SampledEdges {
  std::vector<int64_t> row, col, edge;  // numbers of both ends; place in the user's order
  std::vector<int64_t> per_hop;
};

struct NeighborSample {
  std::vector<SampledNodes> nodes;  // of each node type
  std::vector<SampledEdges> edges;  // of each edge type

  // Sizes known, the caller allocates: writes of type `type` node and batch, or row, col and edge. batch may be
  // nothing.
  void copy_nodes(int64_t type, View node, View batch) const;
  void copy_edges(int64_t type, View row, View col, View edge) const;
};

// patterns      of each edge type, rows are destinations
// ends          of each edge type the node types of source and destination
// fanouts       of each edge type, for each hop: how many, or -1 for all
// seeds         of each node type, [n] int64, or nothing
// sizes         of each node type its number of nodes
NeighborSample neighbor_sample(const std::vector<Pattern>& patterns, const std::vector<std::array<int64_t, 2>>& ends,
                               const std::vector<std::vector<int64_t>>& fanouts, const std::vector<View>& seeds,
                               const std::vector<int64_t>& sizes, bool replace, bool disjoint, uint64_t seed,
                               int threads);

}  // namespace fastgmtl
