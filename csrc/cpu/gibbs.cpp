// gibbs on the CPU. A thread takes as many samples as a vector holds and goes through all sweeps with their fields and
// labels in the cache; the children of a label are found once for all of them. Bytes moved: the pattern and the
// couplings once for each sweep and vector of samples; fields in, labels and means out once.
#include <algorithm>

#include "../common/dispatch.h"
#include "../common/philox.h"
#include "level.h"
#include "parallel.h"
#include "rows.h"
#include "scores.h"
#include "softplus.h"

namespace fastgmtl::FASTGMTL_LEVEL {
namespace {

template <class S, class I>
struct Gibbs {
  using A = acc_t<S>;
  static constexpr int W = kWidth<S>;
  using V = Vec<A, W>;
  const GibbsArgs& args;

  V coupling(int64_t e, int64_t b, int64_t n) const {
    const S* const values = static_cast<const S*>(args.coupling);
    const int64_t id = args.edge_id ? static_cast<int64_t>(static_cast<const I*>(args.edge_id)[e]) : e;
    if (!args.wide_coupling) return V{} + widen(values[id]);
    const S* const from = values + id * args.samples + b;
    return n == W ? load<W>(from) : load_tail<W>(from, n);
  }

  // All sweeps of the samples b to b + n.
  void samples(int64_t b, int64_t n) const {
    const int64_t tasks = args.tasks;
    const Buffer<A> fields(tasks * W), labels(tasks * W), means(tasks * W);
    for (int64_t t = 0; t < tasks; ++t) {
      store<W>(load_tail<W>(static_cast<const S*>(args.field) + t * args.samples + b, n), fields.get() + t * W);
      for (int64_t i = 0; i < n; ++i) labels.get()[t * W + i] = static_cast<A>(args.start[t * args.samples + b + i]);
    }
    for (int64_t sweep = 0; sweep < args.sweeps; ++sweep)
      for (int64_t step = 0; step < tasks; ++step) {
        const int64_t k = args.order[sweep * tasks + step];
        if (k < 0 || k >= tasks) continue;
        const V p = logistic<A, W>(logit(k, b, n, fields.get(), labels.get()));
        draw(sweep, k, b, n, p, fields.get(), labels.get(), means.get());
      }
    const A share = A{1} / static_cast<A>(args.sweeps - args.burn_in);
    for (int64_t t = 0; t < tasks; ++t)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t to = t * args.samples + b + i;
        args.label[to] = static_cast<int32_t>(labels.get()[t * W + i]);
        narrow(means.get()[t * W + i] * share, static_cast<S*>(args.mean) + to);
      }
  }

  V logit(int64_t k, int64_t b, int64_t n, const A* fields, const A* labels) const {
    V sum = load<W>(fields + k * W);
    const V y = load<W>(labels + k * W), sign = y + y - A{1};
    for (int64_t e = args.row_ptr[k]; e < args.row_ptr[k + 1]; ++e) {
      const int64_t t = static_cast<const I*>(args.col)[e];
      const V weight = coupling(e, b, n), child = load<W>(labels + t * W);
      sum += (child + child) * weight;
      if (!args.normalised) continue;
      const V rest = load<W>(fields + t * W) - sign * weight;
      sum += softplus<A, W>(rest - weight) - softplus<A, W>(rest + weight);
    }
    return sum;
  }

  // The new label of k, what it does to the fields of the children, and what it adds to the mean.
  void draw(int64_t sweep, int64_t k, int64_t b, int64_t n, V p, A* fields, A* labels, A* means) const {
    uint32_t numbers[W];
    for (int q = 0; q < W / 4; ++q) {
      uint32_t four[4];
      philox(static_cast<uint64_t>(*args.seed), sweep * args.tasks + k, b / 4 + q, four);
      std::memcpy(numbers + 4 * q, four, sizeof(four));
    }
    V change{};
    bool any = false;
    for (int64_t i = 0; i < n; ++i) {
      const A old = labels[k * W + i];
      const bool stays = args.known && args.known[k * args.samples + b + i];
      const A next = stays ? old : static_cast<A>(numbers[i] < static_cast<double>(p[i]) * 4294967296.0);
      if (sweep >= args.burn_in) means[k * W + i] += stays ? old : p[i];
      change[i] = next - old;
      any = any || next != old;
      labels[k * W + i] = next;
    }
    if (!any) return;
    for (int64_t e = args.row_ptr[k]; e < args.row_ptr[k + 1]; ++e) {
      A* const field = fields + static_cast<const I*>(args.col)[e] * W;
      store<W>(load<W>(field) + (change + change) * coupling(e, b, n), field);
    }
  }
};

}  // namespace

void gibbs(const GibbsArgs& args) {
  dispatch_types<Bf16, F16>(args.dtype, args.wide_index, [&](auto scalar, auto index) {
    using S = typename decltype(scalar)::type;
    using Job = Gibbs<S, typename decltype(index)::type>;
    const int64_t vectors = (args.samples + Job::W - 1) / Job::W;
    const int64_t work = args.sweeps * (args.edges + args.tasks) * args.samples * 16;
    for_chunks(vectors, vectors, work, args.threads, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k)
        Job{args}.samples(k * Job::W, std::min<int64_t>(Job::W, args.samples - k * Job::W));
    });
  });
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
