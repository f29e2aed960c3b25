// neighbor_sample. A hop has two steps: the draws, in parallel, into places that are known before (how many edges a
// node draws does not depend on chance); then the numbering of new nodes, in order, by one thread.
#include "../contract/neighbor_sample.h"

#include <algorithm>
#include <cstring>

#include "../common/philox.h"
#include "parallel.h"

namespace fastgmtl {
namespace {

// Numbers of nodes by key: a table with a place for every key where that is small enough to be cleared, else a hash
// table with open addressing.
class Numbers {
 public:
  Numbers(int64_t keys, int64_t expected) : direct_(keys <= std::max<int64_t>(1 << 15, 4 * expected)) {
    if (direct_)
      table_.assign(keys, -1);
    else
      grow(std::max<int64_t>(1 << 10, 2 * expected));
  }

  // The number of `key`, which becomes `next` if it has none.
  int64_t of(int64_t key, int64_t next) {
    if (direct_) {
      int64_t& number = table_[key];
      if (number < 0) number = next;
      return number;
    }
    if (2 * count_ >= static_cast<int64_t>(keys_.size())) grow(2 * static_cast<int64_t>(keys_.size()));
    const size_t place = find(key);
    if (keys_[place] < 0) keys_[place] = key, table_[place] = next, ++count_;
    return table_[place];
  }
  void fetch(int64_t key) const { __builtin_prefetch(direct_ ? &table_[key] : &keys_[hash(key)]); }

 private:
  size_t hash(int64_t key) const { return (static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15u) >> shift_; }
  size_t find(int64_t key) const {
    size_t place = hash(key);
    while (keys_[place] >= 0 && keys_[place] != key) place = (place + 1) & (keys_.size() - 1);
    return place;
  }
  void grow(int64_t room) {
    const std::vector<int64_t> keys = std::move(keys_), numbers = std::move(table_);
    int bits = 1;
    while ((int64_t{1} << bits) < room) ++bits;
    shift_ = 64 - bits;
    keys_.assign(size_t{1} << bits, -1);
    table_.assign(size_t{1} << bits, -1);
    for (size_t i = 0; i < keys.size(); ++i)
      if (keys[i] >= 0) {
        const size_t place = find(keys[i]);
        keys_[place] = keys[i], table_[place] = numbers[i];
      }
  }

  bool direct_;
  int shift_ = 0;
  int64_t count_ = 0;
  std::vector<int64_t> keys_, table_;
};

// The draws of one node: 32-bit numbers of the counter (node, 0), (node, 1), ...
class Draws {
 public:
  Draws(uint64_t key, int64_t node) : key_(key), node_(node) {}

  // Uniform in [0, n): the high half of n times a number; numbers that would favour some results are passed over.
  int64_t below(int64_t n) {
    const uint32_t range = static_cast<uint32_t>(n);
    uint64_t product = uint64_t{next()} * range;
    if (static_cast<uint32_t>(product) < range)
      for (const uint32_t least = (0u - range) % range; static_cast<uint32_t>(product) < least;)
        product = uint64_t{next()} * range;
    return static_cast<int64_t>(product >> 32);
  }

 private:
  uint32_t next() {
    if (left_ == 0) philox(key_, node_, quad_++, four_), left_ = 4;
    return four_[4 - left_--];
  }

