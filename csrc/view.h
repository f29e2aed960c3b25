// A tensor as the kernels see it, and the DLPack structs by which it crosses from Python.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace fastgmtl {

// ---------------------------------------------------------------------------------------------------- DLPack 1.3
// Layout of https://dmlc.github.io/dlpack (Apache-2.0), declared here so that nothing has to be included.
namespace dlpack {

struct Version {
  uint32_t major, minor;
};
struct Device {
  int32_t type, id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
struct ManagedTensor {
  Tensor tensor;
  void* manager;
  void (*deleter)(ManagedTensor*);
};
struct ManagedTensorVersioned {
  Version version;
  void* manager;
  void (*deleter)(ManagedTensorVersioned*);
  uint64_t flags;
  Tensor tensor;
};
struct ExchangeHeader {
  Version version;
  ExchangeHeader* previous;
};
struct ExchangeApi {
  ExchangeHeader header;
  int (*allocator)(Tensor* prototype, ManagedTensorVersioned** out, void* context,
                   void (*set_error)(void* context, const char* kind, const char* message));
  void* managed_from_object;
  void* managed_to_object;
  int (*tensor_from_object)(void* object, Tensor* out);
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};

constexpr int32_t kCpu = 1, kCuda = 2;
constexpr uint8_t kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6;

}  // namespace dlpack

// ---------------------------------------------------------------------------------------------------------- View
enum class DType : uint8_t { F32, F64, BF16, F16, I32, I64 };

inline const char* name(DType dtype) {
  constexpr const char* names[] = {"float32", "float64", "bfloat16", "float16", "int32", "int64"};
  return names[static_cast<int>(dtype)];
}

struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct IndexError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Device {
  bool cuda = false;
  int id = 0;
  bool operator==(const Device& other) const { return cuda == other.cuda && (!cuda || id == other.id); }
};

// A contiguous tensor of up to kMaxRank axes, or nothing (`!view`) where an optional one was None.
struct View {
  static constexpr int kMaxRank = 4;
  void* data = nullptr;
  void* stream = nullptr;  // current stream of the device, on CUDA
  int64_t shape[kMaxRank] = {0, 0, 0, 0};
  int rank = -1;
  DType dtype = DType::F32;
  Device device;

  explicit operator bool() const { return rank >= 0; }
  int64_t size(int axis) const { return shape[axis]; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

inline std::string shape_string(const View& view) {
  std::string out = "[";
  for (int i = 0; i < view.rank; ++i) out += (i ? ", " : "") + std::to_string(view.shape[i]);
  return out + "]";
}

[[noreturn]] inline void fail(const char* op, const std::string& what) {
  throw std::invalid_argument(std::string(op) + ": " + what);
}

inline void require_shape(const char* op, const char* what, const View& view, std::initializer_list<int64_t> shape) {
  bool equal = view.rank == static_cast<int>(shape.size());
  std::string wanted;
  int axis = 0;
  for (int64_t n : shape) {
    if (equal) equal = view.shape[axis] == n;
    wanted += (axis++ ? ", " : "") + std::to_string(n);
  }
  if (!equal) fail(op, std::string(what) + " must have shape [" + wanted + "], got " + shape_string(view));
}

inline void require_dtype(const char* op, const char* what, const View& view, DType dtype) {
  if (view.dtype != dtype)
    throw TypeError(std::string(op) + ": " + what + " must be " + name(dtype) + ", got " + name(view.dtype));
}

inline void require_device(const char* op, const char* what, const View& view, Device device) {
  if (!(view.device == device)) fail(op, std::string(what) + " must be on the device of the graph");
}

inline bool is_float(DType dtype) { return dtype <= DType::F16; }

}  // namespace fastgmtl
