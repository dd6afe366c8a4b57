#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cuda/attention_launch.h"

namespace lazuli::cuda {

/// The kernels for sm_90a of one call (device/attention_forward_sm90.cu, attention_backward_sm90.cu).
class AttentionSm90 {
 public:
  /// `depth`: the call's head size where tensor cores take it, else 0; `gradient`: of attention_grad.
  AttentionSm90(const AttentionCall& call, int depth, AttentionPath path, bool gradient);

  // False, and nothing is launched: the next path takes the call. By the path and the GPU; because the driver
  // has no tensor map for the operands as they lie (TMA wants strides of 0 to 2^40 bytes); because a
  // self-test failed, or is due while the stream is being captured.
  bool forward(const Stream& stream, const AttentionArgs& args) const;
  /// But for delta, which is there.
  bool backward(const Stream& stream, const AttentionArgs& args) const;

 private:
  bool isTaken(const Stream& stream) const;
  bool encode(AttentionBulkArgs& args) const;

  const AttentionCall& call_;
  int depth_;
  AttentionPath path_;
  bool gradient_;
  std::vector<Function> kernels_;  // one, or dq, dk with dv
};

/// A kind of calls whose kernels are tested once a process and GPU.
struct AttentionVariant {
  DType dtype;
  int64_t depth;
  bool causal, gradient;

  auto operator<=>(const AttentionVariant&) const = default;
};
/// Runs the variant once by sm_90a's kernels and once by sm_80's on a small problem with tails and grouped
/// heads: what differs, by more than roundings of the half type do, "" for nothing. Some milliseconds, and it
/// waits for the GPU.
std::string compareAttentionPaths(const Target& target, const AttentionVariant& variant);

}  // namespace lazuli::cuda
