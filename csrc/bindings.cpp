// The module fastgmtl._C: one line an operator. Tensors become views, C++ exceptions Python errors; the interpreter's
// lock is released while a kernel runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "contract/attention.h"
#include "contract/block_spmm.h"
#include "contract/concrete.h"
#include "contract/csr.h"
#include "contract/edge_energy.h"
#include "contract/gather_relu.h"
#include "contract/gatv2.h"
#include "contract/gcn_norm.h"
#include "contract/gibbs.h"
#include "contract/gram.h"
#include "contract/intersect.h"
#include "contract/neighbor_sample.h"
#include "contract/relation_gate.h"
#include "contract/relu_sum.h"
#include "contract/rspmm.h"
#include "contract/sddmm.h"
#include "contract/task_weights.h"
#include "contract/workspace.h"
#include "cpu/level.h"

namespace py = pybind11;

namespace fastgmtl {
namespace {

// ------------------------------------------------------------------------------------------- tensors become views
// What torch.Tensor offers, found once: the table of C functions, or nothing before PyTorch 2.10.
const dlpack::ExchangeApi* exchange_api() {
  static const dlpack::ExchangeApi* const api = []() -> const dlpack::ExchangeApi* {
    const py::object capsule =
        py::getattr(py::module_::import("torch").attr("Tensor"), "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_CheckExact(capsule.ptr())) return nullptr;
    auto* header = static_cast<dlpack::ExchangeHeader*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!header) throw py::error_already_set();
    while (header && header->version.major != 1) header = header->previous;
    auto* found = reinterpret_cast<dlpack::ExchangeApi*>(header);
    return found && found->allocator && found->tensor_from_object && found->current_stream ? found : nullptr;
  }();
  return api;
}

bool use_exchange_api = true;

DType dtype_of(dlpack::DataType type) {
  const int key = type.code * 256 + type.bits;
  if (type.lanes == 1) switch (key) {
      case dlpack::kFloat * 256 + 32:
        return DType::F32;
      case dlpack::kFloat * 256 + 64:
        return DType::F64;
      case dlpack::kFloat * 256 + 16:
        return DType::F16;
      case dlpack::kBfloat * 256 + 16:
        return DType::BF16;
      case dlpack::kInt * 256 + 32:
        return DType::I32;
      case dlpack::kInt * 256 + 64:
        return DType::I64;
      default:
        break;
    }
  throw TypeError("a kernel takes float32, float64, bfloat16, float16, int32 and int64, got DLPack type code " +
                  std::to_string(type.code) + " with " + std::to_string(type.bits) + " bits");
}

// `flat`: axes but the first as one, for tensors of any rank.
View view_of(const dlpack::Tensor& tensor, bool flat) {
  View view;
  if (!flat && tensor.ndim > View::kMaxRank)
    throw std::invalid_argument("a kernel takes tensors of up to 4 axes, got " + std::to_string(tensor.ndim));
  if (tensor.device.type != dlpack::kCpu && tensor.device.type != dlpack::kCuda)
    throw std::invalid_argument("a kernel takes tensors on cpu or cuda, got DLPack device type " +
                                std::to_string(tensor.device.type));
  view.rank = flat ? 2 : tensor.ndim;
  view.dtype = dtype_of(tensor.dtype);
  view.device = {tensor.device.type == dlpack::kCuda, tensor.device.id};
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  int64_t stride = 1;
  bool contiguous = true;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    if (!flat) view.shape[i] = tensor.shape[i];
    if (tensor.strides && tensor.shape[i] != 1) contiguous = contiguous && tensor.strides[i] == stride;
    stride *= tensor.shape[i];
  }
  if (flat) {
    view.shape[0] = tensor.ndim ? tensor.shape[0] : 1;
    view.shape[1] = view.shape[0] ? stride / view.shape[0] : 0;
  }
  if (stride && !contiguous) throw std::invalid_argument("a kernel takes contiguous tensors; call .contiguous()");
  if (stride && !tensor.data) throw TypeError("a kernel takes tensors with memory of their own, got one without");
  return view;
}

// Tensors whose memory is not theirs (fake, batched, wrapped) are subclasses or are refused by the callers in ops.
void require_plain(py::handle object) {
  static PyObject* const tensor = py::object(py::module_::import("torch").attr("Tensor")).release().ptr();
  static PyObject* const parameter = py::object(py::module_::import("torch.nn").attr("Parameter")).release().ptr();
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
  if (type != tensor && type != parameter)
    throw TypeError("a kernel takes plain torch tensors, got " + std::string(Py_TYPE(object.ptr())->tp_name));
}

// PyTorch refuses what is not dense memory (meta, sparse, batched, wrapped by torch.func): a TypeError that says so.
[[noreturn]] void refused_by_torch() {
  const py::error_already_set error;
  const std::string message = py::str(error.value());
  throw TypeError("a kernel takes dense tensors with memory of their own: " + message.substr(0, message.find('\n')));
}

View by_exchange(const dlpack::ExchangeApi& api, py::handle object, bool flat) {
  dlpack::Tensor tensor;
  if (api.tensor_from_object(object.ptr(), &tensor)) refused_by_torch();
  View view = view_of(tensor, flat);
  if (view.device.cuda && api.current_stream(dlpack::kCuda, view.device.id, &view.stream))
    throw py::error_already_set();
  return view;
}

// The capsule lives as long as the call: `keep` owns it. Tensor.__dlpack__ would not do: it refuses tensors of a GPU
// that is not the current one, and may let the default stream wait for the current one.
View by_capsule(py::handle object, py::object* keep, bool flat) {
  try {
    *keep = py::module_::import("torch.utils.dlpack").attr("to_dlpack")(object.attr("detach")());
  } catch (py::error_already_set& error) {
    error.restore();
    refused_by_torch();
  }
  auto* managed = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(keep->ptr(), "dltensor"));
  if (!managed) throw py::error_already_set();
  View view = view_of(managed->tensor, flat);
  if (view.device.cuda) {
    const py::object stream = py::module_::import("torch.cuda").attr("current_stream")(view.device.id);
    view.stream = reinterpret_cast<void*>(stream.attr("cuda_stream").cast<uintptr_t>());
  }
  return view;
}

