// concrete on the CPU. Random numbers are made 32 counters at a time, which a vector holds side by side, and are used
// from the first-level cache. Bytes moved: log-odds (and v) in, the result out, once; a draw writes a bit a pair.
#include "../common/dispatch.h"
#include "../common/philox.h"
#include "level.h"
#include "parallel.h"
#include "rows.h"
#include "scores.h"
#include "softplus.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

constexpr int kCounters = 32;

// The four numbers of each counter (low[i], high[i]).
inline void numbers(uint64_t seed, const uint64_t* low, const uint64_t* high, uint32_t (*c)[kCounters]) {
  for (int i = 0; i < kCounters; ++i) {
    c[0][i] = static_cast<uint32_t>(low[i]), c[1][i] = static_cast<uint32_t>(low[i] >> 32);
    c[2][i] = static_cast<uint32_t>(high[i]), c[3][i] = 0;
  }
  for (int round = 0; round < 10; ++round) {
    const uint32_t k0 = philox_key0(seed, round), k1 = philox_key1(seed, round);
    for (int i = 0; i < kCounters; ++i) philox_round(c[0][i], c[1][i], c[2][i], c[3][i], k0, k1);
  }
}

template <class S>
struct Concrete {
  using A = acc_t<S>;
  static constexpr int W = kBytes / sizeof(A), kBatch = 4 * kCounters;
  using V = Vec<A, W>;
  const ConcreteArgs& args;
  const S *logits, *v;
  const uint64_t seed;
  const A most, scale, inverse;

  explicit Concrete(const ConcreteArgs& given)
      : args(given),
        logits(static_cast<const S*>(given.logits)),
        v(static_cast<const S*>(given.v)),
        seed(static_cast<uint64_t>(*given.seed)),
        most(static_cast<A>(given.most)),
        scale(static_cast<A>(given.scale)),
        inverse(static_cast<A>(1 / given.temperature)) {}

  static V number(const uint32_t* k) {
    Vec<uint32_t, W> whole;
    std::memcpy(&whole, k, sizeof(whole));
    return __builtin_convertvector(whole, V) + A{0.5};
  }
  V clamped(V l) const { return l > most ? V{} + most : (l < -most ? V{} - most : l); }

  // 1 where u < sigma(c), else 0.
  V drawn(V l, const uint32_t* k) const {
    const V one = V{} + A{1};
    return number(k) < logistic<A, W>(clamped(l)) * A{4294967296.0} ? one : V{};
  }

  // What is v times for the derivative; `rest` are the numbers' complements.
  V slope(V l, const uint32_t* k, const uint32_t* rest) const {
    const V c = clamped(l), noise = log<A, W>(number(rest)) - log<A, W>(number(k));
    const V found = softplus_derivative<A, W>((c + noise) * inverse, args.derivative) * scale;
    return l == c || l != l ? found : V{};
  }

  // `n` <= kBatch pairs with the numbers k, of which there are kBatch.
  void values(const S* l, const S* factor, const uint32_t* k, int64_t n, S* out) const {
    uint32_t rest[kBatch];
    for (int i = 0; i < kBatch; ++i) rest[i] = ~k[i];
    for (int64_t i = 0; i < n; i += W) {
      const int64_t some = std::min<int64_t>(W, n - i);
      const V x = load_some<W>(l + i, some);
      if (args.order == 0)
        store_some<W>(drawn(x, k + i), some, out + i);
      else
        store_some<W>(slope(x, k + i, rest + i) * load_some<W>(factor + i, some), some, out + i);
    }
  }

  // Numbers of the pairs (i, j) from j, a multiple of 4, on.
  void of_row(int64_t i, int64_t j, uint32_t* k) const {
    uint64_t low[kCounters], high[kCounters];
    uint32_t c[4][kCounters];
    for (int q = 0; q < kCounters; ++q) low[q] = static_cast<uint64_t>(i), high[q] = static_cast<uint64_t>(j / 4 + q);
    numbers(seed, low, high, c);
    for (int q = 0; q < kCounters; ++q)
      for (int part = 0; part < 4; ++part) k[4 * q + part] = c[part][q];
  }

