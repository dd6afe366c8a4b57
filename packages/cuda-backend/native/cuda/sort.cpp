#include "cuda/device/sort.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "cuda/library_kernels.h"
#include "cuda/radix_sort.h"
#include "cuda/row_launch.h"
#include "cuda/strided.h"
#include "kernels/lines.h"

namespace lazuli::cuda {
namespace {

// Elements of the lines that are sorted at a time where they are too long for a block.
constexpr int64_t kAtOnce = 1 << 22;
constexpr int64_t kMostLines = 65535;  // a grid's y

/// Lines are read element by element, so any layout will do.
bool accepts(const Node&, size_t, const Layout&) { return true; }

/// What all kernels of a sort are told.
SortArgs argsOf(const Layout& x, int64_t dim, int64_t k, bool descending) {
  SortArgs args{};
  args.at = stridedOf(without(x.shape, dim), without(x.strides, dim));
  args.stride = x.strides[static_cast<size_t>(dim)];
  args.n = x.shape[static_cast<size_t>(dim)];
  args.lines = elements(without(x.shape, dim));
  args.k = k;
  args.inner = elements(Dims(x.shape.begin() + dim + 1, x.shape.end()));
  args.descending = descending;
  return args;
}

void setBuffers(SortArgs& args, const KernelArgs& call, const Layout& x) {
  args.x = at(call.reads[0], x.dtype, x.offset);
  args.values = call.writes[0];
  args.indices = reinterpret_cast<int*>(call.writes[1]);
}

std::string kernelName(const char* part, DType dtype) {
  return std::string("lazuli_sort_") + part + "_" + suffix(dtype == DType::boolean ? DType::u8 : dtype);
}

/// Lines that a block sorts.
std::unique_ptr<Kernel> blockKernel(const Layout& x, SortArgs args) {
  const size_t item = sizeBytes(x.dtype) == 8 ? 16 : 8;
  args.padded = static_cast<int>(std::max<uint64_t>(2, std::bit_ceil(static_cast<uint64_t>(args.n))));
  args.blockLines = std::max(1, 512 / args.padded);
  Grid grid;
  grid.x = static_cast<uint32_t>((args.lines + args.blockLines - 1) / args.blockLines);
  const int pairs = args.blockLines * args.padded / 2;
  grid.threads = static_cast<uint32_t>(std::clamp(pairs, 32, kSortThreads));
  grid.sharedBytes = static_cast<uint32_t>(static_cast<size_t>(args.blockLines * args.padded) * item);
  return kernelOf([=, kernel = Function("sort", kernelName("block", x.dtype))](const KernelArgs& call) {
    SortArgs work = args;
    setBuffers(work, call, x);
    kernel.launch(*call.stream, grid, work);
  });
}

/// Lines that are longer, some at a time.
MadeKernel radixKernel(const Layout& x, const SortArgs& args) {
  const size_t keyBytes = sizeBytes(x.dtype) == 8 ? 8 : 4;
  const int64_t lines = std::clamp<int64_t>(kAtOnce / args.n, 1, std::min<int64_t>(args.lines, kMostLines));
  RadixSort sort(lines, args.n, keyBytes, static_cast<int>(8 * sizeBytes(x.dtype)));
  MadeKernel made;
  made.scratchBytes = sort.scratchBytes();
  made.kernel = kernelOf([=, sort = std::move(sort), keys = Function("sort", kernelName("keys", x.dtype)),
                          values = Function("sort", kernelName("values", x.dtype))](const KernelArgs& call) {
    SortArgs work = args;
    setBuffers(work, call, x);
    for (int64_t first = 0; first < args.lines; first += lines) {
      const int64_t count = std::min<int64_t>(lines, args.lines - first);
      const auto gridOf = [&](int64_t n) {
        return Grid{static_cast<uint32_t>((n + 255) / 256), static_cast<uint32_t>(count)};
      };
      work.firstLine = first;
      work.keys = sort.keys(call.scratch);
      work.order = sort.order(call.scratch);
      keys.launch(*call.stream, gridOf(args.n), work);
      sort.run(*call.stream, call.scratch, count);
      work.order = const_cast<unsigned*>(sort.sortedOrder(call.scratch));
      values.launch(*call.stream, gridOf(args.k), work);
    }
  });
  return made;
}

MadeKernel make(const char* op, const Layout& x, int64_t dim, int64_t k, bool descending) {
  const SortArgs args = argsOf(x, dim, k, descending);
  if (args.n > std::numeric_limits<int32_t>::max()) {
    throw ProgramError(std::string(op) + ": dim " + std::to_string(dim) + " of size " +
                       std::to_string(args.n) + " has more elements than int32 indices can name");
  }
  MadeKernel made;
  const int64_t fitting = kSortBytes / (sizeBytes(x.dtype) == 8 ? 16 : 8);
  if (args.lines * args.n * k == 0)
    made.kernel = kernelOf([](const KernelArgs&) {});
  else if (args.n <= fitting)
    made.kernel = blockKernel(x, args);
  else
    made = radixKernel(x, args);
  made.label = label(op, x);
  return made;
}

}  // namespace

const KernelEntry sortEntry = {[](const KernelRequest& request) {
                                 const Layout& x = request.operands[0];
                                 const int64_t dim = request.node.integer(attr::sort::dim);
                                 return make("sort", x, dim, x.shape[static_cast<size_t>(dim)],
                                             request.node.flag(attr::sort::descending));
                               },
                               accepts};
const KernelEntry topkEntry = {
    [](const KernelRequest& request) {
      return make("topk", request.operands[0], request.node.integer(attr::topk::dim),
                  request.node.integer(attr::topk::k), request.node.flag(attr::topk::largest));
    },
    accepts};

}  // namespace lazuli::cuda
