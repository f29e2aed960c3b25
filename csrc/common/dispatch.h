// Runtime tags to template arguments.
#pragma once

#include <cstdint>

#include "../view.h"

namespace fastgmtl {
namespace {

template <class T>
struct Tag {
  using type = T;
};

// body(Tag<scalar>, Tag<index>)
template <class Bf16, class F16, class Body>
void dispatch_types(DType dtype, bool wide_index, const Body& body) {
  const auto with_index = [&](auto scalar) {
    if (wide_index)
      body(scalar, Tag<int64_t>{});
    else
      body(scalar, Tag<int32_t>{});
  };
  switch (dtype) {
    case DType::F32:
      return with_index(Tag<float>{});
    case DType::F64:
      return with_index(Tag<double>{});
    case DType::BF16:
      return with_index(Tag<Bf16>{});
    case DType::F16:
      return with_index(Tag<F16>{});
    default:
      return;  // indices never get here: the contract refuses them
  }
}

}  // namespace
}  // namespace fastgmtl
