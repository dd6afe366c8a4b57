#include <algorithm>
#include <cstring>

#include "kernels/index.h"
#include "kernels/indices.h"
#include "kernels/rows.h"
#include "parallel.h"

namespace lazuli {
namespace {

/// A block of a size known to the compiler where it is small, so that no call is made for each.
void copyBlock(std::byte* to, const std::byte* from, size_t bytes) {
  switch (bytes) {
    case 1:
      std::memcpy(to, from, 1);
      break;
    case 2:
      std::memcpy(to, from, 2);
      break;
    case 4:
      std::memcpy(to, from, 4);
      break;
    case 8:
      std::memcpy(to, from, 8);
      break;
    default:
      std::memcpy(to, from, bytes);
  }
}

/// x as [outer, size, inner] and the result as [outer, n, inner].
MadeKernel make(const KernelRequest& request) {
  const Layout& x = request.operands[0];
  const DType indexType = request.operands[1].dtype;
  const int64_t dim = request.node.integer(attr::index_select::dim);
  const int64_t n = request.operands[1].elements(), size = x.shape[dim];
  const int64_t outer = elements(Dims(x.shape.begin(), x.shape.begin() + dim));
  const size_t blockBytes =
      static_cast<size_t>(elements(Dims(x.shape.begin() + dim + 1, x.shape.end()))) * sizeBytes(x.dtype);
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    checkIndices("index_select", args.reads[1], indexType, n, dim, size);
    if (blockBytes == 0) return;
    const int64_t grain = std::max<int64_t>(1, 65536 / static_cast<int64_t>(blockBytes));
    withIndices(args.reads[1], indexType, [&](auto* index) {
      parallelFor(outer * n, grain, [&](int64_t begin, int64_t end) {
        int64_t position = begin % n;
        const std::byte* from = args.reads[0] + static_cast<size_t>(begin / n * size) * blockBytes;
        std::byte* to = args.writes[0] + static_cast<size_t>(begin) * blockBytes;
        for (int64_t i = begin; i < end; ++i, to += blockBytes) {
          copyBlock(to, from + static_cast<size_t>(index[position]) * blockBytes, blockBytes);
          if (++position == n) {
            position = 0;
            from += static_cast<size_t>(size) * blockBytes;
          }
        }
      });
    });
  });
  made.label = label("index_select", x) + " by " + std::to_string(n);
  return made;
}

}  // namespace

const KernelEntry indexSelectEntry = {make};

}  // namespace lazuli
