// Philox 4x32-10 (Salmon et al. 2011): random numbers that are a function of a counter and a key, so that whoever needs
// a number again, in a backward pass or in the PyTorch twin, computes it again.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FASTGMTL_HOST_DEVICE __host__ __device__
#else
#define FASTGMTL_HOST_DEVICE
#endif

namespace fastgmtl {
namespace {

// One of the ten rounds, in place.
FASTGMTL_HOST_DEVICE inline void philox_round(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3, uint32_t k0,
                                              uint32_t k1) {
  const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
  c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
  c1 = static_cast<uint32_t>(b);
  c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
  c3 = static_cast<uint32_t>(a);
}

// The key of round `i` (0 to 9).
FASTGMTL_HOST_DEVICE inline uint32_t philox_key0(uint64_t seed, int i) {
  return static_cast<uint32_t>(seed) + 0x9E3779B9u * static_cast<uint32_t>(i);
}
FASTGMTL_HOST_DEVICE inline uint32_t philox_key1(uint64_t seed, int i) {
  return static_cast<uint32_t>(seed >> 32) + 0xBB67AE85u * static_cast<uint32_t>(i);
}

// What dropout does to head `k` of edge `id` (its place in the user's order): the number of the counter
// (id, k / 4), component k % 4, and the head is dropped where that is below `threshold`, chance * 2^32.
FASTGMTL_HOST_DEVICE inline uint32_t dropout_threshold(double chance) {
  return static_cast<uint32_t>(chance * 4294967296.0);
}

// Components 0 to 3 of the counter (id, quad).
FASTGMTL_HOST_DEVICE inline void philox(uint64_t seed, int64_t id, int64_t quad, uint32_t (&out)[4]) {
  uint32_t c0 = static_cast<uint32_t>(id), c1 = static_cast<uint32_t>(static_cast<uint64_t>(id) >> 32);
  uint32_t c2 = static_cast<uint32_t>(quad), c3 = 0;
  for (int i = 0; i < 10; ++i) philox_round(c0, c1, c2, c3, philox_key0(seed, i), philox_key1(seed, i));
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

}  // namespace
}  // namespace fastgmtl
