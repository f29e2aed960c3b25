#include "level.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace fastgmtl::cpu {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Level best() {
  for (Level level : {Level::Avx512, Level::Avx2})
    if (has_level(level)) return level;
  return Level::Baseline;
}

Level parse(const char* name) {
  if (!*name) return best();
  for (int i = 0; i < 3; ++i) {
    if (std::strcmp(name, kNames[i])) continue;
    if (!has_level(static_cast<Level>(i)))
      throw std::invalid_argument(std::string("FASTGMTL_SIMD: this processor has no ") + name);
    return static_cast<Level>(i);
  }
  throw std::invalid_argument(std::string("FASTGMTL_SIMD must be baseline, avx2 or avx512, got '") + name + "'");
}

std::atomic<int> chosen{-1};

}  // namespace

bool has_level([[maybe_unused]] Level level) {
#if defined(__x86_64__)
  if (level == Level::Avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && has_level(Level::Avx2);
  if (level == Level::Avx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
           __builtin_cpu_supports("bmi2");
#endif
  return level == Level::Baseline;
}

const char* level_name(Level level) { return kNames[static_cast<int>(level)]; }

void set_level(const char* name) { chosen.store(static_cast<int>(parse(name))); }

Level level() {
  int now = chosen.load(std::memory_order_relaxed);
  if (now < 0) {
    const char* name = std::getenv("FASTGMTL_SIMD");
    set_level(name ? name : "");
    now = chosen.load();
  }
  return static_cast<Level>(now);
}

#if defined(__x86_64__)
#define FASTGMTL_TABLE(op) {baseline::op, avx2::op, avx512::op}
#else
#define FASTGMTL_TABLE(op) {baseline::op}
#endif
void (*const spmm[])(const SpmmArgs&) = FASTGMTL_TABLE(spmm);
void (*const sddmm[])(const SddmmArgs&) = FASTGMTL_TABLE(sddmm);
void (*const gram[])(const GramArgs&) = FASTGMTL_TABLE(gram);
void (*const combine[])(const CombineArgs&) = FASTGMTL_TABLE(combine);
void (*const task_weights[])(const TaskWeightsArgs&) = FASTGMTL_TABLE(task_weights);
void (*const attention[])(const AttentionArgs&) = FASTGMTL_TABLE(attention);
void (*const attention_backward[])(const AttentionBackwardArgs&) = FASTGMTL_TABLE(attention_backward);
void (*const relation_gate[])(const RelationGateArgs&) = FASTGMTL_TABLE(relation_gate);
void (*const relation_gate_backward[])(const RelationGateBackwardArgs&) = FASTGMTL_TABLE(relation_gate_backward);
void (*const gatv2_score[])(const Gatv2Args&) = FASTGMTL_TABLE(gatv2_score);
void (*const gatv2_backward[])(const Gatv2BackwardArgs&) = FASTGMTL_TABLE(gatv2_backward);
void (*const edge_energy[])(const EdgeEnergyArgs&) = FASTGMTL_TABLE(edge_energy);
void (*const gibbs[])(const GibbsArgs&) = FASTGMTL_TABLE(gibbs);
void (*const concrete[])(const ConcreteArgs&) = FASTGMTL_TABLE(concrete);
void (*const concrete_draw[])(const ConcreteArgs&) = FASTGMTL_TABLE(concrete_draw);
void (*const concrete_edges[])(const ConcreteEdgesArgs&) = FASTGMTL_TABLE(concrete_edges);
void (*const gather_relu[])(const GatherReluArgs&) = FASTGMTL_TABLE(gather_relu);
void (*const gather_relu_backward[])(const GatherReluBackwardArgs&) = FASTGMTL_TABLE(gather_relu_backward);
void (*const rspmm[])(const RspmmArgs&) = FASTGMTL_TABLE(rspmm);
void (*const intersect[])(const IntersectArgs&) = FASTGMTL_TABLE(intersect);
void (*const block_spmm[])(const BlockArgs&) = FASTGMTL_TABLE(block_spmm);
void (*const block_sddmm[])(const BlockArgs&) = FASTGMTL_TABLE(block_sddmm);
void (*const relu_sum[])(const ReluSumArgs&) = FASTGMTL_TABLE(relu_sum);
void (*const relu_sum_backward[])(const ReluSumBackwardArgs&) = FASTGMTL_TABLE(relu_sum_backward);

}  // namespace fastgmtl::cpu
