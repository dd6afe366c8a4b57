#include "kernels/rope.h"

#include <algorithm>

#include "kernels/rope_table.h"
#include "kernels/rows.h"
#include "parallel.h"

namespace lazuli {
namespace {

/// x as it lies, heads transposed or cut out of a wider projection, where its last dim is dense.
bool accepts(const Node&, size_t index, const Layout& layout) {
  if (index != 0) return layout.isDense();
  return layout.shape.back() <= 1 || layout.strides.back() == 1;
}

bool writes(const Node&, size_t, const Layout& layout) {
  return layout.shape.back() <= 1 || layout.strides.back() == 1;
}

MadeKernel make(const KernelRequest& request) {
  const Layout x = request.operands[0], y = request.target(0);
  const DType dtype = x.dtype, tables = request.operands[1].dtype;
  const size_t rank = x.shape.size();
  const int64_t length = x.shape[rank - 2], width = x.shape[rank - 1];
  const Dims batch(x.shape.begin(), x.shape.end() - 2);
  const int64_t rows = elements(batch) * length;
  const bool inverse = request.node.flag(attr::rope::inverse);
  const size_t code = static_cast<size_t>(dtype), single = tables == DType::f32;
  const auto worker = request.node.flag(attr::rope::interleaved) ? ropeTable().interleaved[code][single]
                                                                 : ropeTable().halves[code][single];
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(width, 1));
    parallelFor(rows, grain, [&](int64_t begin, int64_t end) {
      while (begin < end) {  // rows of one batch element at a time
        const int64_t element = begin / length, t = begin % length, n = std::min(end - begin, length - t);
        int64_t from = x.offset + t * x.strides[rank - 2], to = y.offset + t * y.strides[rank - 2];
        for (int64_t rest = element, dim = static_cast<int64_t>(batch.size()); dim-- > 0;) {
          from += rest % batch[dim] * x.strides[dim];
          to += rest % batch[dim] * y.strides[dim];
          rest /= batch[dim];
        }
        worker({at(args.reads[0], dtype, from), x.strides[rank - 2],
                at(args.reads[1], tables, t * (width / 2)), at(args.reads[2], tables, t * (width / 2)),
                at(args.writes[0], dtype, to), y.strides[rank - 2], n, width, inverse});
        begin += n;
      }
    });
  });
  made.label = label("rope", x);
  made.inPlace = {{0, 0}};
  made.flops = 3.0 * static_cast<double>(rows * width);
  return made;
}

}  // namespace

const KernelEntry ropeEntry = {.make = make, .accepts = accepts, .writes = writes};

}  // namespace lazuli
