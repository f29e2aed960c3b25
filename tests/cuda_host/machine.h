// The machine behind cuda_host.h: blocks of fibres, what they wait at, and the books on who touched which memory.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace cuda_host {

// ------------------------------------------------------------------------------------------------------- threads

enum class State { Ready, Barrier, Warp, Done };

struct Thread {
  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  bool started = false;
  State state = State::Done;
  uint3 index{};
  // What it waits at.
  const char *call = "", *file = "";
  int line = 0;
  unsigned mask = 0;
  uint64_t value = 0, gathered[32] = {};
};

// Accesses to one element of shared memory since the last barrier.
struct Word {
  struct Access {
    int thread = -1, epoch = -1, warp_epoch = 0, line = 0;
  };
  Access write;
  std::vector<Access> reads;
};

struct Machine {
  static constexpr size_t kStack = 256 * 1024;
  std::vector<std::unique_ptr<Thread>> threads;
  ucontext_t scheduler{};
  const std::function<void()>* kernel = nullptr;
  int current = 0, count = 0, epoch = 0, launches = 0;
  std::vector<int> warp_epoch;
  std::unordered_map<const void*, Word> shared;
  std::vector<char> dynamic_shared;
  std::string error;               // of the running block
  std::string last_error;          // what cudaGetErrorString says
  std::set<const void*> executed;  // kernels
  std::vector<void*> streams;      // of the launches
  int device = 0;

  Thread& me() { return *threads[current]; }
  static std::string site(const Thread& t) { return std::string(t.call) + " (" + show(t.file, t.line) + ")"; }
  std::string where(int thread) const {
    const Thread& t = *threads[thread];
    return t.state == State::Done ? "has left the kernel" : "waits at " + site(t);
  }
  unsigned lanes_of(int warp) const { return count - warp >= 32 ? ~0u : (1u << (count - warp)) - 1; }

  // ---- fibres

  const void* scheduler_stack = nullptr;
  size_t scheduler_size = 0;
  void* scheduler_fake = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  static void leave(void** fake, const void* stack, size_t size) { __sanitizer_start_switch_fiber(fake, stack, size); }
  static void arrive(void* fake, const void** stack, size_t* size) {
    __sanitizer_finish_switch_fiber(fake, stack, size);
  }
#else
  static void leave(void**, const void*, size_t) {}
  static void arrive(void*, const void**, size_t*) {}
#endif

  void resume(int thread) {
    current = thread;
    Thread& t = *threads[thread];
    threadIdx = t.index;
    leave(&scheduler_fake, t.stack.get(), kStack);
    swapcontext(&scheduler, &t.context);
    arrive(scheduler_fake, nullptr, nullptr);
  }

  void yield() {
    Thread& t = me();
    void* fake = nullptr;
    leave(&fake, scheduler_stack, scheduler_size);
    swapcontext(&t.context, &scheduler);
    arrive(fake, &scheduler_stack, &scheduler_size);
  }

  static void fibre();

  void prepare(int n) {
    while (static_cast<int>(threads.size()) < n) threads.push_back(std::make_unique<Thread>());
    for (int i = 0; i < n; ++i) {
      Thread& t = *threads[i];
      if (t.started) continue;
      t.stack.reset(new char[kStack]);
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = t.stack.get();
      t.context.uc_stack.ss_size = kStack;
      t.context.uc_link = nullptr;
      makecontext(&t.context, &Machine::fibre, 0);
      t.started = true;
    }
  }

  // ---- meeting points

  void wait(State state, const char* call, const char* file, int line, unsigned mask, uint64_t value) {
    Thread& t = me();
    t.state = state, t.call = call, t.file = file, t.line = line, t.mask = mask, t.value = value;
    yield();
  }

  void collective(const char* call, unsigned mask, uint64_t value, const char* file, int line) {
    const int lane = current % 32, warp = current - lane;
    const std::string site = std::string(call) + " (" + show(file, line) + ")";
    if (!(mask >> lane & 1)) throw Fault(site + ": the calling lane is not in the mask");
    if (mask & ~lanes_of(warp)) throw Fault(site + ": the mask names lanes that the block does not have");
    wait(State::Warp, call, file, line, mask, value);
  }

  // Whether both wait at one place for each other.
  static bool meet(const Thread& a, const Thread& b) {
    return a.state == b.state && a.mask == b.mask && a.line == b.line && !std::strcmp(a.call, b.call);
  }