  uint64_t key_;
  int64_t node_, quad_ = 0;
  uint32_t four_[4];
  int left_ = 0;
};

int64_t drawn(int64_t degree, int64_t fanout, bool replace) {
  if (fanout < 0) return degree;
  return replace ? (degree ? fanout : 0) : std::min(degree, fanout);
}

// Floyd's choice of `count` of [0, degree), any subset as likely as another.
void choose(Draws& draws, int64_t degree, int64_t count, std::vector<uint64_t>& taken, int64_t* out) {
  constexpr int64_t kFew = 48;  // are looked through; of more a bit each is kept
  if (count > kFew) taken.assign((degree + 63) / 64, 0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t last = degree - count + i;
    int64_t pick = draws.below(last + 1);
    const bool again = count > kFew ? taken[pick / 64] >> (pick % 64) & 1 : std::find(out, out + i, pick) != out + i;
    if (again) pick = last;
    if (count > kFew) taken[pick / 64] |= uint64_t{1} << (pick % 64);
    out[i] = pick;
  }
}

// The draws of nodes [begin, end) of `nodes`, edge type `type`: places in the pattern, and sources.
template <class I>
void draw(const Pattern& pattern, const SampledNodes& nodes, int64_t begin, int64_t end, const int64_t* start,
          int64_t fanout, bool replace, uint64_t key, int threads, int64_t* edge, int64_t* source) {
  const int64_t* const row_ptr = pattern.row_ptr.as<int64_t>();
  const I* const col = pattern.col.as<I>();
  const I* const id = pattern.edge_id.as<I>();
  const int64_t total = start[end - begin];
  if (end == begin) return;
  for_chunks(end - begin, 64, total * 64, threads, [&](int64_t, int64_t from, int64_t to) {
    std::vector<uint64_t> taken;
    for (int64_t i = from; i < to; ++i) {
      const int64_t node = nodes.node[begin + i], first = row_ptr[node], degree = row_ptr[node + 1] - first;
      const int64_t count = start[i + 1] - start[i];
      int64_t* const mine = edge + start[i];
      if (count == degree && (fanout < 0 || !replace)) {
        for (int64_t k = 0; k < count; ++k) mine[k] = k;
      } else {
        Draws draws(key, begin + i);
        if (replace)
          for (int64_t k = 0; k < count; ++k) mine[k] = draws.below(degree);
        else
          choose(draws, degree, count, taken, mine);
      }
      for (int64_t k = 0; k < count; ++k) {
        const int64_t place = first + mine[k];
        source[start[i] + k] = static_cast<int64_t>(col[place]);
        mine[k] = id ? static_cast<int64_t>(id[place]) : place;
      }
    }
  });
}

void check(const std::vector<Pattern>& patterns, const std::vector<std::array<int64_t, 2>>& ends,
           const std::vector<std::vector<int64_t>>& fanouts, const std::vector<View>& seeds,
           const std::vector<int64_t>& sizes) {
  constexpr const char* op = "neighbor_sample";
  const int64_t types = static_cast<int64_t>(sizes.size());
  if (seeds.size() != sizes.size()) fail(op, "seeds must be given for every node type, or None");
  if (ends.size() != patterns.size() || fanouts.size() != patterns.size())
    fail(op, "ends and fanouts must be given for every edge type");
  for (size_t t = 0; t < patterns.size(); ++t) {
    const Pattern& pattern = patterns[t];
    pattern.check(op);
    require_device(op, "the graph", pattern.col, Device{});
    for (int64_t end : ends[t])
      if (end < 0 || end >= types) fail(op, "an edge type has an end of no node type");
    if (pattern.cols != sizes[ends[t][0]] || pattern.rows() != sizes[ends[t][1]])
      fail(op, "a graph must have as many nodes as their types");
    if (fanouts[t].size() != fanouts[0].size()) fail(op, "every edge type must have as many hops");
  }
  for (size_t t = 0; t < seeds.size(); ++t) {
    if (!seeds[t]) continue;
    if (seeds[t].rank != 1) fail(op, "seeds must have shape [n], got " + shape_string(seeds[t]));
    require_dtype(op, "seeds", seeds[t], DType::I64);
    require_device(op, "seeds", seeds[t], Device{});
    for (int64_t i = 0; i < seeds[t].size(0); ++i)
      if (const int64_t node = seeds[t].as<int64_t>()[i]; node < 0 || node >= sizes[t])
        throw IndexError("neighbor_sample: every seed must be in [0, " + std::to_string(sizes[t]) + "), got " +
                         std::to_string(node));
  }
}

void copy_to(const std::vector<int64_t>& from, const View& to) {
  if (!to) return;
  require_shape("neighbor_sample", "an output", to, {static_cast<int64_t>(from.size())});
  require_dtype("neighbor_sample", "an output", to, DType::I64);
  require_device("neighbor_sample", "an output", to, Device{});
  if (!from.empty()) std::memcpy(to.data, from.data(), from.size() * sizeof(int64_t));
}

}  // namespace

void NeighborSample::copy_nodes(int64_t type, View node, View batch) const {
  copy_to(nodes.at(type).node, node);
  copy_to(nodes.at(type).batch, batch);
}

void NeighborSample::copy_edges(int64_t type, View row, View col, View edge) const {
  copy_to(edges.at(type).row, row);
  copy_to(edges.at(type).col, col);
  copy_to(edges.at(type).edge, edge);
}

NeighborSample neighbor_sample(const std::vector<Pattern>& patterns, const std::vector<std::array<int64_t, 2>>& ends,
                               const std::vector<std::vector<int64_t>>& fanouts, const std::vector<View>& seeds,
                               const std::vector<int64_t>& sizes, bool replace, bool disjoint, uint64_t seed,
                               int threads) {
  check(patterns, ends, fanouts, seeds, sizes);
  NeighborSample out;
  out.nodes.resize(sizes.size());
  out.edges.resize(patterns.size());
  const size_t hops = fanouts.empty() ? 0 : fanouts[0].size();
  int64_t num_seeds = 0, reach = 0;
  for (const View& view : seeds) num_seeds += view ? view.size(0) : 0;
  // Rough: what one edge type would reach, up to what is worth reserving.
  reach = num_seeds;
  for (size_t hop = 0; hop < hops && reach < (1 << 20); ++hop)
    reach *= 1 + std::max<int64_t>(0, std::min<int64_t>(fanouts[0][hop], 64));

  std::vector<Numbers> numbers;
  int64_t seen = 0;  // seeds
  for (size_t t = 0; t < sizes.size(); ++t) {
    SampledNodes& nodes = out.nodes[t];
    numbers.emplace_back(sizes[t] * (disjoint ? std::max<int64_t>(1, num_seeds) : 1), reach);
    const int64_t count = seeds[t] ? seeds[t].size(0) : 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t node = seeds[t].as<int64_t>()[i];
      nodes.node.push_back(node);
      if (disjoint) nodes.batch.push_back(seen + i);
      numbers[t].of(disjoint ? (seen + i) * sizes[t] + node : node, i);
    }
    seen += count;
    nodes.per_hop.push_back(count);
  }

