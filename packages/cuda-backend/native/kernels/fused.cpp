#include "kernels/fused.h"

#include <algorithm>

#include "kernels/fused_engine.h"
#include "kernels/fused_reduce.h"
#include "parallel.h"

namespace lazuli {
namespace {

/// Elements worth waking a thread for: cheap ones move at memory speed.
int64_t grainOf(const FusedPlan& plan) { return std::max<int64_t>(4096, 65536 / (2 + plan.opsPerElement)); }

void runMap(const FusedPlan& plan, const KernelArgs& args) {
  int64_t grain = grainOf(plan);
  const int64_t unit = plan.width() < grain ? plan.width() : plan.chunk;
  grain = (grain - 1) / unit * unit + unit;
  parallelFor(plan.total, grain, [&](int64_t begin, int64_t end) {
    TileEngine engine(plan, args);
    for (int64_t i = begin; i < end;) i += engine.tile(i, end);
  });
}

/// Squares of kSide blocks on a side: read and written by whole lines, several of them in each page.
void runBlocks(const FusedPlan& plan, const KernelArgs& args) {
  constexpr int64_t kSide = 64;
  const int last = static_cast<int>(plan.extents.size()) - 1, rowDim = plan.blockDim;
  const int64_t columns = plan.extents[last], rows = plan.extents[rowDim];
  const int64_t acrossColumns = (columns - 1) / kSide + 1, acrossRows = (rows - 1) / kSide + 1;
  const int64_t blockColumns = std::min<int64_t>(columns, 16);
  const int64_t blockRows = std::min<int64_t>(rows, std::min<int64_t>(kSide, kTile / blockColumns));
  const int64_t squares = plan.total / columns / rows * acrossColumns * acrossRows;
  const int64_t grain =
      std::max<int64_t>(1, grainOf(plan) / (std::min(columns, kSide) * std::min(rows, kSide)));
  parallelFor(squares, grain, [&](int64_t begin, int64_t end) {
    TileEngine engine(plan, args);
    int64_t index[kMaxDims] = {};
    for (int64_t square = begin; square < end; square++) {
      int64_t rest = square;
      const int64_t column = rest % acrossColumns * kSide;
      rest /= acrossColumns;
      const int64_t row = rest % acrossRows * kSide;
      rest /= acrossRows;
      for (int dim = last - 1; dim >= 0; dim--) {
        if (dim == rowDim) continue;
        index[dim] = rest % plan.extents[dim];
        rest /= plan.extents[dim];
      }
      const int64_t lastRow = std::min(rows, row + kSide), lastColumn = std::min(columns, column + kSide);
      for (int64_t r = row; r < lastRow; r += blockRows) {
        for (int64_t c = column; c < lastColumn; c += blockColumns) {
          index[rowDim] = r;
          index[last] = c;
          engine.block(index, std::min(blockRows, lastRow - r), std::min(blockColumns, lastColumn - c));
        }
      }
    }
  });
}

class FusedKernel final : public Kernel {
 public:
  explicit FusedKernel(std::vector<FusedPlan> plans) : plans_(std::move(plans)) {
    for (const FusedPlan& plan : plans_) {
      splits_.push_back(plan.spec.reduces.empty() ? ReduceSplit{} : splitReduce(plan));
      scratchBytes = std::max(scratchBytes, splits_.back().scratchBytes);
    }
  }

  void run(const KernelArgs& args) const override {
    for (size_t i = 0; i < plans_.size(); i++) {
      const FusedPlan& plan = plans_[i];
      if (!plan.spec.reduces.empty()) {
        runReduce(plan, splits_[i], args);
      } else if (plan.total == 0) {
        continue;
      } else if (plan.blockDim >= 0) {
        runBlocks(plan, args);
      } else {
        runMap(plan, args);
      }
    }
  }

  size_t scratchBytes = 0;

 private:
  std::vector<FusedPlan> plans_;
  std::vector<ReduceSplit> splits_;
};

}  // namespace

MadeKernel makeFused(std::vector<FusedSpec> parts) {
  MadeKernel made;
  std::vector<FusedPlan> plans;
  for (FusedSpec& part : parts) {
    plans.push_back(planFused(std::move(part)));
    made.flops += static_cast<double>(plans.back().total) * static_cast<double>(plans.back().opsPerElement);
  }
  // A later part may read what an earlier one has overwritten.
  if (plans.size() == 1) made.inPlace = plans[0].inPlace;
  auto kernel = std::make_unique<FusedKernel>(std::move(plans));
  made.scratchBytes = kernel->scratchBytes;
  made.kernel = std::move(kernel);
  return made;
}

}  // namespace lazuli
