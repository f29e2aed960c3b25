// The operators of csrc/contract/entry*.cpp on tensors that Python passes through ctypes, with the CUDA sources behind
// them. A call returns null, or what went wrong; it also checks what a caller on a GPU relies on.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include "contract/attention.h"
#include "contract/block_spmm.h"
#include "contract/gatv2.h"
#include "contract/gram.h"
#include "contract/intersect.h"
#include "contract/relation_gate.h"
#include "contract/relu_sum.h"
#include "contract/rspmm.h"
#include "contract/sddmm.h"
#include "contract/task_weights.h"
#include "contract/workspace.h"
#include "cpu/level.h"

namespace fastgmtl::cpu {
// The entries ask for them on CPU tensors only; here all claim to be on a GPU.
Level level() { return Level::Baseline; }
void (*const spmm[])(const SpmmArgs&) = {nullptr};
void (*const sddmm[])(const SddmmArgs&) = {nullptr};
void (*const attention[])(const AttentionArgs&) = {nullptr};
void (*const attention_backward[])(const AttentionBackwardArgs&) = {nullptr};
void (*const gatv2_score[])(const Gatv2Args&) = {nullptr};
void (*const gatv2_backward[])(const Gatv2BackwardArgs&) = {nullptr};
void (*const edge_energy[])(const EdgeEnergyArgs&) = {nullptr};
void (*const gibbs[])(const GibbsArgs&) = {nullptr};
void (*const concrete[])(const ConcreteArgs&) = {nullptr};
void (*const concrete_draw[])(const ConcreteArgs&) = {nullptr};
void (*const concrete_edges[])(const ConcreteEdgesArgs&) = {nullptr};
void (*const gather_relu[])(const GatherReluArgs&) = {nullptr};
void (*const gather_relu_backward[])(const GatherReluBackwardArgs&) = {nullptr};
void (*const rspmm[])(const RspmmArgs&) = {nullptr};
void (*const intersect[])(const IntersectArgs&) = {nullptr};
void (*const block_spmm[])(const BlockArgs&) = {nullptr};
void (*const block_sddmm[])(const BlockArgs&) = {nullptr};
void (*const relu_sum[])(const ReluSumArgs&) = {nullptr};
void (*const relu_sum_backward[])(const ReluSumBackwardArgs&) = {nullptr};
void (*const relation_gate[])(const RelationGateArgs&) = {nullptr};
void (*const relation_gate_backward[])(const RelationGateBackwardArgs&) = {nullptr};
void (*const gram[])(const GramArgs&) = {nullptr};
void (*const combine[])(const CombineArgs&) = {nullptr};
void (*const task_weights[])(const TaskWeightsArgs&) = {nullptr};
}  // namespace fastgmtl::cpu

