#include "cuda/device/index.h"

#include "cuda/index_fault.h"
#include "cuda/library_kernels.h"
#include "cuda/row_launch.h"
#include "cuda/strided.h"

namespace lazuli::cuda {
namespace {

constexpr int64_t kThreads = 256;

Grid gridOf(int64_t n) {
  const int64_t block = kThreads * kIndexUnits;
  return Grid{static_cast<uint32_t>((n + block - 1) / block), 1, 1, kThreads};
}

MadeKernel makeSelect(const KernelRequest& request) {
  const Layout& x = request.operands[0];
  const bool wide = request.operands[1].dtype == DType::i64;
  const int64_t dim = request.node.integer(attr::index_select::dim);
  const int64_t n = request.operands[1].elements(), size = x.shape[dim];
  const int64_t outer = elements(Dims(x.shape.begin(), x.shape.begin() + dim));
  const auto blockBytes =
      elements(Dims(x.shape.begin() + dim + 1, x.shape.end())) * static_cast<int64_t>(sizeBytes(x.dtype));
  int64_t unit = 16;
  while (blockBytes % unit != 0) unit /= 2;
  const int64_t units = blockBytes / unit;
  MadeKernel made;
  made.kernel = indexingKernelOf(
      {"index_select", "index", dim, size},
      [=, kernel = Function("index", "lazuli_index_select_" + std::to_string(unit))](const KernelArgs& args) {
        if (outer * n * units == 0) return;
        kernel.launch(
            *args.stream, gridOf(outer * n * units),
            IndexSelectArgs{args.reads[0], args.writes[0],
                            Indices{args.reads[1], wide, size, args.stream->fault(), args.stream->step},
                            outer, n, units});
      });
  made.label = label("index_select", x) + " by " + std::to_string(n);
  return made;
}

/// Elements are read one by one, so any layout of x will do.
bool acceptsGather(const Node&, size_t index, const Layout& layout) { return index == 0 || layout.isDense(); }

MadeKernel makeGather(const KernelRequest& request) {
  const Layout& x = request.operands[0];
  const Dims& shape = request.operands[1].shape;
  const DType dtype = x.dtype;
  const bool wide = request.operands[1].dtype == DType::i64;
  const int64_t dim = request.node.integer(attr::gather::dim), n = elements(shape);
  const int64_t size = x.shape[dim], stride = x.strides[dim], offset = x.offset;
  Dims strides = x.strides;
  strides[static_cast<size_t>(dim)] = 0;
  const Strided at = stridedOf(shape, strides);
  MadeKernel made;
  made.kernel = indexingKernelOf(
      {"gather", "index", dim, size},
      [=, kernel = Function("index", "lazuli_gather_" + std::to_string(sizeBytes(dtype)))](
          const KernelArgs& args) {
        if (n == 0) return;
        kernel.launch(*args.stream, gridOf(n),
                      GatherArgs{lazuli::at(args.reads[0], dtype, offset), args.writes[0],
                                 Indices{args.reads[1], wide, size, args.stream->fault(), args.stream->step},
                                 at, stride, n});
      });
  made.label = label("gather", x) + " by " + format(shape);
  return made;
}

}  // namespace

const KernelEntry indexSelectEntry = {makeSelect};
const KernelEntry gatherEntry = {makeGather, acceptsGather};

}  // namespace lazuli::cuda
