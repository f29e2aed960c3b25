// The type in which sums of S are kept: double for double, float for everything narrower.
#pragma once

namespace fastgmtl {

template <class S>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class S>
using acc_t = typename Accumulator<S>::type;

}  // namespace fastgmtl
