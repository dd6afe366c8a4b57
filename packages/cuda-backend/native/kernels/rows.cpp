#include "kernels/rows.h"

#include <algorithm>

namespace lazuli {

int64_t Rows::grain() const { return std::max<int64_t>(1, 16384 / std::max<int64_t>(width, 1)); }

std::optional<Rows> asRows(const Layout& layout) {
  const size_t rank = layout.shape.size();
  Rows rows{1, 1, 1, layout.offset};
  if (rank > 0) {
    rows.width = layout.shape[rank - 1];
    if (rows.width > 1 && layout.strides[rank - 1] != 1) return std::nullopt;
  }
  rows.stride = rows.width;
  bool first = true;
  for (size_t dim = rank > 0 ? rank - 1 : 0; dim-- > 0;) {
    const int64_t size = layout.shape[dim];
    if (size == 0) return Rows{0, rows.width, rows.width, 0};
    if (size == 1) continue;
    if (!first && layout.strides[dim] != rows.stride * rows.count) return std::nullopt;
    if (first) rows.stride = layout.strides[dim];
    rows.count *= size;
    first = false;
  }
  return rows;
}

bool acceptsRows(const Node&, size_t, const Layout& layout) { return asRows(layout).has_value(); }

Rows rowsOf(const KernelRequest& request, size_t operand) { return *asRows(request.operands[operand]); }

std::string label(const char* op, const Layout& layout) {
  return std::string(op) + " " + name(layout.dtype) + " " + format(layout.shape);
}

}  // namespace lazuli
