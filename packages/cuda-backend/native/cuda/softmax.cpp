#include "cuda/device/softmax.h"

#include "cuda/library_kernels.h"
#include "cuda/row_launch.h"

namespace lazuli::cuda {
namespace {

MadeKernel makeForward(const KernelRequest& request, const char* op, bool log) {
  const DType dtype = request.operands[0].dtype;
  const Rows x = rowsOf(request, 0);
  const RowLaunch launch(x.count, x.width, dtype, kRowPacks);
  MadeKernel made;
  made.kernel =
      kernelOf([=, kernel = Function("softmax", launch.kernel("softmax", dtype))](const KernelArgs& args) {
        if (launch.isEmpty()) return;
        kernel.launch(*args.stream, launch.grid,
                      SoftmaxArgs{launch.shape, rowsIn(args.reads[0], dtype, x),
                                  rowsOut(args.writes[0], dtype, x), log});
      });
  made.label = label(op, request.operands[0]);
  made.inPlace = {{0, 0}};
  made.flops = 5.0 * static_cast<double>(x.count * x.width);
  return made;
}

MadeKernel makeBackward(const KernelRequest& request, const char* op, bool log) {
  const DType dtype = request.operands[0].dtype;
  const Rows y = rowsOf(request, 0), g = rowsOf(request, 1);
  const RowLaunch launch(y.count, y.width, dtype, kRowPairPacks);
  MadeKernel made;
  made.kernel = kernelOf([=, kernel = Function("softmax", launch.kernel("softmax_grad", dtype))](
                             const KernelArgs& args) {
    if (launch.isEmpty()) return;
    kernel.launch(*args.stream, launch.grid,
                  SoftmaxGradArgs{launch.shape, rowsIn(args.reads[0], dtype, y),
                                  rowsIn(args.reads[1], dtype, g), rowsOut(args.writes[0], dtype, y), log});
  });
  made.label = label(op, request.operands[0]);
  made.inPlace = {{0, 1}, {0, 0}};
  made.flops = 4.0 * static_cast<double>(y.count * y.width);
  return made;
}

}  // namespace

const KernelEntry softmaxEntry = {
    [](const KernelRequest& request) { return makeForward(request, "softmax", false); }, acceptsRows};
const KernelEntry logSoftmaxEntry = {
    [](const KernelRequest& request) { return makeForward(request, "log_softmax", true); }, acceptsRows};
const KernelEntry softmaxGradEntry = {
    [](const KernelRequest& request) { return makeBackward(request, "softmax_grad", false); }, acceptsRows};
const KernelEntry logSoftmaxGradEntry = {
    [](const KernelRequest& request) { return makeBackward(request, "log_softmax_grad", true); },
    acceptsRows};

}  // namespace lazuli::cuda