namespace {

using fastgmtl::View;

struct Tensor {
  void* data;
  int64_t shape[4];
  int32_t rank;  // -1: nothing
  int32_t dtype;
};

// Neither the default stream nor the current device.
char stream_tag;
constexpr int kDevice = 1;
std::string message;

// PyTorch's allocator, through the table of C functions that it offers. What claims to be on the GPU is on the CPU.
namespace dlpack = fastgmtl::dlpack;
dlpack::ExchangeApi torch_api;
int64_t more = 0;  // bytes that are asked of it beyond what is needed
std::map<dlpack::ManagedTensorVersioned*, void (*)(dlpack::ManagedTensorVersioned*)> borrowed;

int allocate(dlpack::Tensor* prototype, dlpack::ManagedTensorVersioned** out, void* context,
             void (*set_error)(void*, const char*, const char*)) {
  if (prototype->device.type != dlpack::kCuda || prototype->device.id != kDevice)
    return set_error(context, "RuntimeError", "a workspace on another device than the given one"), -1;
  prototype->device = {dlpack::kCpu, 0};
  const int64_t bytes = *prototype->shape;
  *prototype->shape += more;
  if (torch_api.allocator(prototype, out, context, set_error)) return -1;
  borrowed[*out] = (*out)->deleter;
  cuda_host::memory.add("workspace", (*out)->tensor.data, bytes, true);
  (*out)->deleter = [](dlpack::ManagedTensorVersioned* memory) {
    cuda_host::memory.remove(memory->tensor.data);
    borrowed.extract(memory).mapped()(memory);
  };
  return 0;
}

struct Call {
  View view(const char* name, const Tensor& tensor, bool output = false) {
    View out;
    if (tensor.rank < 0) return out;
    out.data = tensor.data, out.rank = tensor.rank, out.dtype = static_cast<fastgmtl::DType>(tensor.dtype);
    out.stream = &stream_tag, out.device = {true, kDevice};
    std::copy(tensor.shape, tensor.shape + 4, out.shape);
    constexpr int64_t sizes[] = {4, 8, 2, 2, 4, 8};
    cuda_host::memory.add(name, out.data, out.numel() * sizes[tensor.dtype], output);
    return out;
  }
  // What a kernel adds to has been written before.
  View updated(const char* name, const Tensor& tensor) {
    const View out = view(name, tensor, true);
    const auto found = cuda_host::memory.allocations.find(static_cast<const char*>(out.data));
    if (out && found != cuda_host::memory.allocations.end())
      for (auto& mark : found->second.written) mark.launch = -1;
    return out;
  }
  fastgmtl::Rows rows(const char* name, const Tensor* tensors, int64_t size, int64_t count, int stacked, int use) {
    fastgmtl::Rows out;
    out.count = count, out.stacked = stacked;
    for (int64_t i = 0; i < size; ++i)
      out.tensors.push_back(use == 2 ? updated(name, tensors[i]) : view(name, tensors[i], use == 1));
    return out;
  }
  fastgmtl::Pattern pattern(const Tensor& row_ptr, const Tensor& col, const Tensor& edge_id, int64_t cols) {
    return {view("row_ptr", row_ptr), view("col", col), view("edge_id", edge_id), cols};
  }
  void require(bool condition, const std::string& what) {
    if (!condition) throw std::runtime_error(what);
  }

  template <class Body>
  const char* run(const Body& body) {
    auto& machine = cuda_host::machine;
    const char* result = nullptr;
    machine.streams.clear();
    try {
      body();
      for (void* stream : machine.streams) require(stream == &stream_tag, "work on another stream than the given one");
      for (const auto& entry : cuda_host::memory.allocations)
        require(entry.second.complete(), entry.second.name + " is not written everywhere");
      require(borrowed.empty() && cuda_host::memory.borrowed == 0, "a workspace was not freed");
    } catch (const std::exception& error) {
      result = (message = error.what()).c_str();
    }
    if (!result && machine.device != 0) result = "the current device was not restored";
    cuda_host::memory.allocations.clear();
    return result;
  }
};

}  // namespace

extern "C" {

// Workspaces come from the table of torch.Tensor.__dlpack_c_exchange_api__, or (null) from cudaMallocAsync.
void cuda_host_workspaces(const dlpack::ExchangeApi* api, int64_t more_bytes) {
  if (api) torch_api = *api;
  more = more_bytes;
  static dlpack::ExchangeApi ours;
  ours.allocator = allocate;
  fastgmtl::framework = api ? &ours : nullptr;
}

const char* cuda_host_spmm(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                           const Tensor* x, const Tensor* w, const Tensor* scale, int scale_of_cols, const Tensor* arg,
                           int arg_of, int reduce, const Tensor* y, const Tensor* new_arg) {
  Call call;
  return call.run([&] {
    fastgmtl::spmm(call.pattern(*row_ptr, *col, *edge_id, cols), call.view("x", *x), call.view("w", *w),
                   call.view("scale", *scale), scale_of_cols, call.view("arg", *arg), arg_of, reduce,
                   call.view("y", *y, true), call.view("new_arg", *new_arg, true), 1);
  });
}

const char* cuda_host_sddmm(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                            const Tensor* a, const Tensor* b, const Tensor* w, const Tensor* scale, int scale_of_cols,
                            const Tensor* arg, int arg_of, const Tensor* y, const Tensor* out) {
  Call call;
  return call.run([&] {
    fastgmtl::spmm_backward(call.pattern(*row_ptr, *col, *edge_id, cols), call.view("a", *a), call.view("b", *b),
                            call.view("w", *w), call.view("scale", *scale), scale_of_cols, call.view("arg", *arg),
                            arg_of, call.view("y", *y, true), call.view("out", *out, true), 1);
  });
}

const char* cuda_host_attention(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                                const Tensor* const* inputs, const double* numbers, const Tensor* y,
                                const Tensor* lse) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    fastgmtl::attention(call.pattern(*row_ptr, *col, *edge_id, cols), in(0, "value"), in(1, "dst"), in(2, "src"),
                        in(3, "type"), in(4, "edge"), in(5, "edge_type"), in(6, "seed"), numbers[0], numbers[1],
                        numbers[2] != 0, call.view("y", *y, true), call.view("lse", *lse, true), 1);
  });
}

