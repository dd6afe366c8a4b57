#include <algorithm>

#include "fuse.h"

namespace lazuli {
namespace {

/// Counts the copies that a value's readers need of it where it lies in a layout.
class CopyCount {
 public:
  CopyCount(const Program& program, const std::vector<bool>& live, const KernelMaker& maker)
      : program_(program), maker_(maker), uses_(program.values.size()), isOutput_(program.values.size()) {
    for (size_t i = 0; i < program.nodes.size(); i++) {
      if (!live[i]) continue;
      const Node& node = program.nodes[i];
      for (uint32_t k = 0; k < node.operands.size(); k++)
        uses_[node.operands[k]].push_back({static_cast<int32_t>(i), k});
    }
    for (ValueId output : program.outputs) isOutput_[output] = true;
  }

  int of(ValueId value, const Layout& layout) const {
    int copies = isOutput_[value] && !layout.isDense();
    for (const Use& use : uses_[value]) {
      const Node& reader = program_.nodes[static_cast<size_t>(use.node)];
      if (isView(reader.op)) {
        const auto step = viewStep(reader, program_.type(reader.results[0]).shape);
        const auto next = step ? viewed(*step, layout) : layout;
        copies += next ? of(reader.results[0], *next) : 1;
      } else if (info(reader.op).lower == LowerKind::kernel && !layout.isDense()) {
        const KernelEntry* entry = maker_.library(reader.op);
        copies += !entry || !entry->accepts || !entry->accepts(reader, use.operand, layout);
      }
    }
    return copies;
  }

 private:
  const Program& program_;
  const KernelMaker& maker_;
  std::vector<std::vector<Use>> uses_;  // by value
  std::vector<bool> isOutput_;
};

/// [..., H, T, K] with the rows of its heads beside each other: as [..., T, H, K] lies.
Layout rowsFirst(const TensorType& type) {
  const size_t rank = type.shape.size();
  Dims shape = type.shape;
  std::swap(shape[rank - 3], shape[rank - 2]);
  Layout layout{type.dtype, type.shape, denseStrides(shape), 0};
  std::swap(layout.strides[rank - 3], layout.strides[rank - 2]);
  return layout;
}

}  // namespace

std::vector<Layout> chooseLayouts(const Program& program, const std::vector<bool>& live,
                                  const KernelMaker& maker) {
  std::vector<Layout> layouts;
  for (const Program::Value& value : program.values) layouts.push_back(Layout::dense(value.type));
  const CopyCount copies(program, live, maker);
  for (size_t i = 0; i < program.nodes.size(); i++) {
    const Node& node = program.nodes[i];
    if (!live[i] || info(node.op).lower != LowerKind::kernel) continue;
    const KernelEntry* entry = maker.library(node.op);
    if (!entry || !entry->writes) continue;
    for (size_t k = 0; k < node.results.size(); k++) {
      const ValueId value = node.results[k];
      if (layouts[value].shape.size() < 3) continue;
      Layout layout = rowsFirst(program.type(value));
      if (!entry->writes(node, k, layout) || copies.of(value, layout) >= copies.of(value, layouts[value]))
        continue;
      layouts[value] = std::move(layout);
    }
  }
  return layouts;
}

}  // namespace lazuli
