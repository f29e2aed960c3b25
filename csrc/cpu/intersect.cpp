// intersect on the CPU. Rows are merged; where only what they share is asked for, a short row is compared with
// vectors of the other, and where that is far longer, looked for in it in steps that double. Bytes
// moved: the columns of both rows, twice, and the result once.
#include <algorithm>
#include <utility>

#include "../common/dispatch.h"
#include "level.h"
#include "parallel.h"
#include "rows.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

template <class I>
struct Intersect {
  const IntersectArgs& args;
  const I* const col;

  explicit Intersect(const IntersectArgs& given) : args(given), col(static_cast<const I*>(given.col)) {}

  // The first column in [from, end) that is not below `wanted`.
  static const I* at_least(const I* from, const I* end, I wanted) {
    int64_t step = 1;
    while (step < end - from && from[step] < wanted) from += step, step *= 2;
    return std::lower_bound(from, std::min(from + step + 1, end), wanted);
  }

  // body(0, column) for the columns of [b, b_end) that are in [a, a_end): each of these beside a vector of those, so
  // that no step waits for the one before.
  template <class Body>
  static void compare(const I* a, const I* a_end, const I* b, const I* b_end, const Body& body) {
    constexpr int W = kBytes / sizeof(I), kWords = kBytes / 8;
    using V = typename VecOf<I, W>::type;
    for (; b < b_end; b += W) {
      const int64_t left = std::min<int64_t>(W, b_end - b);
      V columns, found{};
      if (left == W) {
        std::memcpy(&columns, b, kBytes);
      } else {
        columns = V{} - 1;
        std::memcpy(&columns, b, left * sizeof(I));
      }
      for (const I* each = a; each < a_end; ++each) found |= columns == *each;
      uint64_t words[kWords], any = 0;
      std::memcpy(words, &found, kBytes);
      for (uint64_t word : words) any |= word;
      for (int64_t k = 0; any && k < left; ++k)
        if (found[k]) body(0, b[k]);
    }
  }

  // body(part, column) for what the pair q has, in ascending order within each part.
  template <bool Difference, class Body>
  void members(int64_t q, const Body& keep) const {
    const auto body = [&](int part, I column) {
      for (int64_t k = 0; k < args.left_out; ++k)
        if (args.without[k * args.queries + q] == column) return;
      keep(part, column);
    };
    const int64_t i = args.pairs[q], j = args.pairs[args.queries + q];
    const I *a = col + args.row_ptr[i], *b = col + args.row_ptr[j];
    const I *a_end = col + args.row_ptr[i + 1], *b_end = col + args.row_ptr[j + 1];
    if constexpr (Difference) {
      while (a < a_end && b < b_end) {
        const I x = *a, y = *b;
        body(x == y ? 0 : (x < y ? 1 : 2), std::min(x, y));
        a += x <= y, b += y <= x;
      }
      for (; a < a_end; ++a) body(1, *a);
      for (; b < b_end; ++b) body(2, *b);
    } else {
      if (a_end - a > b_end - b) std::swap(a, b), std::swap(a_end, b_end);
      constexpr int64_t kFarLonger = 16, kShort = 64;
      if ((b_end - b) / kFarLonger > a_end - a) {
        for (; a < a_end; ++a) {
          b = at_least(b, b_end, *a);
          if (b == b_end) return;
          if (*b == *a) body(0, *a);
        }
        return;
      }
      if (a_end - a <= kShort) return compare(a, a_end, b, b_end, body);
      while (a < a_end && b < b_end) {
        const I x = *a, y = *b;
        if (x == y) body(0, x);
        a += x <= y, b += y <= x;
      }
    }
  }

  template <bool Difference>
  void run() const {
    const int64_t queries = args.queries, stride = queries + 1;
    for (int part = 0; args.counting && part < args.parts; ++part) args.counts[part * stride] = 0;
    // A pair is worth about as much as moving 128 bytes.
    for_chunks(queries, 512, queries * 128, args.threads, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t q = begin; q < end; ++q) {
        int64_t place[3] = {};
        if (args.counting) {
          members<Difference>(q, [&](int part, I) { ++place[part]; });
          for (int part = 0; part < args.parts; ++part) args.counts[part * stride + q + 1] = place[part];
          continue;
        }
        for (int part = 0; part < args.parts; ++part) place[part] = args.counts[part * stride + q];
        members<Difference>(q, [&](int part, I column) {
          const int64_t at = place[part]++;
          if (at < 0 || at >= args.entries[part]) return;
          if (args.wide_out)
            static_cast<int64_t*>(args.out[part])[at] = column;
          else
            static_cast<int32_t*>(args.out[part])[at] = static_cast<int32_t>(column);
        });
      }
    });
  }
};

}  // namespace

void intersect(const IntersectArgs& args) {
  const auto run = [&](auto index) {
    const Intersect<decltype(index)> job(args);
    args.parts == 3 ? job.template run<true>() : job.template run<false>();
  };
  args.wide_index ? run(int64_t{}) : run(int32_t{});
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
