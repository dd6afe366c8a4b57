#pragma once

#include <map>

#include "fuse.h"

namespace lazuli {

/// Writes nodes as the values of a FusedSpec; equal values are made once.
class SpecBuilder {
 public:
  /// `members`: fused nodes whose values are made here; `reads` and `writes` collect the unit's operands.
  SpecBuilder(const Fusion& fusion, Dims space, const std::vector<int32_t>& members, FusedUnit& unit);

  /// The value that `base`, viewed through `steps`, has at each element of the space.
  int read(ValueId base, const ViewSteps& steps);
  /// A member's own value (a reduction's: what it reduces), or an inlined one's, through `steps` from its
  /// space.
  int evaluate(const Node& node, const ViewSteps& steps);
  uint32_t write(ValueId value);

  FusedSpec spec;

 private:
  using Value = FusedSpec::Value;
  int add(Value value);
  int constant(DType dtype, double number);
  int scalar(const Node& node);
  int source(const Node& node, const ViewSteps& steps);
  int pad(const Node& node);
  int cast(int value, DType from, DType to);
  int rounded(int value, DType dtype);
  int op(TileOp op, Lane lane, std::initializer_list<int> args);
  int elementwise(const Node& node, const std::vector<int>& args);
  int power(const Node& node, const std::vector<int>& args);
  uint32_t readBuffer(ValueId value);
  Layout layoutOf(ValueId base, const ViewSteps& steps) const;
  ViewSteps canonical() const { return {reshapeTo(spec.space)}; }

  const Fusion& fusion_;
  FusedUnit& unit_;
  std::vector<ValueId> members_;  // their results, ascending
  std::map<ValueId, int> made_;   // members read in order
  std::map<std::vector<int64_t>, int> known_;
};

}  // namespace lazuli
