#include "kernels/norm.h"

#include <algorithm>
#include <cstring>

#include "kernels/convert.h"
#include "parallel.h"

namespace lazuli {
namespace {

// Rows whose weight gradients add into one partial sum: a matter of the shape alone, so that the threads do
// not show.
constexpr int64_t kLeastRows = 16, kMostPartials = 128;

constexpr size_t kResidual = 3;  // operand of a gradient, where it adds one

bool acceptsNorm(const Node&, size_t index, const Layout& layout) {
  // x is operand 0, a cotangent is operand 2 with its rank; weights have one dim.
  return index != 1 && index != kResidual && layout.shape.size() != 1 ? asRows(layout).has_value()
                                                                      : layout.isDense();
}

/// A vector in what `x` computes in: itself where it is of that dtype, else converted into `scratch`.
const void* widened(const std::byte* from, DType dtype, DType x, std::byte* scratch, int64_t n) {
  const size_t code = static_cast<size_t>(dtype);
  if (x == DType::f64) {
    if (dtype == DType::f64) return from;
    convertTable().toDouble[code](from, reinterpret_cast<double*>(scratch), n);
  } else {
    if (dtype == DType::f32) return from;
    convertTable().toFloat[code](from, reinterpret_cast<float*>(scratch), n);
  }
  return scratch;
}

void narrow(const std::byte* from, DType x, std::byte* to, DType dtype, int64_t n) {
  const size_t code = static_cast<size_t>(dtype);
  if (x == DType::f64) {
    convertTable().fromDouble[code](reinterpret_cast<const double*>(from), to, n);
  } else {
    convertTable().fromFloat[code](reinterpret_cast<const float*>(from), to, n);
  }
}

/// Bytes of a vector of n in what `x` computes in, kept 64-byte aligned.
size_t vectorBytes(DType x, int64_t n) {
  return (static_cast<size_t>(n) * (x == DType::f64 ? 8 : 4) + 63) / 64 * 64;
}

using BackwardWorker = void (*)(const NormTable::Backward&);

MadeKernel makeForward(const KernelRequest& request) {
  const NormRows norm(request);
  MadeKernel made;
  made.label = label(norm.op(), request.operands[0]);
  made.scratchBytes = norm.scratchBytes();
  made.inPlace = {{0, 0}};
  made.flops = norm.flops();
  made.kernel = kernelOf([norm](const KernelArgs& args) {
    const NormRows::Operands operands = norm.prepare(args.reads, args.scratch);
    parallelFor(norm.x().count, norm.x().grain(), [&](int64_t begin, int64_t end) {
      norm.run(operands, begin, end, at(args.writes[0], norm.dtype(), begin * norm.x().width));
    });
  });
  return made;
}

MadeKernel makeBackward(const KernelRequest& request, const char* op, BackwardWorker worker, double eps) {
  const DType dtype = request.operands[0].dtype, weight = request.operands[1].dtype;
  const Rows x = rowsOf(request, 0), g = rowsOf(request, 2);
  const bool biased = request.node.op == Op::layer_norm_grad, adds = request.operands.size() > kResidual;
  const size_t halved = biased ? 3 : 2;  // result: the sum in a half type
  const bool halves = request.results.size() > halved;
  const DType half = request.results.back().dtype;
  const int64_t blockRows = std::max(kLeastRows, (x.count + kMostPartials - 1) / kMostPartials);
  const int64_t blocks = (x.count + blockRows - 1) / blockRows;
  // Scratch: w widened, the sums of dw and db, then dw and db of each block.
  const size_t vector = vectorBytes(dtype, x.width), block = vector * (biased ? 2 : 1);
  const size_t element = dtype == DType::f64 ? 8 : 4;
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    if (x.width == 0) return;
    const void* w = widened(args.reads[1], weight, dtype, args.scratch, x.width);
    std::byte* sums = args.scratch + vector;
    std::byte* partials = sums + block;
    parallelFor(blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i * blockRows, rows = std::min(blockRows, x.count - row);
        std::byte* partial = partials + static_cast<size_t>(i) * block;
        std::memset(partial, 0, block);
        worker({at(args.reads[0], dtype, x.offset + row * x.stride), x.stride,
                at(args.reads[2], dtype, g.offset + row * g.stride), g.stride, w,
                adds ? at(args.reads[kResidual], dtype, row * x.width) : nullptr,
                at(args.writes[0], dtype, row * x.width),
                halves ? at(args.writes[halved], half, row * x.width) : nullptr, half == DType::bf16, partial,
                partial + vector, rows, x.width, eps});
      }
    });
    std::memset(sums, 0, block);
    const int64_t across = static_cast<int64_t>(block / element);
    parallelFor(across, 1024, [&](int64_t begin, int64_t end) {
      const size_t skip = static_cast<size_t>(begin) * element;
      normTable().addVectors[dtype == DType::f64](sums + skip, partials + skip, across, blocks, end - begin);
    });
    narrow(sums, dtype, args.writes[1], weight, x.width);
    if (biased) narrow(sums + vector, dtype, args.writes[2], weight, x.width);
  });
  made.label = label(op, request.operands[0]) + (adds ? " + residual" : "");
  if (halves) made.label += std::string(" as ") + name(half);
  made.scratchBytes = vector + block * static_cast<size_t>(blocks + 1);
  made.inPlace = {{0, 2}, {0, 0}};
  if (adds) made.inPlace.insert(made.inPlace.begin(), {0, kResidual});
  made.flops = ((biased ? 16.0 : 10.0) + (adds ? 1 : 0)) * static_cast<double>(x.count * x.width);
  return made;
}

