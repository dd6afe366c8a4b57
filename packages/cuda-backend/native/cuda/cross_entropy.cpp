#include "cuda/device/cross_entropy.h"

#include "cuda/index_fault.h"
#include "cuda/library_kernels.h"
#include "cuda/row_launch.h"

namespace lazuli::cuda {
namespace {

/// Only logits (operand 0) may have spaced rows.
bool accepts(const Node&, size_t index, const Layout& layout) {
  return index == 0 ? asRows(layout).has_value() : layout.isDense();
}

IndexedDim classesOf(const KernelRequest& request, const char* op) {
  const Dims& shape = request.operands[0].shape;
  return {op, "target", static_cast<int64_t>(shape.size()) - 1, shape.back()};
}

Targets targetsAt(const KernelArgs& args, DType dtype, int64_t ignored) {
  return {args.reads[1], dtype == DType::i64, ignored, args.stream->fault(), args.stream->step};
}

MadeKernel makeForward(const KernelRequest& request) {
  const DType dtype = request.operands[0].dtype, targets = request.operands[1].dtype;
  const Rows x = rowsOf(request, 0);
  const int64_t ignored = request.node.integer(attr::cross_entropy::ignore_index);
  const double smoothing = request.node.number(attr::cross_entropy::label_smoothing);
  const RowLaunch launch(x.count, x.width, dtype, kRowPacks);
  MadeKernel made;
  made.kernel =
      indexingKernelOf(classesOf(request, "cross_entropy"),
                       [=, kernel = Function("cross_entropy", std::string("lazuli_cross_entropy_") +
                                                                  suffix(dtype))](const KernelArgs& args) {
                         if (x.count == 0) return;
                         kernel.launch(*args.stream, launch.grid,
                                       CrossEntropyArgs{launch.shape, rowsIn(args.reads[0], dtype, x),
                                                        targetsAt(args, targets, ignored), smoothing,
                                                        reinterpret_cast<float*>(args.writes[0]),
                                                        reinterpret_cast<float*>(args.writes[1])});
                       });
  made.label = label("cross_entropy", request.operands[0]);
  made.flops = 4.0 * static_cast<double>(x.count * x.width);
  return made;
}

MadeKernel makeBackward(const KernelRequest& request) {
  const DType dtype = request.operands[0].dtype, targets = request.operands[1].dtype;
  const Rows x = rowsOf(request, 0);
  const int64_t ignored = request.node.integer(attr::cross_entropy_grad::ignore_index);
  const double smoothing = request.node.number(attr::cross_entropy_grad::label_smoothing);
  const RowLaunch launch(x.count, x.width, dtype, kRowPacks);
  MadeKernel made;
  made.kernel = indexingKernelOf(
      classesOf(request, "cross_entropy_grad"),
      [=, kernel = Function("cross_entropy", std::string("lazuli_cross_entropy_grad_") + suffix(dtype))](
          const KernelArgs& args) {
        if (x.count == 0) return;
        kernel.launch(*args.stream, launch.grid,
                      CrossEntropyGradArgs{
                          launch.shape, rowsIn(args.reads[0], dtype, x), rowsOut(args.writes[0], dtype, x),
                          targetsAt(args, targets, ignored), reinterpret_cast<const float*>(args.reads[2]),
                          reinterpret_cast<const float*>(args.reads[3]), smoothing});
      });
  made.label = label("cross_entropy_grad", request.operands[0]);
  made.inPlace = {{0, 0}};
  made.flops = 4.0 * static_cast<double>(x.count * x.width);
  return made;
}

}  // namespace

const KernelEntry crossEntropyEntry = {makeForward, accepts};
const KernelEntry crossEntropyGradEntry = {makeBackward, accepts};

}  // namespace lazuli::cuda
