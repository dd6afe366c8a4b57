#include <algorithm>
#include <cstring>

#include "kernels/convert.h"
#include "kernels/index.h"
#include "kernels/index_base.h"
#include "kernels/index_table.h"
#include "kernels/indices.h"
#include "kernels/rows.h"
#include "parallel.h"

namespace lazuli {
namespace {

bool accepts(const Node&, size_t index, const Layout& layout) {
  return index == 0 ? IndexBase::accepts(layout) : layout.isDense();
}

/// The updates by the row they go to, each row's in their own order (a counting sort), so that rows are
/// independent and every sum has one order.
struct Groups {
  int64_t* starts;  // [size + 1]
  int64_t* order;   // [n]

  static size_t bytes(int64_t size, int64_t n) { return static_cast<size_t>(size + 2 + n) * sizeof(int64_t); }

  Groups(std::byte* scratch, int64_t size, int64_t n, const std::byte* indices, DType dtype)
      : starts(reinterpret_cast<int64_t*>(scratch)), order(starts + size + 2) {
    // A row's count is kept two places late: summed, place row + 1 is where it starts, and filling moves that
    // to its end.
    std::fill(starts, order, 0);
    withIndices(indices, dtype, [&](auto* index) {
      for (int64_t i = 0; i < n; ++i) ++starts[index[i] + 2];
      for (int64_t row = 0; row < size; ++row) starts[row + 2] += starts[row + 1];
      for (int64_t i = 0; i < n; ++i) order[starts[index[i] + 1]++] = i;
    });
  }
};

/// The base as [outer, size, inner], the updates as [outer, n, inner].
struct Shape {
  DType dtype;
  int64_t outer, size, n, inner;
};

/// to += each of the updates of one row. The half types sum in float32, a block of the row at a time.
void addRow(const Shape& shape, std::byte* to, const std::byte* updates, const int64_t* order,
            int64_t count) {
  const size_t code = static_cast<size_t>(shape.dtype);
  const auto add = indexTable().add[code];
  if (shape.dtype != DType::bf16 && shape.dtype != DType::f16) {
    for (int64_t k = 0; k < count; ++k)
      add(to, at(updates, shape.dtype, order[k] * shape.inner), shape.inner);
    return;
  }
  constexpr int64_t kBlock = 512;
  alignas(64) float sum[kBlock];
  for (int64_t first = 0; first < shape.inner; first += kBlock) {
    const int64_t n = std::min(kBlock, shape.inner - first);
    convertTable().toFloat[code](at(to, shape.dtype, first), sum, n);
    for (int64_t k = 0; k < count; ++k) add(sum, at(updates, shape.dtype, order[k] * shape.inner + first), n);
    convertTable().fromFloat[code](sum, at(to, shape.dtype, first), n);
  }
}

MadeKernel make(const KernelRequest& request) {
  const Layout& layout = request.operands[0];
  const DType indexType = request.operands[1].dtype;
  const int64_t dim = request.node.integer(attr::index_add::dim);
  const Shape shape{layout.dtype, elements(Dims(layout.shape.begin(), layout.shape.begin() + dim)),
                    layout.shape[dim], request.operands[1].elements(),
                    elements(Dims(layout.shape.begin() + dim + 1, layout.shape.end()))};
  const IndexBase base(layout);
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    checkIndices("index_add", args.reads[1], indexType, shape.n, dim, shape.size);
    const Groups groups(args.scratch, shape.size, shape.n, args.reads[1], indexType);
    const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(shape.inner, 1));
    parallelFor(shape.outer * shape.size, grain, [&](int64_t begin, int64_t end) {
      base.copy(at(args.writes[0], shape.dtype, begin * shape.inner), args.reads[0], begin * shape.inner,
                (end - begin) * shape.inner);
      int64_t row = begin % shape.size, outer = begin / shape.size;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = groups.starts[row], count = groups.starts[row + 1] - first;
        if (count > 0) {
          addRow(shape, at(args.writes[0], shape.dtype, i * shape.inner),
                 at(args.reads[2], shape.dtype, outer * shape.n * shape.inner), groups.order + first, count);
        }
        if (++row == shape.size) {
          row = 0;
          ++outer;
        }
      }
    });
  });
  made.label = label("index_add", layout) + " of " + std::to_string(shape.n);
  made.scratchBytes = Groups::bytes(shape.size, shape.n);
  made.inPlace = {{0, 0}};
  made.flops = static_cast<double>(shape.outer * shape.n * shape.inner);
  return made;
}

}  // namespace

const KernelEntry indexAddEntry = {make, accepts};

}  // namespace lazuli
