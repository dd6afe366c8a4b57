#include "cuda/kernels.h"
#include "cuda/library_kernels.h"
#include "kernels/collective.h"
#include "kernels/fused.h"
#include "kernels/matmul.h"

namespace lazuli::cuda {

const KernelEntry* findKernel(Op op) {
  switch (op) {
    // Their kernels ask the run's communicator and mover, which are CUDA's.
    case Op::all_gather:
    case Op::all_reduce:
    case Op::all_to_all:
    case Op::axis_index:
    case Op::barrier:
    case Op::collective_done:
    case Op::collective_permute:
    case Op::reduce_scatter:
    case Op::shard_slice:
      return lazuli::findKernel(op);
    case Op::adamw_update:
      return &adamwUpdateEntry;
    case Op::attention:
      return &attentionEntry;
    case Op::attention_bias_grad:
      return &attentionBiasGradEntry;
    case Op::attention_grad:
      return &attentionGradEntry;
    case Op::cross_entropy:
      return &crossEntropyEntry;
    case Op::cross_entropy_grad:
      return &crossEntropyGradEntry;
    case Op::cumsum:
      return &cumsumEntry;
    case Op::gather:
      return &gatherEntry;
    case Op::index_add:
      return &indexAddEntry;
    case Op::index_select:
      return &indexSelectEntry;
    case Op::layer_norm:
      return &layerNormEntry;
    case Op::layer_norm_grad:
      return &layerNormGradEntry;
    case Op::linear_cross_entropy:
      return &linearCrossEntropyEntry;
    case Op::linear_cross_entropy_grad:
      return &linearCrossEntropyGradEntry;
    case Op::log_softmax:
      return &logSoftmaxEntry;
    case Op::log_softmax_grad:
      return &logSoftmaxGradEntry;
    case Op::rms_norm:
      return &rmsNormEntry;
    case Op::rms_norm_grad:
      return &rmsNormGradEntry;
    case Op::rope:
      return &ropeEntry;
    case Op::scatter_add:
      return &scatterAddEntry;
    case Op::softmax:
      return &softmaxEntry;
    case Op::softmax_grad:
      return &softmaxGradEntry;
    case Op::sort:
      return &sortEntry;
    case Op::topk:
      return &topkEntry;
    default:
      return nullptr;
  }
}

namespace {

class CudaKernels final : public KernelMaker {
 public:
  explicit CudaKernels(bool deterministic) : deterministic_(deterministic) {}

  const char* device() const override { return "CUDA"; }
  MadeKernel fused(std::vector<FusedSpec> parts) const override { return cuda::makeFused(std::move(parts)); }
  bool runsPartsTogether() const override { return true; }
  MadeKernel matmul(const MatmulSpec& spec) const override { return cuda::makeMatmul(spec); }
  bool matmulAccepts(const MatmulSpec& spec, size_t operand) const override {
    return cuda::matmulAccepts(spec, operand);
  }
  const KernelEntry* library(Op op) const override {
    if (op == Op::attention_grad && !deterministic_) return &attentionGradInAnyOrderEntry;
    return cuda::findKernel(op);
  }

 private:
  bool deterministic_;
};

}  // namespace

const KernelMaker& kernels(bool deterministic) {
  static const CudaKernels ordered(true), any(false);
  return deterministic ? ordered : any;
}

}  // namespace lazuli::cuda
