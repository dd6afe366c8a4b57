#pragma once

#include <cstdint>

#include "cuda/device/fault.h"
#include "kernel.h"

struct CUstream_st;

namespace lazuli::cuda {

/// The GPU that code is made for.
struct Target {
  int major = 9, minor = 0;
  int multiprocessors = 132;
  int sharedPerBlock = 227 * 1024;  // bytes, opted into
  int device = 0;                   // the driver's number of it

  int arch() const { return major * 10 + minor; }
};

/// Where a device's kernels go, one after another, and what they share. One run at a time puts kernels on it.
class Stream final : public Mover {
 public:
  Stream(CUstream_st* handle, const Target& target, Fault* fault)
      : handle_(handle), target_(target), fault_(fault) {}

  CUstream_st* handle() const { return handle_; }
  const Target& target() const { return target_; }
  /// The GPU's address of the record that kernels leave a fault in.
  Fault* fault() const { return fault_; }

  void copy(std::byte* to, const std::byte* from, size_t bytes) const override;
  void zero(std::byte* to, size_t bytes) const override;
  void copyRows(std::byte* to, size_t toPitch, const std::byte* from, size_t fromPitch, size_t width,
                size_t rows) const override;
  void zeroRows(std::byte* to, size_t pitch, size_t width, size_t rows) const override;
  void setWord(std::byte* to, uint32_t word) const override;

  /// Of the run: which kernel is being put on the stream, for Fault::step.
  uint32_t step = 0;

 private:
  CUstream_st* handle_;
  Target target_;
  Fault* fault_;
};

}  // namespace lazuli::cuda
