// The loops are compiled once per instruction set, each in a namespace of its own; the best one the processor has is
// chosen when the module is loaded. FASTGMTL_SIMD names another.
#pragma once

#include "../contract/attention.h"
#include "../contract/block_spmm.h"
#include "../contract/concrete.h"
#include "../contract/edge_energy.h"
#include "../contract/gather_relu.h"
#include "../contract/gatv2.h"
#include "../contract/gibbs.h"
#include "../contract/gram.h"
#include "../contract/intersect.h"
#include "../contract/relation_gate.h"
#include "../contract/relu_sum.h"
#include "../contract/rspmm.h"
#include "../contract/sddmm.h"
#include "../contract/task_weights.h"

namespace fastgmtl {

#define FASTGMTL_LEVELS(declare) declare(baseline) declare(avx2) declare(avx512)
#define FASTGMTL_DECLARE(level)                                      \
  namespace level {                                                  \
  void spmm(const SpmmArgs& args);                                   \
  void sddmm(const SddmmArgs& args);                                 \
  void attention(const AttentionArgs& args);                         \
  void attention_backward(const AttentionBackwardArgs& args);        \
  void gatv2_score(const Gatv2Args& args);                           \
  void gatv2_backward(const Gatv2BackwardArgs& args);                \
  void edge_energy(const EdgeEnergyArgs& args);                      \
  void gibbs(const GibbsArgs& args);                                 \
  void concrete(const ConcreteArgs& args);                           \
  void concrete_draw(const ConcreteArgs& args);                      \
  void concrete_edges(const ConcreteEdgesArgs& args);                \
  void gather_relu(const GatherReluArgs& args);                      \
  void gather_relu_backward(const GatherReluBackwardArgs& args);     \
  void rspmm(const RspmmArgs& args);                                 \
  void intersect(const IntersectArgs& args);                         \
  void block_spmm(const BlockArgs& args);                            \
  void block_sddmm(const BlockArgs& args);                           \
  void relu_sum(const ReluSumArgs& args);                            \
  void relu_sum_backward(const ReluSumBackwardArgs& args);           \
  void relation_gate(const RelationGateArgs& args);                  \
  void relation_gate_backward(const RelationGateBackwardArgs& args); \
  void gram(const GramArgs& args);                                   \
  void combine(const CombineArgs& args);                             \
  void task_weights(const TaskWeightsArgs& args);                    \
  }
#if defined(__x86_64__)
FASTGMTL_LEVELS(FASTGMTL_DECLARE)
#else
FASTGMTL_DECLARE(baseline)
#endif

namespace cpu {

enum class Level : int { Baseline, Avx2, Avx512 };

// The level that runs; what the processor has, or what FASTGMTL_SIMD asked for. Throws ValueError at the first call
// for a name that is unknown or that this processor has not.
Level level();
const char* level_name(Level level);
bool has_level(Level level);
void set_level(const char* name);  // "" for the best

extern void (*const spmm[])(const SpmmArgs&);
extern void (*const sddmm[])(const SddmmArgs&);
extern void (*const gram[])(const GramArgs&);
extern void (*const combine[])(const CombineArgs&);
extern void (*const task_weights[])(const TaskWeightsArgs&);
extern void (*const attention[])(const AttentionArgs&);
extern void (*const attention_backward[])(const AttentionBackwardArgs&);
extern void (*const relation_gate[])(const RelationGateArgs&);
extern void (*const relation_gate_backward[])(const RelationGateBackwardArgs&);
extern void (*const gatv2_score[])(const Gatv2Args&);
extern void (*const gatv2_backward[])(const Gatv2BackwardArgs&);
extern void (*const edge_energy[])(const EdgeEnergyArgs&);
extern void (*const gibbs[])(const GibbsArgs&);
extern void (*const concrete[])(const ConcreteArgs&);
extern void (*const concrete_draw[])(const ConcreteArgs&);
extern void (*const concrete_edges[])(const ConcreteEdgesArgs&);
extern void (*const gather_relu[])(const GatherReluArgs&);
extern void (*const gather_relu_backward[])(const GatherReluBackwardArgs&);
extern void (*const rspmm[])(const RspmmArgs&);
extern void (*const intersect[])(const IntersectArgs&);
extern void (*const block_spmm[])(const BlockArgs&);
extern void (*const block_sddmm[])(const BlockArgs&);
extern void (*const relu_sum[])(const ReluSumArgs&);
extern void (*const relu_sum_backward[])(const ReluSumBackwardArgs&);

}  // namespace cpu
}  // namespace fastgmtl
