#pragma once

#include <optional>

#include "program.h"

namespace lazuli {

/// A view op: how the elements of a value are read as another shape.
struct ViewStep {
  enum class Kind : uint8_t { reshape, transpose, broadcast, slice, flip };
  Kind kind;
  Dims shape;  // of the result
  /// transpose: the permutation; slice: the starts; flip: the dims.
  Dims numbers;
  Dims steps;  // slice
};
using ViewSteps = std::vector<ViewStep>;

bool isView(Op op);
/// The step of a view node; none where it changes nothing (detach).
std::optional<ViewStep> viewStep(const Node& node, const Dims& result);
ViewStep reshapeTo(const Dims& shape);
ViewStep broadcastTo(const Dims& shape);

/// The layout after a step. None where strides cannot express it (a reshape of a transposed value, say).
std::optional<Layout> viewed(const ViewStep& step, const Layout& layout);
std::optional<Layout> viewed(const ViewSteps& steps, Layout layout);

}  // namespace lazuli
