#include "cuda/device/rope.h"

#include "cuda/library_kernels.h"
#include "cuda/row_launch.h"
#include "cuda/strided.h"

namespace lazuli::cuda {
namespace {

/// As they lie, heads transposed or cut out of a wider projection, where the last dim is dense.
bool hasRows(const Layout& layout) { return layout.shape.back() <= 1 || layout.strides.back() == 1; }
bool accepts(const Node&, size_t index, const Layout& layout) {
  return index == 0 ? hasRows(layout) : layout.isDense();
}
bool writes(const Node&, size_t, const Layout& layout) { return hasRows(layout); }

RopeRows rowsOf(const Layout& layout) {
  const auto batch = [](const Dims& dims) { return Dims(dims.begin(), dims.end() - 2); };
  return {layout.strides[layout.strides.size() - 2], stridedOf(batch(layout.shape), batch(layout.strides))};
}

/// Whether every row begins at a multiple of 16 bytes where the first element of all does.
bool hasAlignedRows(const Layout& layout, const RopeRows& rows) {
  int64_t places = layout.offset | rows.lengthStride;
  for (int dim = 0; dim < rows.batch.dims; ++dim) places |= rows.batch.strides[dim];
  return places * static_cast<int64_t>(sizeBytes(layout.dtype)) % 16 == 0;
}

MadeKernel make(const KernelRequest& request) {
  const Layout &x = request.operands[0], y = request.target(0);
  const DType dtype = x.dtype;
  const size_t rank = x.shape.size();
  const bool interleaved = request.node.flag(attr::rope::interleaved);
  const int64_t bytes = static_cast<int64_t>(sizeBytes(dtype));
  RopeArgs shape{};
  shape.length = x.shape[rank - 2];
  shape.width = x.shape[rank - 1];
  shape.xRows = rowsOf(x);
  shape.yRows = rowsOf(y);
  shape.rows = elements(Dims(x.shape.begin(), x.shape.end() - 1));
  shape.single = request.operands[1].dtype == DType::f32;
  shape.inverse = request.node.flag(attr::rope::inverse);
  // Units are 16 bytes of a half, or of neighbours.
  const bool aligned = (interleaved ? shape.width : shape.width / 2) * bytes % 16 == 0 &&
                       hasAlignedRows(x, shape.xRows) && hasAlignedRows(y, shape.yRows);
  MadeKernel made;
  made.kernel = kernelOf(
      [=, xOffset = x.offset, yOffset = y.offset,
       kernel = Function("rope", std::string("lazuli_rope_") + (interleaved ? "interleaved_" : "halves_") +
                                     suffix(dtype))](const KernelArgs& args) {
        RopeArgs work = shape;
        work.x = at(args.reads[0], dtype, xOffset);
        work.cos = args.reads[1];
        work.sin = args.reads[2];
        work.y = at(args.writes[0], dtype, yOffset);
        work.aligned = aligned && isAligned(args.reads[0]) && isAligned(work.cos) && isAligned(work.sin) &&
                       isAligned(args.writes[0]);
        const int64_t pairs = !work.aligned ? 1 : interleaved ? 8 / bytes : 16 / bytes;
        const int64_t threads = shape.rows * (shape.width / 2) / pairs;
        if (threads == 0) return;
        kernel.launch(*args.stream, Grid{static_cast<uint32_t>((threads + 255) / 256)}, work);
      });
  made.label = label("rope", x);
  made.inPlace = {{0, 0}};
  made.flops = 3.0 * static_cast<double>(shape.rows * shape.width);
  return made;
}

}  // namespace

const KernelEntry ropeEntry = {.make = make, .accepts = accepts, .writes = writes};

}  // namespace lazuli::cuda
