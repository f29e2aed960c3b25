// What csrc/cuda/launch.cuh and the geometry in split.cuh do without any operator, for test_launch.py. A call returns
// null, or what went wrong.
#include <algorithm>

#include "cuda/split.cuh"

namespace {

using fastgmtl::cuda::blocks_for;
using fastgmtl::cuda::ceil_div;
using fastgmtl::cuda::kBlock;
using fastgmtl::cuda::log_lanes_for;
using fastgmtl::cuda::piece_length;

static_assert(ceil_div(0, 4) == 0 && ceil_div(1, 4) == 1 && ceil_div(4, 4) == 1 && ceil_div(5, 4) == 2,
              "no block idles");
static_assert(kBlock % 32 == 0, "groups of lanes lie in one warp");
// As few lanes as cover a row, as few blocks as hold the groups, pieces of 64 edges up to a million, of 512 at most.
static_assert(log_lanes_for(16, 0) == 4 && log_lanes_for(17, 0) == 5 && log_lanes_for(99, 0) == 5);
static_assert(log_lanes_for(1, 2) == 2 && log_lanes_for(0, 0) == 0);
static_assert(blocks_for({}, kBlock, 0) == 1 && blocks_for({}, kBlock / 32 + 1, 5) == 2);
static_assert(blocks_for({nullptr, kBlock, 64}, 1, 0) == 2);
static_assert(piece_length(0) == 64 && piece_length(64 * 16384) == 64 && piece_length(65 * 16384) == 128);
static_assert(piece_length(20000000) == 512 && piece_length(int64_t{1} << 40) == 512);

struct Visits {
  int* of_block;  // [tiles, blocks]; null: stop at once
  int64_t blocks, tiles;
};

__global__ void visit(Visits job) {
  if (!job.of_block) throw cuda_host::Fault("stopped");
  if (gridDim.x == job.blocks && gridDim.y == job.tiles && blockDim.x == kBlock)
    ++job.of_block[blockIdx.y * job.blocks + blockIdx.x];
}

char stream;
std::string message;

void require_stream() {
  for (void* used : cuda_host::machine.streams)
    if (used != &stream) throw std::runtime_error("work on another stream than the given one");
}

template <class Body>
const char* reported(const Body& body) {
  cuda_host::machine.streams.clear();
  try {
    body();
    require_stream();
    return nullptr;
  } catch (const std::exception& error) {
    return (message = error.what()).c_str();
  }
}

}  // namespace

extern "C" {

// *complete: of how many blocks all threads have run once.
const char* cuda_host_launch(int64_t blocks, int64_t tiles, int stops, int64_t* complete) {
  const bool counts = !stops && blocks > 0 && tiles > 0 && blocks * tiles < 1 << 20;
  std::vector<int> visits(counts ? static_cast<size_t>(blocks * tiles) : 1);
  const int before = cuda_host::machine.launches;
  const char* error = reported([&] {
    fastgmtl::cuda::launch("visit", visit, blocks, tiles, &stream, {stops ? nullptr : visits.data(), blocks, tiles});
  });
  *complete = std::count(visits.begin(), visits.end(), kBlock);
  if (!error && !*complete && cuda_host::machine.launches != before) return "something was started";
  return error;
}

// found: the current device within a guard for `device`, and after it.
const char* cuda_host_guard(int device, int* found) {
  const char* error = reported([&] {
    const fastgmtl::cuda::DeviceGuard guard(device);
    cudaGetDevice(found);
  });
  cudaGetDevice(found + 1);
  return error;
}

// found: whether there is memory, and how far byte 8 is from byte 0. All of it may be written; nothing stays.
const char* cuda_host_workspace(int64_t bytes, int device, int64_t* found) {
  return reported([&] {
    {
      const fastgmtl::cuda::Workspace memory(bytes, device, &stream);
      char* const begin = memory.at<char>(0);
      found[0] = begin != nullptr;
      found[1] = memory.at<char>(8) - begin;
      if (begin) cuda_host::memory.find(begin, 1, "write"), cuda_host::memory.find(begin + bytes - 1, 1, "write");
    }
    if (!cuda_host::memory.allocations.empty()) throw std::runtime_error("the workspace stays");
  });
}
}