const char* cuda_host_attention_backward(const Tensor* const* pattern, int64_t rows, int64_t cols,
                                         const Tensor* const* inputs, const double* numbers,
                                         const Tensor* const* outputs) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    const auto out = [&](int i, const char* name) { return call.view(name, *outputs[i], true); };
    fastgmtl::attention_backward(call.pattern(*pattern[0], *pattern[1], *pattern[2], cols),
                                 call.pattern(*pattern[3], *pattern[4], *pattern[5], rows), in(0, "g"), in(1, "g_lse"),
                                 in(2, "y"), in(3, "lse"), in(4, "value"), in(5, "dst"), in(6, "src"), in(7, "type"),
                                 in(8, "edge"), in(9, "edge_type"), in(10, "seed"), numbers[0], numbers[1],
                                 numbers[2] != 0, out(0, "d_value"), out(1, "d_dst"), out(2, "d_src"), out(3, "d_type"),
                                 out(4, "d_edge"), 1);
  });
}

const char* cuda_host_gatv2_score(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                                  const Tensor* const* inputs, double slope, const Tensor* out) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    fastgmtl::gatv2_score(call.pattern(*row_ptr, *col, *edge_id, cols), in(0, "x_dst"), in(1, "x_src"), in(2, "att"),
                          in(3, "at_dst"), in(4, "at_src"), slope, call.view("out", *out, true), 1);
  });
}

const char* cuda_host_gatv2_backward(const Tensor* const* pattern, int64_t rows, int64_t cols,
                                     const Tensor* const* inputs, double slope, const Tensor* const* outputs) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    const auto out = [&](int i, const char* name) { return call.view(name, *outputs[i], true); };
    fastgmtl::gatv2_backward(call.pattern(*pattern[0], *pattern[1], *pattern[2], cols),
                             call.pattern(*pattern[3], *pattern[4], *pattern[5], rows), in(0, "g"), in(1, "x_dst"),
                             in(2, "x_src"), in(3, "att"), in(4, "at_dst"), in(5, "at_src"), slope, out(0, "d_dst"),
                             out(1, "d_src"), out(2, "d_att"), 1);
  });
}

const char* cuda_host_edge_energy(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                                  const Tensor* const* inputs, int to, int field_order, int shift_order, double factor,
                                  const Tensor* out) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    fastgmtl::edge_energy(call.pattern(*row_ptr, *col, *edge_id, cols), in(0, "a"), in(1, "c"), in(2, "v"),
                          in(3, "field"), in(4, "weight"), in(5, "label_src"), in(6, "label_dst"), to, field_order,
                          shift_order, factor, call.view("out", *out, true), 1);
  });
}

const char* cuda_host_gibbs(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                            const Tensor* const* inputs, int64_t burn_in, int normalised, const Tensor* label,
                            const Tensor* mean) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    fastgmtl::gibbs(call.pattern(*row_ptr, *col, *edge_id, cols), in(0, "field"), in(1, "coupling"), in(2, "start"),
                    in(3, "known"), in(4, "order"), in(5, "seed"), burn_in, normalised != 0,
                    call.view("label", *label, true), call.view("mean", *mean, true), 1);
  });
}

