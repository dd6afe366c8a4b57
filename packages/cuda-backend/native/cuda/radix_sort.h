#pragma once

#include "cuda/launch.h"

namespace lazuli::cuda {

/// A stable sort of `lines` lines of n keys each, least digit first (LSD), in scratch.
class RadixSort {
 public:
  /// Keys of 4 or 8 bytes, of which the lowest `bits` tell them apart.
  RadixSort(int64_t lines, int64_t n, size_t keyBytes, int bits);

  size_t scratchBytes() const { return countsAt_ + countBytes_; }
  /// Where keys, and the number of each, are to be put.
  void* keys(std::byte* scratch) const { return scratch; }
  unsigned* order(std::byte* scratch) const { return orderAt(scratch, 0); }
  /// Sorts the first `lines` lines.
  void run(const Stream& stream, std::byte* scratch, int64_t lines) const;
  /// Where they then lie.
  const void* sortedKeys(std::byte* scratch) const { return keysAt(scratch, passes_ % 2); }
  const unsigned* sortedOrder(std::byte* scratch) const { return orderAt(scratch, passes_ % 2); }

 private:
  std::byte* keysAt(std::byte* scratch, int room) const {
    return scratch + static_cast<size_t>(room) * keysBytes_;
  }
  unsigned* orderAt(std::byte* scratch, int room) const {
    return reinterpret_cast<unsigned*>(scratch + 2 * keysBytes_ + static_cast<size_t>(room) * orderBytes_);
  }

  int64_t n_, blocks_;
  int passes_;
  size_t keysBytes_, orderBytes_, countsAt_, countBytes_;
  Function count_, scan_, move_;
};

}  // namespace lazuli::cuda
