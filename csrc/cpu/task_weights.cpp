// task_weights on the CPU: one problem after another, on the calling thread.
#include "../common/task_weights.h"

#include <memory>

#include "level.h"

namespace fastgmtl::FASTGMTL_LEVEL {

void task_weights(const TaskWeightsArgs& args) {
  const int n = static_cast<int>(args.tasks);
  const std::unique_ptr<double[]> memory(new double[Work::doubles(n) + n * n]);
  const std::unique_ptr<int[]> sets(new int[2 * n]);
  const Work work(memory.get(), sets.get(), n);
  double* const scratch = memory.get() + Work::doubles(n);
  for (int64_t k = 0; k < args.problems; ++k) {
    const double* g = args.gram + k * n * n;
    double* out = args.out + k * n;
    if (!by_task(args.method)) {
      whole(args, g, out, scratch, work);
      continue;
    }
    for (int j = 0; j < n; ++j) out[j] = 0;
    for (int i = 0; i < n; ++i) {
      contribution(args, g, args.state ? args.state + (k * n + i) * n : nullptr, i, work);
      for (int j = 0; j < n; ++j) out[j] += work.v[j];
    }
  }
}

}  // namespace fastgmtl::FASTGMTL_LEVEL
