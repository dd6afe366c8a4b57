#include "cuda/device/adamw.h"

#include <cmath>
#include <span>

#include "cuda/library_kernels.h"
#include "cuda/row_launch.h"
#include "kernels/adamw.h"

namespace lazuli::cuda {
namespace {

// Elements of parameters that one kernel updates together: their gradients are all kept until it runs.
constexpr int64_t kMostTogether = 1 << 24;

/// Parameters updated alike: all of one dtype, their gradients of one, with the same lr, step, scale and
/// skip.
class Adamw final : public Kernel {
 public:
  explicit Adamw(std::span<const KernelRequest> requests)
      : operands_(requests[0].operands.size()),
        kernel_("adamw", std::string("lazuli_adamw_") + suffix(requests[0].operands[0].dtype) + "_" +
                             suffix(requests[0].operands[1].dtype)) {
    const Node& node = requests[0].node;
    common_.decoupled = node.flag(attr::adamw_update::decoupled);
    common_.beta1 = node.number(attr::adamw_update::beta1);
    common_.beta2 = node.number(attr::adamw_update::beta2);
    common_.logBeta1 = std::log(common_.beta1);
    common_.logBeta2 = std::log(common_.beta2);
    common_.eps = node.number(attr::adamw_update::eps);
    common_.weightDecay = node.number(attr::adamw_update::weight_decay);
    for (const KernelRequest& request : requests) sizes_.push_back(request.operands[0].elements());
  }

  void run(const KernelArgs& args) const override {
    AdamwArgs work = common_;
    const auto scalar = [&](size_t i) {
      return operands_ > i ? reinterpret_cast<const float*>(args.reads[i]) : nullptr;
    };
    work.lr = scalar(4);
    work.step = scalar(5);
    work.gradScale = scalar(6);
    work.skip = operands_ > 7 ? reinterpret_cast<const unsigned char*>(args.reads[7]) : nullptr;
    Grid grid{0};
    const auto launch = [&] {
      if (grid.x > 0) kernel_.launch(*args.stream, grid, work);
      grid.x = 0;
      work.count = 0;
    };
    for (size_t i = 0; i < sizes_.size(); ++i) {
      if (sizes_[i] == 0) continue;
      const std::byte* const* reads = args.reads + i * operands_;
      std::byte* const* writes = args.writes + i * 3;
      work.firstBlocks[work.count] = grid.x;
      work.tensors[work.count++] = {reads[0],
                                    reads[1],
                                    reinterpret_cast<const float*>(reads[2]),
                                    reinterpret_cast<const float*>(reads[3]),
                                    writes[0],
                                    reinterpret_cast<float*>(writes[1]),
                                    reinterpret_cast<float*>(writes[2]),
                                    sizes_[i]};
      grid.x += static_cast<uint32_t>((sizes_[i] + kAdamwChunk - 1) / kAdamwChunk);
      if (work.count == kAdamwTensors) launch();
    }
    launch();
  }

 private:
  size_t operands_;
  Function kernel_;
  AdamwArgs common_{};
  std::vector<int64_t> sizes_;
};

MadeKernel makeAll(std::span<const KernelRequest> requests) {
  return adamwOf(requests, std::make_unique<Adamw>(requests));
}
MadeKernel make(const KernelRequest& request) { return makeAll({&request, 1}); }
bool joins(std::span<const KernelRequest> group, const KernelRequest& next) {
  return adamwJoins(group, next, kMostTogether);
}

}  // namespace

const KernelEntry adamwUpdateEntry = {.make = make, .joins = joins, .makeAll = makeAll};

}  // namespace lazuli::cuda
