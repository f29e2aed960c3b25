// Temporary memory of CUDA kernels: PyTorch's, so that its allocator reuses it in the order of the stream's work,
// counts it, and takes it from the pool of a CUDA graph while one is captured.
#pragma once

#include "../view.h"

namespace fastgmtl {

// Whose allocator serves. Null: PyTorch before 2.10, which offers none; CUDA's own serves then.
inline const dlpack::ExchangeApi* framework = nullptr;

// `bytes` bytes for work on the current stream of `device`; its deleter gives them back, after that work.
inline dlpack::ManagedTensorVersioned* allocate(int64_t bytes, int device) {
  dlpack::Tensor prototype{};
  prototype.device = {dlpack::kCuda, device};
  prototype.ndim = 1;
  prototype.dtype = {dlpack::kUInt, 8, 1};
  prototype.shape = &bytes;
  dlpack::ManagedTensorVersioned* memory = nullptr;
  std::string message;
  const auto set_error = [](void* context, const char*, const char* text) {
    *static_cast<std::string*>(context) = text;
  };
  if (framework->allocator(&prototype, &memory, &message, set_error))
    throw std::runtime_error("workspace of " + std::to_string(bytes) + " bytes: " + message);
  return memory;
}

}  // namespace fastgmtl