const char* cuda_host_concrete(const Tensor* const* inputs, int order, double temperature, double explore,
                               const Tensor* out) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    fastgmtl::concrete(in(0, "logits"), in(1, "v"), in(2, "src"), in(3, "dst"), in(4, "seed"), order, temperature,
                       explore, call.view("out", *out, true), 1);
  });
}

const char* cuda_host_concrete_draw(const Tensor* logits, const Tensor* seed, double explore, const Tensor* words,
                                    const Tensor* row_ptr) {
  Call call;
  return call.run([&] {
    fastgmtl::concrete_draw(call.view("logits", *logits), call.view("seed", *seed), explore,
                            call.view("words", *words, true), call.view("row_ptr", *row_ptr, true), 1);
  });
}

const char* cuda_host_concrete_edges(const Tensor* words, const Tensor* row_ptr, const Tensor* col) {
  Call call;
  return call.run([&] {
    fastgmtl::concrete_edges(call.view("words", *words), call.view("row_ptr", *row_ptr), call.view("col", *col, true),
                             1);
  });
}

const char* cuda_host_gather_relu(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                                  const Tensor* const* inputs, const Tensor* out) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    fastgmtl::gather_relu(call.pattern(*row_ptr, *col, *edge_id, cols), in(0, "h"), in(1, "s"), in(2, "t"),
                          in(3, "at_h"), in(4, "at_s"), in(5, "at_t"), call.view("out", *out, true), 1);
  });
}

const char* cuda_host_gather_relu_backward(const Tensor* const* pattern, int64_t rows, int64_t cols,
                                           const Tensor* const* inputs, const Tensor* const* outputs) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    const auto out = [&](int i, const char* name) { return call.view(name, *outputs[i], true); };
    fastgmtl::gather_relu_backward(call.pattern(*pattern[0], *pattern[1], *pattern[2], cols),
                                   call.pattern(*pattern[3], *pattern[4], *pattern[5], rows), in(0, "g"), in(1, "at_h"),
                                   in(2, "at_s"), in(3, "at_t"), out(0, "d_h"), out(1, "d_s"), out(2, "d_t"), 1);
  });
}

const char* cuda_host_intersect(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                                const Tensor* const* inputs, const Tensor* counts, const Tensor* const* outputs) {
  Call call;
  return call.run([&] {
    const auto out = [&](int i, const char* name) { return call.view(name, *outputs[i], true); };
    const bool lists = outputs[0]->rank >= 0;
    fastgmtl::intersect(call.pattern(*row_ptr, *col, *edge_id, cols), call.view("pairs", *inputs[0]),
                        call.view("without", *inputs[1]), call.view("counts", *counts, !lists), out(0, "both"),
                        out(1, "first"), out(2, "second"), 1);
  });
}

const char* cuda_host_relu_sum(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                               const Tensor* const* inputs, const Tensor* y) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    fastgmtl::relu_sum(call.pattern(*row_ptr, *col, *edge_id, cols), in(0, "x"), in(1, "e"), in(2, "at_x"),
                       in(3, "at_e"), call.view("y", *y, true), 1);
  });
}

const char* cuda_host_relu_sum_backward(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                                        const Tensor* const* inputs, const Tensor* const* outputs) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    fastgmtl::relu_sum_backward(call.pattern(*row_ptr, *col, *edge_id, cols), in(0, "g"), in(1, "at_x"), in(2, "at_e"),
                                call.view("d_x", *outputs[0], true), call.view("d_e", *outputs[1], true), 1);
  });
}

const char* cuda_host_block_spmm(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                                 const Tensor* blocks, const Tensor* x, int transposed, const Tensor* y) {
  Call call;
  return call.run([&] {
    fastgmtl::block_spmm(call.pattern(*row_ptr, *col, *edge_id, cols), call.view("blocks", *blocks), call.view("x", *x),
                         transposed != 0, call.view("y", *y, true), 1);
  });
}

const char* cuda_host_block_sddmm(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                                  const Tensor* g, const Tensor* x, const Tensor* out) {
  Call call;
  return call.run([&] {
    fastgmtl::block_sddmm(call.pattern(*row_ptr, *col, *edge_id, cols), call.view("g", *g), call.view("x", *x),
                          call.view("out", *out, true), 1);
  });
}

