// gibbs on CUDA; csrc/contract/gibbs.h says what it computes.
#include "../common/dispatch.h"
#include "../common/philox.h"
#include "launch.cuh"
#include "launch.h"
#include "softplus.cuh"

namespace fastgmtl::cuda {
namespace {

constexpr int kSharedBytes = 48 << 10;

template <class S>
struct Gibbs {
  using A = acc_t<S>;
  const int64_t* row_ptr;
  Index col, edge_id;
  int64_t samples;
  const S *field, *coupling;
  const int32_t *start, *known, *order;
  const int64_t* seed;
  int64_t sweeps, burn_in;
  int tasks, warps;  // warps of a block that find room in shared memory
  bool wide_coupling, normalised;
  int32_t* label;
  S* mean;

  __device__ __forceinline__ A weight(int64_t e, int64_t b) const {
    const int64_t id = edge_id ? edge_id[e] : e;
    return widen(load(wide_coupling ? coupling + id * samples + b : coupling + id));
  }
};

// Mapping. A warp takes one sample through all sweeps; its fields, labels and means lie in shared memory, and its lanes
// share the children of a label out. Nothing but the pattern, the couplings and the order is read again. Bytes: per
// sample T fields, labels and means once; per sweep the pattern and couplings from the cache.
template <class S>
__global__ void __launch_bounds__(kBlock) gibbs_kernel(Gibbs<S> job) {
  using A = acc_t<S>;
  __shared__ A words[kSharedBytes / sizeof(A)];
  const Shared<A> memory(words);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t b = static_cast<int64_t>(blockIdx.x) * job.warps + warp;
  if (warp >= job.warps || b >= job.samples) return;
  const int fields = warp * 3 * job.tasks, labels = fields + job.tasks, means = labels + job.tasks;
  for (int t = lane; t < job.tasks; t += 32) {
    memory.set(fields + t, widen(load(job.field + t * job.samples + b)));
    memory.set(labels + t, static_cast<A>(load(job.start + t * job.samples + b)));
    memory.set(means + t, A{0});
  }
  __syncwarp();
  const uint64_t seed = static_cast<uint64_t>(load(job.seed));
  for (int64_t sweep = 0; sweep < job.sweeps; ++sweep)
    for (int step = 0; step < job.tasks; ++step) {
      const int k = load(job.order + sweep * job.tasks + step);
      if (k < 0 || k >= job.tasks) continue;
      const int64_t begin = load(job.row_ptr + k), end = load(job.row_ptr + k + 1);
      const A old = memory.get(labels + k), sign = old + old - A{1};
      A sum = 0;
      for (int64_t e = begin + lane; e < end; e += 32) {
        const int t = static_cast<int>(job.col[e]);
        const A weight = job.weight(e, b);
        sum += A{2} * memory.get(labels + t) * weight;
        if (!job.normalised) continue;
        const A rest = memory.get(fields + t) - sign * weight;
        sum += softplus(rest - weight) - softplus(rest + weight);
      }
      for (int away = 16; away > 0; away >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, away);
      const A p = logistic(memory.get(fields + k) + sum);
      uint32_t four[4];
      philox(seed, sweep * job.tasks + k, b / 4, four);
      const uint32_t low = b & 1 ? four[1] : four[0], high = b & 1 ? four[3] : four[2];
      const bool stays = job.known && load(job.known + k * job.samples + b);
      const A drawn = (b & 2 ? high : low) < static_cast<double>(p) * 4294967296.0 ? A{1} : A{0};
      const A next = stays ? old : drawn;
      __syncwarp();  // all have read what is written now
      if (next != old)
        for (int64_t e = begin + lane; e < end; e += 32) {
          const int at = fields + static_cast<int>(job.col[e]);
          memory.set(at, memory.get(at) + A{2} * (next - old) * job.weight(e, b));
        }
      if (lane == 0) {
        memory.set(labels + k, next);
        if (sweep >= job.burn_in) memory.set(means + k, memory.get(means + k) + (stays ? old : p));
      }
      __syncwarp();
    }
  const A share = A{1} / static_cast<A>(job.sweeps - job.burn_in);
  for (int t = lane; t < job.tasks; t += 32) {
    store_one(static_cast<int32_t>(memory.get(labels + t)), job.label + t * job.samples + b);
    S narrowed;
    narrow(memory.get(means + t) * share, narrowed);
    store_one(narrowed, job.mean + t * job.samples + b);
  }
}

template <class S>
void run(const GibbsArgs& args) {
  const int64_t room = kSharedBytes / static_cast<int64_t>(sizeof(acc_t<S>)) / 3, fitting = room / args.tasks;
  if (fitting == 0)
    throw std::runtime_error("gibbs: on CUDA there may be " + std::to_string(room) + " tasks of this dtype, got " +
                             std::to_string(args.tasks));
  Gibbs<S> job{};
  job.row_ptr = args.row_ptr, job.col = {const_cast<void*>(args.col), args.wide_index};
  job.edge_id = {const_cast<void*>(args.edge_id), args.wide_index};
  job.samples = args.samples, job.field = static_cast<const S*>(args.field);
  job.coupling = static_cast<const S*>(args.coupling), job.wide_coupling = args.wide_coupling;
  job.start = args.start, job.known = args.known, job.order = args.order, job.seed = args.seed;
  job.sweeps = args.sweeps, job.burn_in = args.burn_in, job.normalised = args.normalised;
  job.tasks = static_cast<int>(args.tasks), job.label = args.label, job.mean = static_cast<S*>(args.mean);
  job.warps = static_cast<int>(fitting < kBlock / 32 ? fitting : kBlock / 32);
  launch("gibbs", gibbs_kernel<S>, ceil_div(args.samples, job.warps), 1, args.stream, job);
}

}  // namespace

void gibbs(const GibbsArgs& args, int device) {
  const DeviceGuard guard(device);
  dispatch_types<__nv_bfloat16, __half>(args.dtype, args.wide_index,
                                        [&](auto scalar, auto) { run<typename decltype(scalar)::type>(args); });
}

}  // namespace fastgmtl::cuda
