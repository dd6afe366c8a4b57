#include "kernel.h"
#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/collective.h"
#include "kernels/cross_entropy.h"
#include "kernels/cumsum.h"
#include "kernels/fused.h"
#include "kernels/index.h"
#include "kernels/linear_cross_entropy.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/norm_matmul.h"
#include "kernels/rope.h"
#include "kernels/softmax.h"
#include "kernels/sort.h"

namespace lazuli {

const KernelEntry* findKernel(Op op) {
  switch (op) {
    case Op::adamw_update:
      return &adamwUpdateEntry;
    case Op::all_gather:
      return &allGatherEntry;
    case Op::all_reduce:
      return &allReduceEntry;
    case Op::all_to_all:
      return &allToAllEntry;
    case Op::attention:
      return &attentionEntry;
    case Op::attention_grad:
      return &attentionGradEntry;
    case Op::attention_bias_grad:
      return &attentionBiasGradEntry;
    case Op::axis_index:
      return &axisIndexEntry;
    case Op::barrier:
      return &barrierEntry;
    case Op::collective_done:
      return &collectiveDoneEntry;
    case Op::collective_permute:
      return &collectivePermuteEntry;
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
    case Op::reduce_scatter:
      return &reduceScatterEntry;
    case Op::rms_norm:
      return &rmsNormEntry;
    case Op::rms_norm_grad:
      return &rmsNormGradEntry;
    case Op::rope:
      return &ropeEntry;
    case Op::scatter_add:
      return &scatterAddEntry;
    case Op::shard_slice:
      return &shardSliceEntry;
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

class CpuKernels final : public KernelMaker {
 public:
  const char* device() const override { return "the CPU"; }
  MadeKernel fused(std::vector<FusedSpec> parts) const override { return makeFused(std::move(parts)); }
  MadeKernel matmul(const MatmulSpec& spec) const override { return makeMatmul(spec); }
  bool matmulAccepts(const MatmulSpec& spec, size_t operand) const override {
    return lazuli::matmulAccepts(spec, operand);
  }
  const KernelEntry* library(Op op) const override { return findKernel(op); }
  bool attentionTurns() const override { return true; }
  bool takesNorm(const NormMatmulSizes& sizes) const override { return normMatmulPays(sizes); }
  MadeKernel normMatmul(const NormMatmulSpec& spec) const override { return makeNormMatmul(spec); }
};

}  // namespace

const KernelMaker& cpuKernels() {
  static const CpuKernels kernels;
  return kernels;
}

}  // namespace lazuli