View view_from(py::handle object, py::object* keep, bool flat) {
  require_plain(object);
  const auto* api = use_exchange_api ? exchange_api() : nullptr;
  return api ? by_exchange(*api, object, flat) : by_capsule(object, keep, flat);
}

}  // namespace
}  // namespace fastgmtl

namespace pybind11::detail {

template <>
struct type_caster<fastgmtl::View> {
  PYBIND11_TYPE_CASTER(fastgmtl::View, const_name("torch.Tensor | None"));
  object keep;

  bool load(handle source, bool) {
    if (!source.is_none()) value = fastgmtl::view_from(source, &keep, false);
    return true;
  }
};

// A pattern is the tuple (row_ptr, col, edge_id, number of columns).
template <>
struct type_caster<fastgmtl::Pattern> {
  PYBIND11_TYPE_CASTER(fastgmtl::Pattern, const_name("tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, int]"));
  type_caster<fastgmtl::View> row_ptr, col, edge_id;

  bool load(handle source, bool convert) {
    if (!PyTuple_CheckExact(source.ptr()) || PyTuple_GET_SIZE(source.ptr()) != 4) return false;
    const auto item = [&](int i) { return handle(PyTuple_GET_ITEM(source.ptr(), i)); };
    row_ptr.load(item(0), convert);
    col.load(item(1), convert);
    edge_id.load(item(2), convert);
    value.row_ptr = row_ptr;
    value.col = col;
    value.edge_id = edge_id;
    type_caster<int64_t> cols;
    if (!cols.load(item(3), false)) return false;
    value.cols = cols;
    return true;
  }
};

// Rows of a list are the tuple (tuple of tensors or None, number of rows, stacked).
template <>
struct type_caster<fastgmtl::Rows> {
  PYBIND11_TYPE_CASTER(fastgmtl::Rows, const_name("tuple[tuple[torch.Tensor | None, ...], int, bool]"));
  std::vector<object> keep;

