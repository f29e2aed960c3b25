// The CUDA operators as csrc/contract/entry*.cpp call them. No CUDA header: plain C++ includes this.
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

namespace fastgmtl::cuda {

// Work is queued on args.stream of `device` and nothing waits for it. Throws std::runtime_error with the name of the
// kernel and CUDA's message.
void spmm(const SpmmArgs& args, int device);
void sddmm(const SddmmArgs& args, int device);
void attention(const AttentionArgs& args, int device);
void attention_backward(const AttentionBackwardArgs& args, int device);
void relation_gate(const RelationGateArgs& args, int device);
void relation_gate_backward(const RelationGateBackwardArgs& args, int device);
void gram(const GramArgs& args, int device);
void combine(const CombineArgs& args, int device);
void task_weights(const TaskWeightsArgs& args, int device);
void gatv2_score(const Gatv2Args& args, int device);
void gatv2_backward(const Gatv2BackwardArgs& args, int device);
void edge_energy(const EdgeEnergyArgs& args, int device);
void gibbs(const GibbsArgs& args, int device);
void concrete(const ConcreteArgs& args, int device);
void concrete_draw(const ConcreteArgs& args, int device);
void concrete_edges(const ConcreteEdgesArgs& args, int device);
void gather_relu(const GatherReluArgs& args, int device);
void gather_relu_backward(const GatherReluBackwardArgs& args, int device);
void rspmm(const RspmmArgs& args, int device);
void intersect(const IntersectArgs& args, int device);
void block_spmm(const BlockArgs& args, int device);
void block_sddmm(const BlockArgs& args, int device);
void relu_sum(const ReluSumArgs& args, int device);
void relu_sum_backward(const ReluSumBackwardArgs& args, int device);

}  // namespace fastgmtl::cuda