  // Lets go whoever has met; false if nobody has.
  bool release() {
    bool any = false, all_at_barrier = true;
    for (int i = 0; i < count; ++i) {
      const Thread& t = *threads[i];
      all_at_barrier &= t.state == State::Barrier && meet(t, *threads[0]);
      if (t.state != State::Warp) continue;
      const int warp = i - i % 32;
      bool complete = true;
      for (int lane = 0; lane < 32; ++lane)
        if (t.mask >> lane & 1) complete &= meet(t, *threads[warp + lane]);
      if (!complete) continue;
      if (!std::strcmp(t.call, "__syncwarp") && t.mask == lanes_of(warp)) ++warp_epoch[warp / 32];
      for (int lane = 0; lane < 32; ++lane)
        if (t.mask >> lane & 1) {
          for (int from = 0; from < 32; ++from)
            if (t.mask >> from & 1) threads[warp + lane]->gathered[from] = threads[warp + from]->value;
          threads[warp + lane]->state = State::Ready;
        }
      any = true;
    }
    if (!all_at_barrier) return any;
    ++epoch;
    for (int i = 0; i < count; ++i) threads[i]->state = State::Ready;
    return true;
  }

  std::string divergence() const {
    for (int i = 0; i < count; ++i)
      for (int lane = 0; lane < 32; ++lane) {
        const Thread& t = *threads[i];
        const int other = i - i % 32 + lane;
        if (t.state == State::Warp && t.mask >> lane & 1 && !meet(t, *threads[other]))
          return site(t) + ": divergent: thread " + std::to_string(i) + " is there with mask " +
                 std::to_string(t.mask) + ", thread " + std::to_string(other) + " " + where(other);
      }
    for (int i = 0; i < count; ++i)
      for (int other = 0; other < count; ++other)
        if (threads[i]->state == State::Barrier && !meet(*threads[i], *threads[other]))
          return site(*threads[i]) + ": not reached by all: thread " + std::to_string(i) + " is there, thread " +
                 std::to_string(other) + " " + where(other);
    return "deadlock";
  }

  // ---- blocks

  void run_block() {
    epoch = 0;
    warp_epoch.assign((count + 31) / 32, 0);
    shared.clear();
    error.clear();
    prepare(count);
    for (int i = 0; i < count; ++i) {
      Thread& t = *threads[i];
      t.state = State::Ready;
      t.index = {static_cast<unsigned>(i) % blockDim.x, static_cast<unsigned>(i) / blockDim.x % blockDim.y,
                 static_cast<unsigned>(i) / (blockDim.x * blockDim.y)};
    }
    for (;;) {
      int left = 0;
      for (int i = 0; i < count && error.empty(); ++i) {
        if (threads[i]->state == State::Ready) resume(i);
        left += threads[i]->state != State::Done;
      }
      if (error.empty() && left && !release()) error = ": " + divergence();
      if (!error.empty() || !left) break;
    }
    if (error.empty()) return;
    for (auto& thread : threads) thread->started = false;  // their stacks are given up as they are
    throw Fault("block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ")" + error);
  }

