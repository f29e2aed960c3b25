// The books on global memory: what may be touched, and who wrote and read each half word of it in which launch.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace cuda_host {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string show(const char* file, int line) {
  const std::string path = file;
  return path.substr(path.find_last_of('/') + 1) + ":" + std::to_string(line);
}

// An allocation the kernels may touch, and who wrote each two bytes of it in which launch (0: nobody yet).
struct Allocation {
  std::string name;
  const char* begin;
  int64_t bytes;
  bool writable;
  struct Mark {
    int launch = 0, thread = 0;
  };
  std::vector<Mark> written, read;  // of writable ones; read: in which launch by whom (-1: several threads)

  bool complete() const {
    for (const Mark& mark : written)
      if (!mark.launch) return false;
    return true;
  }
};

struct Memory {
  std::map<const char*, Allocation> allocations;  // by their first byte
  int borrowed = 0;                               // workspaces that have not been freed

  void add(const std::string& name, const void* data, int64_t bytes, bool writable) {
    const char* begin = static_cast<const char*>(data);
    const std::vector<Allocation::Mark> marks(writable ? static_cast<size_t>(bytes + 1) / 2 : 0);
    if (bytes > 0) allocations[begin] = {name, begin, bytes, writable, marks, marks};
  }
  void remove(const void* data) { allocations.erase(static_cast<const char*>(data)); }

  Allocation& find(const void* address, int64_t bytes, const char* what) {
    const char* at = static_cast<const char*>(address);
    auto next = allocations.upper_bound(at);
    if (next == allocations.begin()) throw Fault(std::string(what) + " out of bounds: before every allocation");
    Allocation& found = std::prev(next)->second;
    const int64_t offset = at - found.begin;
    const auto fault = [&](const char* how) {
      return Fault(std::string(what) + how + std::to_string(bytes) + " bytes at byte " + std::to_string(offset) +
                   " of " + found.name + ", which has " + std::to_string(found.bytes));
    };
    if (offset + bytes > found.bytes) throw fault(" out of bounds: ");
    if (reinterpret_cast<uintptr_t>(at) % static_cast<uintptr_t>(bytes)) throw fault(" misaligned: ");
    return found;
  }
};
inline Memory memory;

}  // namespace cuda_host