  std::vector<int64_t> begin(sizes.size(), 0), end, start, source;
  for (size_t hop = 0; hop < hops; ++hop) {
    end.clear();
    for (const SampledNodes& nodes : out.nodes) end.push_back(static_cast<int64_t>(nodes.node.size()));
    for (size_t e = 0; e < patterns.size(); ++e) {
      const Pattern& pattern = patterns[e];
      const auto [src, dst] = ends[e];
      SampledNodes& to = out.nodes[dst];
      SampledNodes& from = out.nodes[src];
      SampledEdges& edges = out.edges[e];
      const int64_t first = begin[dst], rows = end[dst] - first, fanout = fanouts[e][hop];
      const int64_t* const row_ptr = pattern.row_ptr.as<int64_t>();
      start.assign(rows + 1, 0);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t node = to.node[first + i], degree = row_ptr[node + 1] - row_ptr[node];
        if (degree > UINT32_MAX) fail("neighbor_sample", "a node has more than 4294967295 edges");
        start[i + 1] = start[i] + drawn(degree, fanout, replace);
      }
      const int64_t total = start[rows], old = static_cast<int64_t>(edges.row.size());
      edges.row.resize(old + total);
      edges.col.resize(old + total);
      edges.edge.resize(old + total);
      source.resize(total);
      const uint64_t key = seed + 0x9E3779B97F4A7C15u * e;
      const auto draws = pattern.col.dtype == DType::I64 ? draw<int64_t> : draw<int32_t>;
      draws(pattern, to, first, end[dst], start.data(), fanout, replace, key, threads, edges.edge.data() + old,
            source.data());

      Numbers& known = numbers[src];
      constexpr int64_t kAhead = 16;
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t group = disjoint ? to.batch[first + i] : 0;
        for (int64_t k = start[i]; k < start[i + 1]; ++k) {
          if (k + kAhead < total) known.fetch(group * sizes[src] + source[k + kAhead]);
          const int64_t next = static_cast<int64_t>(from.node.size());
          const int64_t number = known.of(group * sizes[src] + source[k], next);
          if (number == next) {
            from.node.push_back(source[k]);
            if (disjoint) from.batch.push_back(group);
          }
          edges.row[old + k] = number;
          edges.col[old + k] = first + i;
        }
      }
      edges.per_hop.push_back(total);
    }
    for (size_t t = 0; t < sizes.size(); ++t) {
      out.nodes[t].per_hop.push_back(static_cast<int64_t>(out.nodes[t].node.size()) - end[t]);
      begin[t] = end[t];
    }
  }
  return out;
}

}  // namespace fastgmtl
