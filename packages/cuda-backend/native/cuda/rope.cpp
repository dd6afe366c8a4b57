#include "cuda/device/rope.h"

#include "cuda/library_kernels.h"
#include "cuda/row_launch.h"
#include "cuda/strided.h"

namespace lazuli::cuda {
namespace {

/// x as it lies, heads transposed or cut out of a wider projection, where its last dim is dense.
bool accepts(const Node&, size_t index, const Layout& layout) {
  if (index != 0) return layout.isDense();
  return layout.shape.back() <= 1 || layout.strides.back() == 1;
}

MadeKernel make(const KernelRequest& request) {
  const Layout& x = request.operands[0];
  const DType dtype = x.dtype;
  const size_t rank = x.shape.size();
  const bool interleaved = request.node.flag(attr::rope::interleaved);
  const int64_t offset = x.offset, bytes = static_cast<int64_t>(sizeBytes(dtype));
  RopeArgs shape{};
  shape.length = x.shape[rank - 2];
  shape.width = x.shape[rank - 1];
  shape.lengthStride = x.strides[rank - 2];
  shape.rows = elements(Dims(x.shape.begin(), x.shape.end() - 1));
  shape.single = request.operands[1].dtype == DType::f32;
  shape.inverse = request.node.flag(attr::rope::inverse);
  // Units are 16 bytes of a half, or of neighbours.
  bool aligned = (interleaved ? shape.width : shape.width / 2) * bytes % 16 == 0 &&
                 offset * bytes % 16 == 0 && shape.lengthStride * bytes % 16 == 0;
  shape.batch =
      stridedOf(Dims(x.shape.begin(), x.shape.end() - 2), Dims(x.strides.begin(), x.strides.end() - 2));
  for (int dim = 0; dim < shape.batch.dims; ++dim)
    aligned = aligned && shape.batch.strides[dim] * bytes % 16 == 0;
  MadeKernel made;
  made.kernel = kernelOf(
      [=, kernel = Function("rope", std::string("lazuli_rope_") + (interleaved ? "interleaved_" : "halves_") +
                                        suffix(dtype))](const KernelArgs& args) {
        RopeArgs work = shape;
        work.x = at(args.reads[0], dtype, offset);
        work.cos = args.reads[1];
        work.sin = args.reads[2];
        work.y = args.writes[0];
        work.aligned = aligned && isAligned(args.reads[0]) && isAligned(work.cos) && isAligned(work.sin) &&
                       isAligned(work.y);
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

const KernelEntry ropeEntry = {make, accepts};

}  // namespace lazuli::cuda
