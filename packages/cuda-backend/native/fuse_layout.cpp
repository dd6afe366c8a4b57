#include <algorithm>
#include <numeric>

#include "fuse.h"

namespace lazuli {
namespace {

/// The dims of a value, the outermost first.
using DimOrder = std::vector<size_t>;

Layout inOrder(const TensorType& type, const DimOrder& order) {
  Layout layout{type.dtype, type.shape, Dims(type.shape.size()), 0};
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0; stride *= type.shape[order[i]]) layout.strides[order[i]] = stride;
  return layout;
}

/// What a value's readers make of its layout.
class Readers {
 public:
  Readers(const Program& program, const std::vector<bool>& live, const KernelMaker& maker)
      : program_(program), maker_(maker), uses_(program.values.size()), isOutput_(program.values.size()) {
    for (size_t i = 0; i < program.nodes.size(); i++) {
      if (!live[i]) continue;
      const Node& node = program.nodes[i];
      for (uint32_t k = 0; k < node.operands.size(); k++)
        uses_[node.operands[k]].push_back({static_cast<int32_t>(i), k});
    }
    for (ValueId output : program.outputs) isOutput_[output] = true;
  }

  /// The copies that they need of a value where it lies in a layout.
  int copies(ValueId value, const Layout& layout) const {
    int count = isOutput_[value] && !layout.isDense();
    for (const Use& use : uses_[value]) {
      const Node& reader = program_.nodes[static_cast<size_t>(use.node)];
      if (isView(reader.op)) {
        const auto step = viewStep(reader, program_.type(reader.results[0]).shape);
        const auto next = step ? viewed(*step, layout) : layout;
        count += next ? copies(reader.results[0], *next) : 1;
      } else if (info(reader.op).lower == LowerKind::kernel && !layout.isDense()) {
        const KernelEntry* entry = maker_.library(reader.op);
        count += !entry || !entry->accepts || !entry->accepts(reader, use.operand, layout);
      }
    }
    return count;
  }

  /// The orders in which they see a value's dims through transposes.
  std::vector<DimOrder> orders(ValueId value) const {
    DimOrder order(program_.type(value).shape.size());
    std::iota(order.begin(), order.end(), 0);
    std::vector<DimOrder> found;
    addOrders(value, order, found);
    return found;
  }

  /// The one node that reads a value, as its operand `operand`; null where there are others, or an output.
  const Node* only(ValueId value, uint32_t operand) const {
    if (uses_[value].size() != 1 || isOutput_[value] || uses_[value][0].operand != operand) return nullptr;
    return &program_.nodes[static_cast<size_t>(uses_[value][0].node)];
  }

 private:
  void addOrders(ValueId value, const DimOrder& order, std::vector<DimOrder>& found) const {
    for (const Use& use : uses_[value]) {
      const Node& reader = program_.nodes[static_cast<size_t>(use.node)];
      if (reader.op == Op::transpose) {
        DimOrder next;
        for (int64_t dim : reader.ints(attr::transpose::perm))
          next.push_back(order[static_cast<size_t>(dim)]);
        if (std::find(found.begin(), found.end(), next) == found.end()) found.push_back(next);
        addOrders(reader.results[0], next, found);
      } else if (reader.op == Op::slice || reader.op == Op::flip || reader.op == Op::detach) {
        addOrders(reader.results[0], order, found);
      }
    }
  }

  const Program& program_;
  const KernelMaker& maker_;
  std::vector<std::vector<Use>> uses_;  // by value
  std::vector<bool> isOutput_;
};

/// Gives libraries' results their layouts, readers before producers.
class LayoutChooser {
 public:
  LayoutChooser(const Program& program, const std::vector<bool>& live, const KernelMaker& maker)
      : program_(program), live_(live), maker_(maker), readers_(program, live, maker) {}

  std::vector<Layout> run() {
    for (const Program::Value& value : program_.values) layouts_.push_back(Layout::dense(value.type));
    for (size_t i = program_.nodes.size(); i-- > 0;) {
      const Node& node = program_.nodes[i];
      if (!live_[i] || info(node.op).lower != LowerKind::kernel) continue;
      const KernelEntry* entry = maker_.library(node.op);
      if (!entry || !entry->writes) continue;
      for (size_t k = 0; k < node.results.size(); k++) choose(node, k, *entry);
    }
    return std::move(layouts_);
  }

 private:
  void choose(const Node& node, size_t result, const KernelEntry& entry) {
    const ValueId value = node.results[result];
    Layout& chosen = layouts_[value];
    const int copies = readers_.copies(value, chosen);
    int least = copies;
    for (const DimOrder& order : readers_.orders(value)) {
      Layout layout = inOrder(program_.type(value), order);
      if (!entry.writes(node, result, layout)) continue;
      const int count = readers_.copies(value, layout);
      if (count >= least) continue;
      least = count;
      chosen = std::move(layout);
    }
    if (least < copies) return;
    const Layout* over = writtenOver(value);
    if (over && entry.writes(node, result, *over) && readers_.copies(value, *over) == least) chosen = *over;
  }

  /// How the result lies that a value's one reader may write over it, where both lie alike.
  const Layout* writtenOver(ValueId value) const {
    const Node* reader = readers_.only(value, 0);
    if (!reader || info(reader->op).lower != LowerKind::kernel || reader->results.size() != 1) return nullptr;
    const TensorType &type = program_.type(value), &result = program_.type(reader->results[0]);
    const Layout& layout = layouts_[reader->results[0]];
    return result.dtype == type.dtype && result.shape == type.shape && !layout.isDense() ? &layout : nullptr;
  }

  const Program& program_;
  const std::vector<bool>& live_;
  const KernelMaker& maker_;
  const Readers readers_;
  std::vector<Layout> layouts_;
};

}  // namespace

std::vector<Layout> chooseLayouts(const Program& program, const std::vector<bool>& live,
                                  const KernelMaker& maker) {
  return LayoutChooser(program, live, maker).run();
}

}  // namespace lazuli
