#include "kernels/softmax.h"

#include "kernels/rows.h"
#include "kernels/softmax_table.h"
#include "parallel.h"

namespace lazuli {
namespace {

MadeKernel makeForward(const KernelRequest& request, const char* op, SoftmaxTable::Forward* worker) {
  const DType dtype = request.operands[0].dtype;
  const Rows x = rowsOf(request, 0);
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    parallelFor(x.count, x.grain(), [&](int64_t begin, int64_t end) {
      worker(at(args.reads[0], dtype, x.offset + begin * x.stride), x.stride,
             at(args.writes[0], dtype, begin * x.width), end - begin, x.width);
    });
  });
  made.label = label(op, request.operands[0]);
  made.inPlace = {{0, 0}};
  made.flops = 5.0 * static_cast<double>(x.count * x.width);
  return made;
}

MadeKernel makeBackward(const KernelRequest& request, const char* op, SoftmaxTable::Backward* worker) {
  const DType dtype = request.operands[0].dtype;
  const Rows y = rowsOf(request, 0), g = rowsOf(request, 1);
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    parallelFor(y.count, y.grain(), [&](int64_t begin, int64_t end) {
      worker(at(args.reads[0], dtype, y.offset + begin * y.stride), y.stride,
             at(args.reads[1], dtype, g.offset + begin * g.stride), g.stride,
             at(args.writes[0], dtype, begin * y.width), end - begin, y.width);
    });
  });
  made.label = label(op, request.operands[0]);
  made.inPlace = {{0, 1}, {0, 0}};
  made.flops = 4.0 * static_cast<double>(y.count * y.width);
  return made;
}

size_t code(const KernelRequest& request) { return static_cast<size_t>(request.operands[0].dtype); }

}  // namespace

const KernelEntry softmaxEntry = {[](const KernelRequest& request) {
                                    return makeForward(request, "softmax",
                                                       softmaxTable().softmax[code(request)]);
                                  },
                                  acceptsRows};
const KernelEntry logSoftmaxEntry = {[](const KernelRequest& request) {
                                       return makeForward(request, "log_softmax",
                                                          softmaxTable().logSoftmax[code(request)]);
                                     },
                                     acceptsRows};
const KernelEntry softmaxGradEntry = {[](const KernelRequest& request) {
                                        return makeBackward(request, "softmax_grad",
                                                            softmaxTable().softmaxGrad[code(request)]);
                                      },
                                      acceptsRows};
const KernelEntry logSoftmaxGradEntry = {[](const KernelRequest& request) {
                                           return makeBackward(request, "log_softmax_grad",
                                                               softmaxTable().logSoftmaxGrad[code(request)]);
                                         },
                                         acceptsRows};

}  // namespace lazuli