  void rows(int64_t begin, int64_t end, S* out) const {
    uint32_t k[kBatch];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i * args.tasks;
      for (int64_t j = 0; j < args.tasks; j += kBatch) {
        of_row(i, j, k);
        values(logits + row + j, v ? v + row + j : nullptr, k, std::min<int64_t>(kBatch, args.tasks - j),
               out + row + j);
      }
      narrow(A{0}, out + row + i);
    }
  }

  void pairs(int64_t begin, int64_t end, S* out) const {
    for (int64_t e = begin; e < end; e += kCounters) {
      const int64_t n = std::min<int64_t>(kCounters, end - e);
      uint64_t low[kCounters] = {}, high[kCounters] = {};
      uint32_t c[4][kCounters], k[kBatch] = {};
      for (int64_t i = 0; i < n; ++i) low[i] = args.src[e + i], high[i] = static_cast<uint64_t>(args.dst[e + i]) / 4;
      numbers(seed, low, high, c);
      for (int64_t i = 0; i < n; ++i) k[i] = c[args.dst[e + i] & 3][i];
      values(logits + e, v ? v + e : nullptr, k, n, out + e);
      for (int64_t i = 0; i < n; ++i)
        if (args.src[e + i] == args.dst[e + i]) narrow(A{0}, out + e + i);
    }
  }

  void bits(int64_t begin, int64_t end) const {
    const int64_t words = (args.tasks + 31) / 32;
    uint32_t k[kBatch];
    A there[kBatch];
    for (int64_t i = begin; i < end; ++i) {
      const S* const row = logits + i * args.tasks;
      for (int64_t j = 0; j < args.tasks; j += kBatch) {
        const int64_t n = std::min<int64_t>(kBatch, args.tasks - j);
        of_row(i, j, k);
        for (int64_t at = 0; at < kBatch; at += W)
          store<W>(at < n ? drawn(load_some<W>(row + j + at, std::min<int64_t>(W, n - at)), k + at) : V{}, there + at);
        for (int64_t at = n; at < kBatch; ++at) there[at] = 0;
        if (i >= j && i < j + n) there[i - j] = 0;
        for (int64_t word = 0; word * 32 < n; ++word) {
          uint32_t bits = 0;
          for (int bit = 0; bit < 32; ++bit) bits |= static_cast<uint32_t>(there[word * 32 + bit] > 0) << bit;
          args.words[i * words + j / 32 + word] = static_cast<int32_t>(bits);
        }
      }
    }
  }
};

// body(i, j) for every bit of the words [first, last) of each row, in order.
template <class Body>
void for_bits(const int32_t* words, int64_t tasks, int64_t first, int64_t last, const Body& body) {
  const int64_t stride = (tasks + 31) / 32;
  for (int64_t i = 0; i < tasks; ++i)
    for (int64_t word = first; word < last; ++word)
      for (uint32_t left = static_cast<uint32_t>(words[i * stride + word]); left; left &= left - 1)
        body(i, word * 32 + __builtin_ctz(left));
}

}  // namespace

void concrete(const ConcreteArgs& args) {
  of_dtype(args.dtype, [&](auto zero) {
    using S = decltype(zero);
    const Concrete<S> job(args);
    S* const out = static_cast<S*>(args.out);
    // A number is worth about as much as moving 32 bytes.
    const int64_t items = args.src ? args.count : args.tasks;
    for_chunks(items, 64, args.count * 32, args.threads, [&](int64_t, int64_t begin, int64_t end) {
      args.src ? job.pairs(begin, end, out) : job.rows(begin, end, out);
    });
  });
}

void concrete_draw(const ConcreteArgs& args) {
  of_dtype(args.dtype, [&](auto zero) {
    const Concrete<decltype(zero)> job(args);
    for_chunks(args.tasks, 64, args.count * 32, args.threads,
               [&](int64_t, int64_t begin, int64_t end) { job.bits(begin, end); });
  });
  for (int64_t j = 0; j <= args.tasks; ++j) args.row_ptr[j] = 0;
  for_bits(args.words, args.tasks, 0, (args.tasks + 31) / 32, [&](int64_t, int64_t j) { ++args.row_ptr[j + 1]; });
}

void concrete_edges(const ConcreteEdgesArgs& args) {
  const Buffer<int64_t> next(args.tasks);
  for (int64_t j = 0; j < args.tasks; ++j) next.get()[j] = args.row_ptr[j];
  for_chunks((args.tasks + 31) / 32, 64, args.tasks * args.tasks / 8 + 32 * args.edges, args.threads,
             [&](int64_t, int64_t begin, int64_t end) {
               for_bits(args.words, args.tasks, begin, end, [&](int64_t i, int64_t j) {
                 if (j >= args.tasks) return;
                 const int64_t place = next.get()[j]++;
                 if (place < 0 || place >= args.edges) return;
                 if (args.wide_index)
                   static_cast<int64_t*>(args.col)[place] = i;
                 else
                   static_cast<int32_t*>(args.col)[place] = static_cast<int32_t>(i);
               });
             });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