const char* cuda_host_rspmm(const Tensor* row_ptr, const Tensor* col, const Tensor* edge_id, int64_t cols,
                            const Tensor* const* inputs, int to, int kind, int64_t half, int reduce, const Tensor* y,
                            const Tensor* new_arg) {
  Call call;
  return call.run([&] {
    const auto in = [&](int i, const char* name) { return call.view(name, *inputs[i]); };
    fastgmtl::rspmm(call.pattern(*row_ptr, *col, *edge_id, cols), in(0, "two"), in(1, "a"), in(2, "b"), in(3, "c"),
                    in(4, "w"), in(5, "scale"), in(6, "arg"), to, kind, half, reduce, call.view("y", *y, true),
                    call.view("new_arg", *new_arg, true), 1);
  });
}

const char* cuda_host_relation_gate(const Tensor* z, const Tensor* logits, const Tensor* weight, const Tensor* residual,
                                    const Tensor* mask, int activation, const Tensor* y) {
  Call call;
  return call.run([&] {
    fastgmtl::relation_gate(call.view("z", *z), call.view("logits", *logits), call.view("weight", *weight),
                            call.view("residual", *residual), call.view("mask", *mask), activation,
                            call.view("y", *y, true), 1);
  });
}

const char* cuda_host_relation_gate_backward(const Tensor* u, const Tensor* z, const Tensor* logits,
                                             const Tensor* weight, const Tensor* mask, const Tensor* d_z,
                                             const Tensor* d_logits, const Tensor* d_weight, const Tensor* partial) {
  Call call;
  return call.run([&] {
    fastgmtl::relation_gate_backward(call.view("u", *u), call.view("z", *z), call.view("logits", *logits),
                                     call.view("weight", *weight), call.view("mask", *mask),
                                     call.view("d_z", *d_z, true), call.view("d_logits", *d_logits, true),
                                     call.view("d_weight", *d_weight, true), call.view("partial", *partial, true), 1);
  });
}

const char* cuda_host_gram(const Tensor* a, int64_t size_a, int64_t count_a, int stacked_a, const Tensor* b,
                           int64_t size_b, int64_t count_b, int stacked_b, const int64_t* groups, int64_t num_groups,
                           const Tensor* out) {
  Call call;
  return call.run([&] {
    fastgmtl::gram(call.rows("a", a, size_a, count_a, stacked_a, 0), call.rows("b", b, size_b, count_b, stacked_b, 0),
                   {groups, groups + num_groups}, call.view("out", *out, true), 1);
  });
}

const char* cuda_host_combine(const Tensor* a, int64_t size_a, int64_t count_a, int stacked_a, const Tensor* weights,
                              const int64_t* groups, int64_t num_groups, const Tensor* out, int64_t size_out,
                              int64_t count_out, int stacked_out, int accumulate) {
  Call call;
  return call.run([&] {
    fastgmtl::combine(call.rows("grads", a, size_a, count_a, stacked_a, 0), call.view("weights", *weights),
                      {groups, groups + num_groups},
                      call.rows("out", out, size_out, count_out, stacked_out, accumulate ? 2 : 1), accumulate, 1);
  });
}

const char* cuda_host_task_weights(int method, const Tensor* gram, const Tensor* vector, const Tensor* order,
                                   double parameter, const Tensor* state, const Tensor* out) {
  Call call;
  return call.run([&] {
    fastgmtl::task_weights(method, call.view("gram", *gram), call.view("vector", *vector), call.view("order", *order),
                           parameter, call.updated("state", *state), call.view("out", *out, true));
  });
}

// Offsets in this library of the kernels that have run; returns how many there are, writes at most `room`.
int64_t cuda_host_executed(uint64_t* offsets, int64_t room) {
  int64_t n = 0;
  for (const void* kernel : cuda_host::machine.executed) {
    Dl_info info;
    if (dladdr(kernel, &info) && n < room)
      offsets[n] = reinterpret_cast<uint64_t>(kernel) - reinterpret_cast<uint64_t>(info.dli_fbase);
    ++n;
  }
  return n;
}
}
