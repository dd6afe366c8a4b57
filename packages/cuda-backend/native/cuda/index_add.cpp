#include <algorithm>
#include <bit>

#include "cuda/device/index.h"
#include "cuda/index_fault.h"
#include "cuda/library_kernels.h"
#include "cuda/radix_sort.h"
#include "cuda/row_launch.h"
#include "cuda/strided.h"
#include "kernels/index_base.h"

// Updates are sorted, stably, by the row that they go to; the first of each row's then sums them. So every
// sum has one order, which the GPU does not show in, and nothing is added atomically.

namespace lazuli::cuda {
namespace {

constexpr int64_t kMostRows = 0xfffffffe;

bool accepts(const Node&, size_t index, const Layout& layout) {
  return index == 0 ? IndexBase::accepts(layout) : layout.isDense();
}

/// The base as [outer, size, inner], the updates as [outer, n, inner]; `at` and `stride` say which row an
/// index names.
struct Shape {
  int64_t outer, size, n, inner;
  Strided at;
  int64_t stride;
};

uint32_t blocksOf(int64_t n, int64_t ofBlock) { return static_cast<uint32_t>((n + ofBlock - 1) / ofBlock); }

class IndexAdd {
 public:
  IndexAdd(const KernelRequest& request, const IndexedDim& dim, const Shape& shape)
      : dtype_(request.operands[0].dtype),
        wide_(request.operands[1].dtype == DType::i64),
        dense_(request.operands[0].isDense()),
        offset_(request.operands[0].offset),
        limit_(dim.size),
        shape_(shape),
        sort_(1, shape.n, sizeof(unsigned), std::bit_width(static_cast<uint64_t>(shape.size))),
        fill_("index", "lazuli_index_fill_" + std::to_string(sizeBytes(dtype_))),
        keys_("index", "lazuli_index_keys"),
        sum_("index_sum", std::string("lazuli_index_sum_") + suffix(dtype_)),
        sumPacks_("index_sum", std::string("lazuli_index_sum_packs_") + suffix(dtype_)) {
    if (shape.size > kMostRows || shape.n > kMostRows)
      throw ProgramError(std::string(dim.op) + ": more than " + std::to_string(kMostRows) +
                         " places to add to");
  }
  size_t scratchBytes() const { return sort_.scratchBytes(); }

  void run(const KernelArgs& args) const {
    const Stream& stream = *args.stream;
    const int64_t count = shape_.outer * shape_.size * shape_.inner;
    const auto bytes = static_cast<int64_t>(sizeBytes(dtype_));
    const std::byte* base = dense_ ? args.reads[0] : at(args.reads[0], dtype_, offset_);
    if (count == 0 && shape_.n == 0) return;
    if (!dense_) {
      fill_.launch(stream, Grid{blocksOf(count * bytes, 256 * 16)},
                   IndexFillArgs{base, args.writes[0], count});
    } else if (base != args.writes[0] && count > 0) {
      stream.copy(args.writes[0], base, static_cast<size_t>(count * bytes));
    }
    if (shape_.n == 0) return;
    keys_.launch(stream, Grid{blocksOf(shape_.n, 256)},
                 IndexKeysArgs{Indices{args.reads[1], wide_, limit_, stream.fault(), stream.step}, shape_.at,
                               shape_.stride, shape_.n, shape_.size,
                               static_cast<unsigned*>(sort_.keys(args.scratch)), sort_.order(args.scratch)});
    if (count == 0) return;
    sort_.run(stream, args.scratch, 1);
    const int64_t pack = std::min<int64_t>(16 / bytes, 8);
    const bool packs =
        shape_.inner % pack == 0 && isAligned(base) && isAligned(args.reads[2]) && isAligned(args.writes[0]);
    const int64_t units = packs ? shape_.inner / pack : shape_.inner;
    const auto columns = static_cast<int>(std::bit_ceil(static_cast<uint64_t>(std::min<int64_t>(units, 32))));
    const Grid grid{blocksOf(shape_.n, 8), blocksOf(units, columns),
                    static_cast<uint32_t>(std::min<int64_t>(shape_.outer, 65535)), 256};
    (packs ? sumPacks_ : sum_)
        .launch(stream, grid,
                IndexSumArgs{static_cast<const unsigned*>(sort_.sortedKeys(args.scratch)),
                             sort_.sortedOrder(args.scratch), base, args.reads[2], args.writes[0], !dense_,
                             columns, shape_.outer, shape_.size, shape_.n, shape_.inner});
  }

 private:
  DType dtype_;
  bool wide_, dense_;
  int64_t offset_, limit_;
  Shape shape_;
  RadixSort sort_;
  Function fill_, keys_, sum_, sumPacks_;
};

MadeKernel madeOf(const KernelRequest& request, const IndexedDim& dim, const Shape& shape) {
  MadeKernel made;
  IndexAdd add(request, dim, shape);
  made.scratchBytes = add.scratchBytes();
  made.kernel = indexingKernelOf(dim, [add = std::move(add)](const KernelArgs& args) { add.run(args); });
  made.inPlace = {{0, 0}};
  made.flops = static_cast<double>(shape.outer * shape.n * shape.inner);
  return made;
}

MadeKernel makeAdd(const KernelRequest& request) {
  const Dims& base = request.operands[0].shape;
  const int64_t dim = request.node.integer(attr::index_add::dim), n = request.operands[1].elements();
  const Shape shape{elements(Dims(base.begin(), base.begin() + dim)),   base[dim], n,
                    elements(Dims(base.begin() + dim + 1, base.end())), Strided{}, 1};
  MadeKernel made = madeOf(request, {"index_add", "index", dim, base[dim]}, shape);
  made.label = label("index_add", request.operands[0]) + " of " + std::to_string(n);
  return made;
}

/// Every element is a row of its own.
MadeKernel makeScatter(const KernelRequest& request) {
  const Dims &base = request.operands[0].shape, &index = request.operands[1].shape;
  const int64_t dim = request.node.integer(attr::scatter_add::dim);
  Dims strides = denseStrides(base);
  const int64_t stride = strides[static_cast<size_t>(dim)];
  strides[static_cast<size_t>(dim)] = 0;
  const Shape shape{1, elements(base), elements(index), 1, stridedOf(index, strides), stride};
  MadeKernel made = madeOf(request, {"scatter_add", "index", dim, base[dim]}, shape);
  made.label = label("scatter_add", request.operands[0]) + " of " + format(index);
  return made;
}

}  // namespace

const KernelEntry indexAddEntry = {makeAdd, accepts};
const KernelEntry scatterAddEntry = {makeScatter, accepts};

}  // namespace lazuli::cuda
