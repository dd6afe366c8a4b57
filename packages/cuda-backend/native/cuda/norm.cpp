#include "cuda/device/norm.h"

#include <algorithm>

#include "cuda/library_kernels.h"
#include "cuda/row_launch.h"

namespace lazuli::cuda {
namespace {

// Rows whose weight gradients add into one partial sum at least, such sums at most, and the threads that keep
// a GPU at work: a matter of the shape alone, so that the GPU does not show.
constexpr int64_t kLeastRows = 8, kMostOwners = 2048, kThreads = 132 * 768;

constexpr size_t kResidual = 3;  // operand of a gradient, where it adds one

bool acceptsNorm(const Node&, size_t index, const Layout& layout) {
  // x is operand 0, a cotangent is operand 2 with its rank; weights have one dim.
  return index != 1 && index != kResidual && layout.shape.size() != 1 ? asRows(layout).has_value()
                                                                      : layout.isDense();
}

MadeKernel makeForward(const KernelRequest& request, const char* op, double eps) {
  const DType dtype = request.operands[0].dtype, weight = request.operands[1].dtype;
  const Rows x = rowsOf(request, 0);
  const bool biased = request.operands.size() == 3;
  const RowLaunch launch(x.count, x.width, dtype, kRowPacks);
  MadeKernel made;
  made.kernel = kernelOf([=, kernel = Function("norm", launch.kernel(op, dtype))](const KernelArgs& args) {
    if (launch.isEmpty()) return;
    const std::byte* b = biased ? args.reads[2] : nullptr;
    kernel.launch(
        *args.stream, launch.grid,
        NormArgs{launch.shape, rowsIn(args.reads[0], dtype, x), rowsOut(args.writes[0], dtype, x),
                 args.reads[1], b, weight == DType::f32, isAligned(args.reads[1]) && isAligned(b), eps});
  });
  made.label = label(op, request.operands[0]);
  made.inPlace = {{0, 0}};
  made.flops = (biased ? 8.0 : 4.0) * static_cast<double>(x.count * x.width);
  return made;
}

MadeKernel makeBackward(const KernelRequest& request, const char* op, double eps) {
  const DType dtype = request.operands[0].dtype, weight = request.operands[1].dtype;
  const Rows x = rowsOf(request, 0), g = rowsOf(request, 2);
  const bool biased = request.node.op == Op::layer_norm_grad, adds = request.operands.size() > kResidual;
  const size_t halved = biased ? 3 : 2;  // result: the sum in a half type
  const bool halves = request.results.size() > halved;
  const DType half = request.results.back().dtype;
  const Rows residual{x.count, x.width, x.width, 0};
  const RowLaunch perRow(x.count, x.width, dtype, kRowPairPacks);
  const int64_t most = std::min<int64_t>(kMostOwners, kThreads / perRow.shape.lanes);
  const int64_t owners = std::min(x.count, std::clamp<int64_t>(x.count / kLeastRows, 1, most));
  const RowLaunch launch(x.count, x.width, dtype, kRowPairPacks, owners);
  const bool wide = dtype == DType::f64;
  MadeKernel made;
  made.kernel = kernelOf([=, kernel = Function("norm_grad", launch.kernel(op, dtype)),
                          sum = Function("norm_grad", std::string("lazuli_norm_sum_") +
                                                          (wide ? "f64" : "f32"))](const KernelArgs& args) {
    if (x.width == 0) return;
    if (!launch.isEmpty()) {
      kernel.launch(
          *args.stream, launch.grid,
          NormGradArgs{launch.shape, rowsIn(args.reads[0], dtype, x), rowsIn(args.reads[2], dtype, g),
                       adds ? rowsIn(args.reads[kResidual], dtype, residual) : RowsIn{},
                       rowsOut(args.writes[0], dtype, x),
                       halves ? rowsOut(args.writes[halved], half, x) : RowsOut{}, args.reads[1],
                       args.scratch, owners, weight == DType::f32, isAligned(args.reads[1]),
                       half == DType::bf16, eps});
    }
    const Grid grid{static_cast<uint32_t>((x.width + 31) / 32), biased ? 2u : 1u, 1, 1024};
    sum.launch(*args.stream, grid,
               NormSumArgs{args.scratch,
                           {args.writes[1], biased ? args.writes[2] : nullptr},
                           owners,
                           x.width,
                           static_cast<int>(weight)});
  });
  made.label = label(op, request.operands[0]) + (adds ? " + residual" : "");
  if (halves) made.label += std::string(" as ") + name(half);
  made.scratchBytes = static_cast<size_t>(owners * x.width) * (wide ? 8 : 4) * (biased ? 2 : 1);
  made.inPlace = {{0, 2}, {0, 0}};
  if (adds) made.inPlace.insert(made.inPlace.begin(), {0, kResidual});
  made.flops = ((biased ? 16.0 : 10.0) + (adds ? 1 : 0)) * static_cast<double>(x.count * x.width);
  return made;
}

}  // namespace

const KernelEntry rmsNormEntry = {[](const KernelRequest& request) {
                                    return makeForward(request, "rms_norm",
                                                       request.node.number(attr::rms_norm::eps));
                                  },
                                  acceptsNorm};
const KernelEntry layerNormEntry = {[](const KernelRequest& request) {
                                      return makeForward(request, "layer_norm",
                                                         request.node.number(attr::layer_norm::eps));
                                    },
                                    acceptsNorm};
const KernelEntry rmsNormGradEntry = {
    .make =
        [](const KernelRequest& request) {
          return makeBackward(request, "rms_norm_grad", request.node.number(attr::rms_norm_grad::eps));
        },
    .accepts = acceptsNorm,
    .addsResidual = true};
const KernelEntry layerNormGradEntry = {
    .make =
        [](const KernelRequest& request) {
          return makeBackward(request, "layer_norm_grad", request.node.number(attr::layer_norm_grad::eps));
        },
    .accepts = acceptsNorm,
    .addsResidual = true};

}  // namespace lazuli::cuda
