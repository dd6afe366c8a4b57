#pragma once

#include "kernel.h"

namespace lazuli {

/// What index_add and scatter_add add to: dense, or one value everywhere (a broadcast `full`), which is not
/// stored.
class IndexBase {
 public:
  explicit IndexBase(const Layout& layout);
  static bool accepts(const Layout& layout);
  /// Writes n elements from element `first` on. Nothing to do where the kernel runs in place.
  void copy(std::byte* to, const std::byte* base, int64_t first, int64_t n) const;

 private:
  DType dtype_;
  bool dense_;
  int64_t offset_;
};

}  // namespace lazuli
