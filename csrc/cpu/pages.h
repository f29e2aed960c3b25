// Large fresh outputs on huge pages: a first write to a small page costs more than filling it.
#pragma once

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../view.h"

namespace fastgmtl::cpu {

// Asks for huge pages under an output of 4 MiB or more. Advice: nothing changes where it cannot be taken.
inline void advise_huge_pages([[maybe_unused]] const View& output) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 2 << 20;
  constexpr int kBytes[] = {4, 8, 2, 2, 4, 8};
  if (!output || output.device.cuda) return;
  const auto begin = (reinterpret_cast<uintptr_t>(output.data) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<uintptr_t>(output.data) +
                    static_cast<uintptr_t>(output.numel() * kBytes[static_cast<int>(output.dtype)])) /
                   kPage * kPage;
  if (end >= begin + 2 * kPage) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace fastgmtl::cpu
