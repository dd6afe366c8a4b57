#pragma once

#include <memory>
#include <string>

#include "cpu/memory.h"
#include "cuda/stream.h"

namespace lazuli::cuda {

/// One GPU's context and what it is. The context is the driver's primary one, kept until the process ends.
class Gpu {
 public:
  /// Throws CudaError: no driver, no such GPU, or one that is too old for this build (below 8.0).
  static const Gpu& open(int ordinal);
  static int count();
  /// What it is, without a context on it.
  static Gpu describe(int ordinal) { return Gpu(ordinal); }

  /// On the calling thread, for what it asks of the driver from here on.
  void makeCurrent() const;
  const Target& target() const { return target_; }
  const std::string& name() const { return name_; }
  size_t totalBytes() const { return totalBytes_; }
  size_t freeBytes() const;

 private:
  explicit Gpu(int ordinal);

  int device_ = 0;
  void* context_ = nullptr;
  Target target_;
  std::string name_;
  size_t totalBytes_ = 0;
};

/// Memory of the current context's GPU, and host memory that it copies to and from by itself.
MemorySource gpuMemory();
MemorySource pinnedMemory();

}  // namespace lazuli::cuda
