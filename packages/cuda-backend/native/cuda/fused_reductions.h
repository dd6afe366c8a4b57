#pragma once

#include "cuda/fused_writer.h"

namespace lazuli::cuda {

/// Writes the code of a FusedGrid's reductions, over a FusedWriter that reads and computes what is reduced:
/// threads keep a state (device/fused_reduce.h) of what they see, blocks join their threads', and where there
/// are pieces a second kernel joins theirs, in an order that the shape decides.
class ReductionWriter {
 public:
  ReductionWriter(const FusedGrid& grid, FusedWriter& writer) : grid_(grid), w_(writer) {}

  void rows();
  void columns();
  /// The second kernel, where there are pieces.
  void join();
  /// For the states of the pieces.
  size_t scratchBytes() const;

 private:
  const std::vector<FusedSpec::Reduce>& reduces() const { return grid_.plan.spec.reduces; }
  Lane laneOf(const FusedSpec::Reduce& reduce) const;
  bool isWide() const { return grid_.twoLevels || grid_.pieces > 1; }
  size_t dims() const { return grid_.plan.extents.size(); }

  void declareStates();
  void startStates(bool totals);
  std::vector<std::string> taken() const;
  void loop(int stride, const std::function<void()>& point, const std::string& index);
  std::string total(size_t k, const std::string& j) const;
  std::string partial(size_t k);
  void writeTotal(size_t k, const std::string& state, const std::string& offset);
  std::string resultLane(size_t k) const;
  std::string outerOffset() const;
  std::string rowIndex(size_t outerDims) const;
  int stateWords() const;

  const FusedGrid& grid_;
  FusedWriter& w_;
};

}  // namespace lazuli::cuda
