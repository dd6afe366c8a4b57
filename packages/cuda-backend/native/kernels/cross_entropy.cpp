#include "kernels/cross_entropy.h"

#include <cstring>

#include "kernels/cross_entropy_table.h"
#include "kernels/indices.h"
#include "kernels/rows.h"
#include "parallel.h"

namespace lazuli {
namespace {

/// Only logits (operand 0) may have spaced rows.
bool accepts(const Node&, size_t index, const Layout& layout) {
  return index == 0 ? asRows(layout).has_value() : layout.isDense();
}

struct Targets {
  DType dtype;
  int64_t count, classes, ignored;
  int64_t dim;  // of the classes

  int64_t at(const std::byte* targets, int64_t row) const { return indexAt(targets, dtype, row); }
  void check(const char* op, const std::byte* targets) const {
    for (int64_t row = 0; row < count; ++row) {
      const int64_t target = at(targets, row);
      if (target != ignored && (target < 0 || target >= classes))
        failIndex(op, "target", target, row, dim, classes);
    }
  }
};

double valueAt(const std::byte* logits, DType dtype, int64_t element) {
  return crossEntropyTable().reduce[static_cast<size_t>(dtype)](at(logits, dtype, element), 1, true).total;
}

MadeKernel makeForward(const KernelRequest& request) {
  const DType dtype = request.operands[0].dtype;
  const Rows x = rowsOf(request, 0);
  const Targets targets{request.operands[1].dtype, x.count, x.width,
                        request.node.integer(attr::cross_entropy::ignore_index),
                        static_cast<int64_t>(request.operands[0].shape.size()) - 1};
  const double smoothing = request.node.number(attr::cross_entropy::label_smoothing);
  const auto reduce = crossEntropyTable().reduce[static_cast<size_t>(dtype)];
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    targets.check("cross_entropy", args.reads[1]);
    float* loss = reinterpret_cast<float*>(args.writes[0]);
    float* lse = reinterpret_cast<float*>(args.writes[1]);
    parallelFor(x.count, x.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t first = x.offset + row * x.stride, target = targets.at(args.reads[1], row);
        const auto sums = reduce(at(args.reads[0], dtype, first), x.width, smoothing != 0);
        lse[row] = static_cast<float>(sums.lse);
        if (target == targets.ignored) {
          loss[row] = 0;
          continue;
        }
        double value = sums.lse - valueAt(args.reads[0], dtype, first + target);
        // Apart from smoothing 0, so that a logit of -inf that is no target costs nothing.
        if (smoothing != 0) {
          const double mean = sums.lse - sums.total / static_cast<double>(x.width);
          value = (1 - smoothing) * value + smoothing * mean;
        }
        loss[row] = static_cast<float>(value);
      }
    });
  });
  made.label = label("cross_entropy", request.operands[0]);
  made.flops = 4.0 * static_cast<double>(x.count * x.width);
  return made;
}

MadeKernel makeBackward(const KernelRequest& request) {
  const DType dtype = request.operands[0].dtype;
  const Rows x = rowsOf(request, 0);
  const Targets targets{request.operands[1].dtype, x.count, x.width,
                        request.node.integer(attr::cross_entropy_grad::ignore_index),
                        static_cast<int64_t>(request.operands[0].shape.size()) - 1};
  const double smoothing = request.node.number(attr::cross_entropy_grad::label_smoothing);
  const auto gradient = crossEntropyTable().gradient[static_cast<size_t>(dtype)];
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    targets.check("cross_entropy_grad", args.reads[1]);
    const float* lse = reinterpret_cast<const float*>(args.reads[2]);
    const float* g = reinterpret_cast<const float*>(args.reads[3]);
    const double uniform = smoothing / static_cast<double>(x.width);
    parallelFor(x.count, x.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t target = targets.at(args.reads[1], row);
        std::byte* dx = at(args.writes[0], dtype, row * x.width);
        if (target == targets.ignored) {
          std::memset(dx, 0, static_cast<size_t>(x.width) * sizeBytes(dtype));
        } else {
          gradient(at(args.reads[0], dtype, x.offset + row * x.stride), dx, x.width, target, lse[row], g[row],
                   uniform, 1 - smoothing);
        }
      }
    });
  });
  made.label = label("cross_entropy_grad", request.operands[0]);
  made.inPlace = {{0, 0}};
  made.flops = 4.0 * static_cast<double>(x.count * x.width);
  return made;
}

}  // namespace

const KernelEntry crossEntropyEntry = {makeForward, accepts};
const KernelEntry crossEntropyGradEntry = {makeBackward, accepts};

}  // namespace lazuli
