#include <algorithm>

#include "kernels/index.h"
#include "kernels/indices.h"
#include "kernels/lines.h"
#include "kernels/rows.h"
#include "parallel.h"

namespace lazuli {
namespace {

/// Elements are read one by one, so any layout of x will do.
bool accepts(const Node&, size_t index, const Layout& layout) { return index == 0 || layout.isDense(); }

template <class Element>
void gather(const Layout& x, const Dims& shape, int64_t dim, DType indexType, const KernelArgs& args) {
  const int64_t last = static_cast<int64_t>(shape.size()) - 1;
  const int64_t width = shape[last];
  const int64_t columnStride = dim == last ? 0 : x.strides[last], stride = x.strides[dim];
  // The lines along the result's last dim; where the index says, x is not walked.
  const Dims lines = without(shape, last);
  Dims strides = x.strides;
  strides[dim] = 0;
  strides = without(strides, last);
  const Element* from = reinterpret_cast<const Element*>(args.reads[0]) + x.offset;
  Element* to = reinterpret_cast<Element*>(args.writes[0]);
  withIndices(args.reads[1], indexType, [&](auto* index) {
    parallelFor(elements(lines), std::max<int64_t>(1, 8192 / width), [&](int64_t begin, int64_t end) {
      Walk walk(lines, strides, begin);
      for (int64_t line = begin; line < end; ++line, walk.next()) {
        const Element* row = from + walk.offset();
        for (int64_t j = 0; j < width; ++j) {
          const int64_t i = line * width + j;
          to[i] = row[j * columnStride + index[i] * stride];
        }
      }
    });
  });
}

MadeKernel make(const KernelRequest& request) {
  const Layout x = request.operands[0];
  const Dims shape = request.operands[1].shape;
  const DType indexType = request.operands[1].dtype;
  const int64_t dim = request.node.integer(attr::gather::dim), n = elements(shape);
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    if (n == 0) return;
    checkIndices("gather", args.reads[1], indexType, n, dim, x.shape[dim]);
    switch (sizeBytes(x.dtype)) {
      case 1:
        return gather<uint8_t>(x, shape, dim, indexType, args);
      case 2:
        return gather<uint16_t>(x, shape, dim, indexType, args);
      case 4:
        return gather<uint32_t>(x, shape, dim, indexType, args);
      default:
        return gather<uint64_t>(x, shape, dim, indexType, args);
    }
  });
  made.label = label("gather", x) + " by " + format(shape);
  return made;
}

}  // namespace

const KernelEntry gatherEntry = {make, accepts};

}  // namespace lazuli