size_t code(const KernelRequest& request) { return static_cast<size_t>(request.operands[0].dtype); }

}  // namespace

NormRows::NormRows(const KernelRequest& request)
    : x_(rowsOf(request, 0)),
      dtype_(request.operands[0].dtype),
      weight_(request.operands[1].dtype),
      op_(request.node.op == Op::layer_norm ? "layer_norm" : "rms_norm"),
      biased_(request.node.op == Op::layer_norm),
      worker_(biased_ ? normTable().layer[code(request)] : normTable().rms[code(request)]),
      eps_(request.node.number(biased_ ? attr::layer_norm::eps : attr::rms_norm::eps)) {}

size_t NormRows::scratchBytes() const { return 2 * vectorBytes(dtype_, x_.width); }

NormRows::Operands NormRows::prepare(const std::byte* const* reads, std::byte* scratch) const {
  const auto vector = [&](size_t i) {
    std::byte* own = scratch + (i - 1) * vectorBytes(dtype_, x_.width);
    return widened(reads[i], weight_, dtype_, own, x_.width);
  };
  return {reads[0], vector(1), biased_ ? vector(2) : nullptr};
}

void NormRows::run(const Operands& operands, int64_t begin, int64_t end, std::byte* to) const {
  worker_({at(operands.x, dtype_, x_.offset + begin * x_.stride), x_.stride, operands.w, operands.b, to,
           end - begin, x_.width, eps_});
}

const KernelEntry rmsNormEntry = {makeForward, acceptsNorm};
const KernelEntry layerNormEntry = {makeForward, acceptsNorm};
const KernelEntry rmsNormGradEntry = {.make =
                                          [](const KernelRequest& request) {
                                            return makeBackward(
                                                request, "rms_norm_grad", normTable().rmsGrad[code(request)],
                                                request.node.number(attr::rms_norm_grad::eps));
                                          },
                                      .accepts = acceptsNorm,
                                      .addsResidual = true};
const KernelEntry layerNormGradEntry = {
    .make =
        [](const KernelRequest& request) {
          return makeBackward(request, "layer_norm_grad", normTable().layerGrad[code(request)],
                              request.node.number(attr::layer_norm_grad::eps));
        },
    .accepts = acceptsNorm,
    .addsResidual = true};

}  // namespace lazuli
