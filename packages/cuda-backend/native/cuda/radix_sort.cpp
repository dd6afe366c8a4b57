#include "cuda/radix_sort.h"

#include <algorithm>

#include "cuda/device/radix_sort.h"

namespace lazuli::cuda {
namespace {

size_t alignUp(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

RadixSort::RadixSort(int64_t lines, int64_t n, size_t keyBytes, int bits)
    : n_(n),
      blocks_((n + kRadixTile - 1) / kRadixTile),
      passes_(std::max(1, (bits + 7) / 8)),
      keysBytes_(alignUp(static_cast<size_t>(lines * n) * keyBytes)),
      orderBytes_(alignUp(static_cast<size_t>(lines * n) * sizeof(unsigned))),
      countsAt_(2 * keysBytes_ + 2 * orderBytes_),
      countBytes_(static_cast<size_t>(lines * blocks_) * kRadixDigits * sizeof(unsigned)),
      count_("radix_sort", keyBytes == 8 ? "lazuli_radix_count_64" : "lazuli_radix_count_32"),
      scan_("radix_sort", "lazuli_radix_scan"),
      move_("radix_sort", keyBytes == 8 ? "lazuli_radix_move_64" : "lazuli_radix_move_32") {}

void RadixSort::run(const Stream& stream, std::byte* scratch, int64_t lines) const {
  const auto blocks = static_cast<uint32_t>(blocks_), rows = static_cast<uint32_t>(lines);
  for (int pass = 0; pass < passes_; ++pass) {
    const RadixArgs args{keysAt(scratch, pass % 2),
                         orderAt(scratch, pass % 2),
                         keysAt(scratch, 1 - pass % 2),
                         orderAt(scratch, 1 - pass % 2),
                         reinterpret_cast<unsigned*>(scratch + countsAt_),
                         n_,
                         blocks_,
                         8 * pass};
    count_.launch(stream, Grid{blocks, rows, 1, kRadixThreads}, args);
    scan_.launch(stream, Grid{rows, 1, 1, 1024}, args);
    move_.launch(stream, Grid{blocks, rows, 1, kRadixThreads}, args);
  }
}

}  // namespace lazuli::cuda