  bool load(handle source, bool) {
    if (!PyTuple_Check(source.ptr()) || PyTuple_GET_SIZE(source.ptr()) != 3) return false;
    const handle tensors = PyTuple_GET_ITEM(source.ptr(), 0);
    type_caster<int64_t> count;
    type_caster<bool> stacked;
    if (!PyTuple_CheckExact(tensors.ptr()) || !count.load(PyTuple_GET_ITEM(source.ptr(), 1), false) ||
        !stacked.load(PyTuple_GET_ITEM(source.ptr(), 2), false))
      return false;
    value.count = count, value.stacked = stacked;
    const Py_ssize_t size = PyTuple_GET_SIZE(tensors.ptr());
    value.tensors.resize(size);
    keep.resize(size);
    for (Py_ssize_t i = 0; i < size; ++i) {
      const handle item = PyTuple_GET_ITEM(tensors.ptr(), i);
      if (!item.is_none()) value.tensors[i] = fastgmtl::view_from(item, &keep[i], true);
    }
    return true;
  }
};

}  // namespace pybind11::detail

PYBIND11_MODULE(_C, m) {
  using namespace fastgmtl;
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const TypeError& error) {
      PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const IndexError& error) {
      PyErr_SetString(PyExc_IndexError, error.what());
    }
  });
  const py::call_guard<py::gil_scoped_release> unlocked;

  m.def("csr", &csr, unlocked);
  m.def("gcn_norm", &gcn_norm, unlocked);
  m.def("spmm", &spmm, unlocked);
  m.def("sddmm", &sddmm, unlocked);
  m.def("spmm_backward", &spmm_backward, unlocked);
  m.def("gram", &gram, unlocked);
  m.def("combine", &combine, unlocked);
  m.def("task_weights", &task_weights, unlocked);
  m.def("attention", &attention, unlocked);
  m.def("attention_backward", &attention_backward, unlocked);
  m.def("relation_gate", &relation_gate, unlocked);
  m.def("relation_gate_backward", &relation_gate_backward, unlocked);
  m.def("gatv2_score", &gatv2_score, unlocked);
  m.def("gatv2_backward", &gatv2_backward, unlocked);
  m.def("edge_energy", &edge_energy, unlocked);
  m.def("gibbs", &gibbs, unlocked);
  m.def("concrete", &concrete, unlocked);
  m.def("concrete_draw", &concrete_draw, unlocked);
  m.def("concrete_edges", &concrete_edges, unlocked);
  m.def("gather_relu", &gather_relu, unlocked);
  m.def("gather_relu_backward", &gather_relu_backward, unlocked);
  m.def("rspmm", &rspmm, unlocked);
  m.def("intersect", &intersect, unlocked);
  m.def("block_spmm", &block_spmm, unlocked);
  m.def("block_sddmm", &block_sddmm, unlocked);
  m.def("relu_sum", &relu_sum, unlocked);
  m.def("relu_sum_backward", &relu_sum_backward, unlocked);
  py::class_<NeighborSample>(m, "NeighborSample")
      .def("nodes_per_hop", [](const NeighborSample& sample, int64_t type) { return sample.nodes.at(type).per_hop; })
      .def("edges_per_hop", [](const NeighborSample& sample, int64_t type) { return sample.edges.at(type).per_hop; })
      .def("copy_nodes", &NeighborSample::copy_nodes)
      .def("copy_edges", &NeighborSample::copy_edges);
  m.def("neighbor_sample", &neighbor_sample, unlocked);

  m.def("simd", [] { return cpu::level_name(cpu::level()); });
  m.def("set_simd", [](const std::string& name) { cpu::set_level(name.c_str()); });
  m.def("simd_levels", [] {
    py::list names;
    for (int i = 0; i < 3; ++i)
      if (cpu::has_level(static_cast<cpu::Level>(i))) names.append(cpu::level_name(static_cast<cpu::Level>(i)));
    return names;
  });
  m.def("uses_exchange_api", [] { return use_exchange_api && exchange_api(); });
  m.def("set_exchange_api", [](bool on) {
    use_exchange_api = on;
    framework = on ? exchange_api() : nullptr;
  });
  framework = exchange_api();
#ifdef FASTGMTL_WITH_CUDA
  m.attr("CUDA") = true;
#else
  m.attr("CUDA") = false;
#endif
  m.attr("BUILD") = FASTGMTL_BUILD;
}
