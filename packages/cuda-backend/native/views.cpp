#include "views.h"

namespace lazuli {
namespace {

std::optional<Layout> reshaped(const Layout& layout, const Dims& shape) {
  Layout result{layout.dtype, shape, denseStrides(shape), layout.offset};
  if (layout.elements() == 0) return result;
  Dims extents, strides;  // without dims of size 1
  for (size_t i = 0; i < layout.shape.size(); i++) {
    if (layout.shape[i] == 1) continue;
    extents.push_back(layout.shape[i]);
    strides.push_back(layout.strides[i]);
  }
  // Groups of old and of new dims with the same number of elements: each group must lie regularly.
  size_t from = 0, to = 0;
  while (from < extents.size()) {
    size_t fromEnd = from + 1;
    int64_t old = extents[from], made = 1;
    size_t toEnd = to;
    while (made != old) {
      if (made < old) {
        made *= shape[toEnd++];
      } else {
        old *= extents[fromEnd++];
      }
    }
    for (size_t i = from; i + 1 < fromEnd; i++)
      if (strides[i] != strides[i + 1] * extents[i + 1]) return std::nullopt;
    int64_t stride = strides[fromEnd - 1];
    for (size_t i = toEnd; i-- > to;) {
      result.strides[i] = stride;
      stride *= shape[i];
    }
    from = fromEnd;
    to = toEnd;
  }
  return result;
}

}  // namespace

bool isView(Op op) {
  switch (op) {
    case Op::reshape:
    case Op::transpose:
    case Op::broadcast_to:
    case Op::slice:
    case Op::flip:
    case Op::detach:
      return true;
    default:
      return false;
  }
}

std::optional<ViewStep> viewStep(const Node& node, const Dims& result) {
  using Kind = ViewStep::Kind;
  switch (node.op) {
    case Op::reshape:
      return reshapeTo(result);
    case Op::broadcast_to:
      return broadcastTo(result);
    case Op::transpose:
      return ViewStep{Kind::transpose, result, node.ints(attr::transpose::perm), {}};
    case Op::slice:
      return ViewStep{Kind::slice, result, node.ints(attr::slice::starts), node.ints(attr::slice::steps)};
    case Op::flip:
      return ViewStep{Kind::flip, result, node.ints(attr::flip::dims), {}};
    default:
      break;
  }
  return std::nullopt;
}

ViewStep reshapeTo(const Dims& shape) { return {ViewStep::Kind::reshape, shape, {}, {}}; }
ViewStep broadcastTo(const Dims& shape) { return {ViewStep::Kind::broadcast, shape, {}, {}}; }

std::optional<Layout> viewed(const ViewStep& step, const Layout& layout) {
  Layout result{layout.dtype, step.shape, Dims(step.shape.size(), 0), layout.offset};
  switch (step.kind) {
    case ViewStep::Kind::reshape:
      return reshaped(layout, step.shape);
    case ViewStep::Kind::transpose:
      for (size_t i = 0; i < step.numbers.size(); i++)
        result.strides[i] = layout.strides[static_cast<size_t>(step.numbers[i])];
      return result;
    case ViewStep::Kind::broadcast: {
      const size_t added = step.shape.size() - layout.shape.size();
      for (size_t i = added; i < step.shape.size(); i++)
        if (layout.shape[i - added] != 1) result.strides[i] = layout.strides[i - added];
      return result;
    }
    case ViewStep::Kind::slice:
      for (size_t i = 0; i < step.shape.size(); i++) {
        if (step.shape[i] > 0) result.offset += step.numbers[i] * layout.strides[i];
        result.strides[i] = step.steps[i] * layout.strides[i];
      }
      return result;
    case ViewStep::Kind::flip:
      result.strides = layout.strides;
      for (int64_t dim : step.numbers) {
        const size_t i = static_cast<size_t>(dim);
        if (step.shape[i] > 0) result.offset += (step.shape[i] - 1) * layout.strides[i];
        result.strides[i] = -layout.strides[i];
      }
      return result;
  }
  return std::nullopt;
}

std::optional<Layout> viewed(const ViewSteps& steps, Layout layout) {
  for (const ViewStep& step : steps) {
    std::optional<Layout> next = viewed(step, layout);
    if (!next) return next;
    layout = std::move(*next);
  }
  return layout;
}

}  // namespace lazuli
