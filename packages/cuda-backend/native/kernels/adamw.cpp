#include "kernels/adamw.h"

#include <array>
#include <cmath>

#include "kernels/adamw_table.h"
#include "kernels/rows.h"
#include "parallel.h"

namespace lazuli {
namespace {

constexpr int64_t kGrain = 16384;       // elements
constexpr uint32_t kOld[] = {0, 2, 3};  // the operand that each result is the next of

float scalarAt(const std::byte* value) { return *reinterpret_cast<const float*>(value); }

MadeKernel make(const KernelRequest& request) {
  const Node& node = request.node;
  const DType dtype = request.operands[0].dtype, grad = request.operands[1].dtype;
  const int64_t n = request.operands[0].elements();
  const bool scaled = request.operands.size() > 6, skips = request.operands.size() > 7;
  const bool decoupled = node.flag(attr::adamw_update::decoupled);
  const double beta1 = node.number(attr::adamw_update::beta1), beta2 = node.number(attr::adamw_update::beta2);
  const double eps = node.number(attr::adamw_update::eps);
  const double weightDecay = node.number(attr::adamw_update::weight_decay);
  const auto update = adamwTable().update[static_cast<size_t>(dtype)][static_cast<size_t>(grad)];
  const std::array<size_t, 3> bytes = {request.results[0].bytes(), request.results[1].bytes(),
                                       request.results[2].bytes()};
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    if (skips && *args.reads[7] != std::byte{0}) {
      for (size_t k = 0; k < 3; k++) copyBytes(args.writes[k], args.reads[kOld[k]], bytes[k]);
      return;
    }
    const double lr = scalarAt(args.reads[4]), step = scalarAt(args.reads[5]);
    AdamwTable::Work whole{};
    whole.gradScale = scaled ? scalarAt(args.reads[6]) : 1;
    whole.shrink = decoupled ? 1 - lr * weightDecay : 1;
    whole.decay = decoupled ? 0 : weightDecay;
    whole.beta1 = beta1;
    whole.beta2 = beta2;
    whole.rate = lr / (1 - std::pow(beta1, step));
    whole.rootScale = 1 / std::sqrt(1 - std::pow(beta2, step));
    whole.eps = eps;
    parallelFor(n, kGrain, [&](int64_t begin, int64_t end) {
      AdamwTable::Work work = whole;
      work.p = at(args.reads[0], dtype, begin);
      work.g = at(args.reads[1], grad, begin);
      work.m = reinterpret_cast<const float*>(args.reads[2]) + begin;
      work.v = reinterpret_cast<const float*>(args.reads[3]) + begin;
      work.pOut = at(args.writes[0], dtype, begin);
      work.mOut = reinterpret_cast<float*>(args.writes[1]) + begin;
      work.vOut = reinterpret_cast<float*>(args.writes[2]) + begin;
      work.n = end - begin;
      update(work);
    });
  });
  made.label = label("adamw_update", request.operands[0]);
  for (uint32_t k = 0; k < 3; k++) made.inPlace.emplace_back(k, kOld[k]);
  made.flops = 14.0 * static_cast<double>(n);
  return made;
}

}  // namespace

const KernelEntry adamwUpdateEntry = {make};

}  // namespace lazuli