  void run_grid(dim3 grid, dim3 block, void* stream, const void* address, const std::function<void()>& body) {
    ++launches;
    executed.insert(address);
    streams.push_back(stream);
    kernel = &body;
    gridDim = grid, blockDim = block;
    count = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
    for (unsigned z = 0; z < gridDim.z; ++z)
      for (unsigned y = 0; y < gridDim.y; ++y)
        for (unsigned x = 0; x < gridDim.x; ++x) {
          blockIdx = {x, y, z};
          run_block();
        }
  }
  int thread_of_grid() const {
    return static_cast<int>((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * count + current;
  }
};
inline Machine machine;

// A fibre serves block after block; what a kernel throws becomes the error of its block.
inline void Machine::fibre() {
  arrive(nullptr, &machine.scheduler_stack, &machine.scheduler_size);
  for (;;) {
    try {
      (*machine.kernel)();
    } catch (const std::exception& fault) {
      machine.error = ", thread " + std::to_string(machine.current) + ": " + fault.what();
    }
    machine.me().state = State::Done;
    machine.yield();
  }
}

// ------------------------------------------------------------------------------------------------- shared memory

inline bool ordered(const Word::Access& before, int thread) {
  const Machine& m = machine;
  return before.thread == thread || before.epoch != m.epoch ||
         (before.thread / 32 == thread / 32 && before.warp_epoch != m.warp_epoch[thread / 32]);
}

inline void check_shared(int i, int size, int line, const char* what) {
  if (i < 0 || i >= size)
    throw Fault(std::string(what) + " of shared memory out of bounds (line " + std::to_string(line) + "): element " +
                std::to_string(i) + " of " + std::to_string(size));
}

inline void race(const char* what, int line, const char* before, const Word::Access& other) {
  throw Fault("race on shared memory: " + std::string(what) + " at line " + std::to_string(line) + " by thread " +
              std::to_string(machine.current) + ", " + before + " at line " + std::to_string(other.line) +
              " by thread " + std::to_string(other.thread) + ", no barrier between");
}

template <class T>
void shared_read(const T* data, int i, int size, int line) {
  check_shared(i, size, line, "read");
  Word& word = machine.shared[data + i];
  const int me = machine.current;
  if (word.write.thread < 0)
    throw Fault("read of shared memory never written (line " + std::to_string(line) + "): element " +
                std::to_string(i));
  if (!ordered(word.write, me)) race("read", line, "written", word.write);
  if (!word.reads.empty() && word.reads.front().epoch != machine.epoch) word.reads.clear();
  word.reads.push_back({me, machine.epoch, machine.warp_epoch[me / 32], line});
}

template <class T>
void shared_write(const T* data, int i, int size, int line) {
  check_shared(i, size, line, "write");
  Word& word = machine.shared[data + i];
  const int me = machine.current;
  if (word.write.thread >= 0 && !ordered(word.write, me)) race("write", line, "written", word.write);
  for (const Word::Access& read : word.reads)
    if (!ordered(read, me)) race("write", line, "read", read);
  word.reads.clear();
  word.write = {me, machine.epoch, machine.warp_epoch[me / 32], line};
}

// ------------------------------------------------------------------------------------------------- global memory

inline Fault global_fault(const char* what, const Allocation& of, int64_t half_word) {
  return Fault(std::string(what) + " at byte " + std::to_string(2 * half_word) + " of " + of.name);
}

inline void global_read(const void* address, int64_t bytes) {
  Allocation& found = memory.find(address, bytes, "read");
  const int me = machine.thread_of_grid(), launch = machine.launches;
  const int64_t offset = static_cast<const char*>(address) - found.begin;
  for (int64_t i = offset / 2; found.writable && i < (offset + bytes + 1) / 2; ++i) {
    const Allocation::Mark& write = found.written[i];
    if (!write.launch) throw global_fault("read of memory never written", found, i);
    if (write.launch == launch && write.thread != me)
      throw global_fault("race on global memory: read and write", found, i);
    Allocation::Mark& read = found.read[i];
    read = {launch, read.launch == launch && read.thread != me ? -1 : me};
  }
}

inline void global_write(void* address, int64_t bytes) {
  Allocation& found = memory.find(address, bytes, "write");
  const int me = machine.thread_of_grid(), launch = machine.launches;
  const int64_t offset = static_cast<char*>(address) - found.begin;
  if (!found.writable) throw Fault("write to " + found.name + ", which is an input");
  for (int64_t i = offset / 2; i < (offset + bytes + 1) / 2; ++i) {
    Allocation::Mark& write = found.written[i];
    if (write.launch == launch && write.thread != me) throw global_fault("race on global memory: two writes", found, i);
    if (found.read[i].launch == launch && found.read[i].thread != me)
      throw global_fault("race on global memory: write and read", found, i);
    write = {launch, me};
  }
}

template <class T>
T shuffle(const char* call, unsigned mask, T value, int from, int width, const char* file, int line) {
  const int lane = machine.current % 32, start = lane & ~(width - 1);
  const int source = from < start || from >= start + width ? lane : from;
  static_assert(sizeof(T) <= 8, "shuffles move up to 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  machine.collective(call, mask, bits, file, line);
  if (!(mask >> source & 1))
    throw Fault(Machine::site(machine.me()) + ": reads lane " + std::to_string(source) + ", which is not in the mask");
  T out;
  std::memcpy(&out, &machine.me().gathered[source], sizeof(T));
  return out;
}

// The array that `extern __shared__ T name[]` names on a device, of config.dynamicSmemBytes (that line itself does not
// compile here: there is no `extern static`). Shared<T> takes it as T (&)[N], so that its bounds are known.
template <class T, int N>
T (&dynamic_shared())
[N] {
  if (sizeof(T) * N > machine.dynamic_shared.size())
    throw Fault("dynamic shared memory: " + std::to_string(sizeof(T) * N) + " bytes are used, the launch gave " +
                std::to_string(machine.dynamic_shared.size()));
  return *reinterpret_cast<T(*)[N]>(machine.dynamic_shared.data());
}

}  // namespace cuda_host
