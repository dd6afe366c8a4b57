#include "cuda/device/cumsum.h"

#include <algorithm>

#include "cuda/library_kernels.h"
#include "cuda/row_launch.h"

namespace lazuli::cuda {
namespace {

// Blocks, or threads over columns, that keep a GPU at work: lines are cut into chunks until there are so
// many.
constexpr int64_t kBlocks = 528, kColumns = 1 << 16, kLeastChunk = 32;
constexpr int64_t kMostLines = 65535;  // a grid's y

int64_t ceilDiv(int64_t n, int64_t d) { return (n + d - 1) / d; }

MadeKernel make(const KernelRequest& request) {
  const Layout& x = request.operands[0];
  const DType dtype = x.dtype;
  const int64_t dim = request.node.integer(attr::cumsum::dim);
  CumsumArgs shape{};
  shape.outer = elements(Dims(x.shape.begin(), x.shape.begin() + dim));
  shape.length = x.shape[static_cast<size_t>(dim)];
  shape.inner = elements(Dims(x.shape.begin() + dim + 1, x.shape.end()));
  shape.reverse = request.node.flag(attr::cumsum::reverse);
  const int64_t count = shape.outer * shape.length * shape.inner;
  const bool lines = shape.inner == 1 && shape.outer <= kMostLines;
  MadeKernel made;
  made.label = label("cumsum", x);
  made.inPlace = {{0, 0}};
  made.flops = static_cast<double>(count);
  if (count == 0) {
    made.kernel = kernelOf([](const KernelArgs&) {});
    return made;
  }
  const int64_t piece = lines ? kScanTile : kLeastChunk, pieces = ceilDiv(shape.length, piece);
  const int64_t wanted = lines ? ceilDiv(kBlocks, shape.outer) : ceilDiv(kColumns, shape.outer * shape.inner);
  shape.chunkLength = ceilDiv(pieces, std::min(pieces, wanted)) * piece;
  shape.chunks = ceilDiv(shape.length, shape.chunkLength);
  Grid grid{static_cast<uint32_t>(shape.chunks), static_cast<uint32_t>(shape.outer), 1, kScanThreads};
  if (!lines)
    grid = {static_cast<uint32_t>(ceilDiv(shape.outer * shape.chunks * shape.inner, kScanThreads)), 1, 1,
            kScanThreads};
  if (shape.chunks > 1)
    made.scratchBytes =
        static_cast<size_t>(shape.outer * shape.chunks * shape.inner) * std::max<size_t>(4, sizeBytes(dtype));
  const std::string ends = suffix(dtype), by = lines ? "lines_" : "columns_";
  made.kernel = kernelOf([=, scan = Function("cumsum", "lazuli_cumsum_" + by + ends),
                          totals = Function("cumsum", std::string("lazuli_cumsum_") +
                                                          (lines ? "line_totals_" : "column_totals_") +
                                                          ends)](const KernelArgs& args) {
    CumsumArgs work = shape;
    work.x = args.reads[0];
    work.y = args.writes[0];
    work.totals = args.scratch;
    if (shape.chunks > 1) totals.launch(*args.stream, grid, work);
    scan.launch(*args.stream, grid, work);
  });
  return made;
}

}  // namespace

const KernelEntry cumsumEntry = {make};

}  // namespace lazuli::cuda
