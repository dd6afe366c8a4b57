#include "kernels/adamw.h"

#include <algorithm>
#include <cmath>

#include "kernels/adamw_table.h"
#include "kernels/rows.h"
#include "parallel.h"

namespace lazuli {
namespace {

constexpr int64_t kGrain = 16384;  // elements
// Of small parameters, which one kernel updates together: their gradients are all kept until it runs.
constexpr int64_t kMostTogether = 1 << 18;
constexpr uint32_t kOld[] = {0, 2, 3};  // the operand that each result is the next of

float scalarAt(const std::byte* value) { return *reinterpret_cast<const float*>(value); }

/// Parameters updated alike: all of one dtype, their gradients of one, with the same lr, step, scale and
/// skip.
class Adamw final : public Kernel {
 public:
  explicit Adamw(std::span<const KernelRequest> requests)
      : dtype_(requests[0].operands[0].dtype),
        grad_(requests[0].operands[1].dtype),
        operands_(requests[0].operands.size()),
        update_(adamwTable().update[static_cast<size_t>(dtype_)][static_cast<size_t>(grad_)]) {
    const Node& node = requests[0].node;
    decoupled_ = node.flag(attr::adamw_update::decoupled);
    beta1_ = node.number(attr::adamw_update::beta1);
    beta2_ = node.number(attr::adamw_update::beta2);
    eps_ = node.number(attr::adamw_update::eps);
    weightDecay_ = node.number(attr::adamw_update::weight_decay);
    for (const KernelRequest& request : requests) {
      const int64_t n = request.operands[0].elements();
      sizes_.push_back(n);
      for (int64_t begin = 0; requests.size() > 1 && begin < n; begin += kGrain)
        pieces_.push_back({sizes_.size() - 1, begin, std::min(n, begin + kGrain)});
    }
  }

  void run(const KernelArgs& args) const override {
    if (operands_ > 7 && *args.reads[7] != std::byte{0}) return keep(args);
    const double lr = scalarAt(args.reads[4]), step = scalarAt(args.reads[5]);
    AdamwTable::Work work{};
    work.gradScale = operands_ > 6 ? scalarAt(args.reads[6]) : 1;
    work.shrink = decoupled_ ? 1 - lr * weightDecay_ : 1;
    work.decay = decoupled_ ? 0 : weightDecay_;
    work.beta1 = beta1_;
    work.beta2 = beta2_;
    work.rate = lr / (1 - std::pow(beta1_, step));
    work.rootScale = 1 / std::sqrt(1 - std::pow(beta2_, step));
    work.eps = eps_;
    if (sizes_.size() == 1)
      return parallelFor(sizes_[0], kGrain, [&](int64_t begin, int64_t end) {
        update(args, work, {0, begin, end});
      });
    parallelFor(static_cast<int64_t>(pieces_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) update(args, work, pieces_[static_cast<size_t>(i)]);
    });
  }

 private:
  /// Elements of one of the parameters.
  struct Piece {
    size_t param;
    int64_t begin, end;
  };

  void update(const KernelArgs& args, AdamwTable::Work work, const Piece& piece) const {
    const std::byte* const* reads = args.reads + piece.param * operands_;
    std::byte* const* writes = args.writes + piece.param * 3;
    work.p = at(reads[0], dtype_, piece.begin);
    work.g = at(reads[1], grad_, piece.begin);
    work.m = reinterpret_cast<const float*>(reads[2]) + piece.begin;
    work.v = reinterpret_cast<const float*>(reads[3]) + piece.begin;
    work.pOut = at(writes[0], dtype_, piece.begin);
    work.mOut = reinterpret_cast<float*>(writes[1]) + piece.begin;
    work.vOut = reinterpret_cast<float*>(writes[2]) + piece.begin;
    work.n = piece.end - piece.begin;
    update_(work);
  }

  void keep(const KernelArgs& args) const {
    for (size_t i = 0; i < sizes_.size(); i++)
      for (size_t k = 0; k < 3; k++)
        copyBytes(args.writes[i * 3 + k], args.reads[i * operands_ + kOld[k]],
                  static_cast<size_t>(sizes_[i]) * sizeBytes(k == 0 ? dtype_ : DType::f32));
  }

  DType dtype_, grad_;
  size_t operands_;
  void (*update_)(const AdamwTable::Work& work);
  bool decoupled_;
  double beta1_, beta2_, eps_, weightDecay_;
  std::vector<int64_t> sizes_;
  std::vector<Piece> pieces_;
};

MadeKernel makeAll(std::span<const KernelRequest> requests) {
  return adamwOf(requests, std::make_unique<Adamw>(requests));
}
MadeKernel make(const KernelRequest& request) { return makeAll({&request, 1}); }
bool joins(std::span<const KernelRequest> group, const KernelRequest& next) {
  return adamwJoins(group, next, kMostTogether);
}

}  // namespace

MadeKernel adamwOf(std::span<const KernelRequest> requests, std::unique_ptr<Kernel> kernel) {
  MadeKernel made;
  made.kernel = std::move(kernel);
  const uint32_t count = static_cast<uint32_t>(requests.size());
  const uint32_t operands = static_cast<uint32_t>(requests[0].operands.size());
  int64_t n = 0;
  for (uint32_t i = 0; i < count; i++) {
    n += requests[i].operands[0].elements();
    for (uint32_t k = 0; k < 3; k++) made.inPlace.emplace_back(i * 3 + k, i * operands + kOld[k]);
  }
  made.label = count == 1 ? label("adamw_update", requests[0].operands[0])
                          : std::string("adamw_update ") + name(requests[0].operands[0].dtype) + " " +
                                std::to_string(count) + " parameters [" + std::to_string(n) + "]";
  made.flops = 14.0 * static_cast<double>(n);
  return made;
}

bool adamwJoins(std::span<const KernelRequest> group, const KernelRequest& next, int64_t most) {
  int64_t n = next.operands[0].elements();
  for (const KernelRequest& request : group) n += request.operands[0].elements();
  if (n > most) return false;
  const KernelRequest& first = group[0];
  const auto dtypes = [](const KernelRequest& request) {
    return std::pair(request.operands[0].dtype, request.operands[1].dtype);
  };
  const std::vector<ValueId>&a = first.node.operands, &b = next.node.operands;
  return first.node.attrs == next.node.attrs && dtypes(first) == dtypes(next) && a.size() == b.size() &&
         std::equal(a.begin() + 4, a.end(), b.begin() + 4);
}

const KernelEntry adamwUpdateEntry = {.make = make, .joins = joins, .makeAll = makeAll};

}  // namespace lazuli
