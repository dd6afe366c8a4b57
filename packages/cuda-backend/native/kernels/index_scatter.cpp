#include <algorithm>

#include "kernels/convert.h"
#include "kernels/index.h"
#include "kernels/index_base.h"
#include "kernels/indices.h"
#include "kernels/lines.h"
#include "kernels/rows.h"
#include "parallel.h"

namespace lazuli {
namespace {

#include "kernels/vector_math.h"

bool accepts(const Node&, size_t index, const Layout& layout) {
  return index == 0 ? IndexBase::accepts(layout) : layout.isDense();
}

struct Scatter {
  DType dtype, indexType;
  Dims base, shape;  // of the base and of the index
  int64_t dim;
};

/// Adds in the index's order along `dim`; everything across it is independent, and the threads' to share.
template <class T>
void scatter(const Scatter& s, Accumulator<T>* out, const std::byte* indices, const T* updates) {
  const int64_t last = static_cast<int64_t>(s.shape.size()) - 1;
  const Dims outStrides = denseStrides(s.base), inStrides = denseStrides(s.shape);
  const int64_t length = s.shape[s.dim], outStride = outStrides[s.dim], inStride = inStrides[s.dim];
  // Across `dim`: groups of columns, which are the last dim unless that is `dim` itself.
  const int64_t columns = s.dim == last ? 1 : s.shape[last];
  const auto across = [&](Dims dims) {
    dims = without(dims, last);
    return s.dim == last ? dims : without(dims, s.dim);
  };
  const Dims groups = across(s.shape), groupOut = across(outStrides), groupIn = across(inStrides);
  withIndices(indices, s.indexType, [&](auto* index) {
    const int64_t grain = std::max<int64_t>(1, 8192 / length);
    parallelFor(elements(groups) * columns, grain, [&](int64_t begin, int64_t end) {
      Walk outWalk(groups, groupOut, begin / columns), inWalk(groups, groupIn, begin / columns);
      for (int64_t column = begin % columns; begin < end; column = 0, outWalk.next(), inWalk.next()) {
        const int64_t n = std::min(end - begin, columns - column);
        for (int64_t k = 0; k < length; ++k) {
          const int64_t from = inWalk.offset() + k * inStride + column, to = outWalk.offset() + column;
          for (int64_t j = 0; j < n; ++j) {
            Accumulator<T>& sum = out[to + j + index[from + j] * outStride];
            sum = static_cast<Accumulator<T>>(sum + load(updates[from + j]));
          }
        }
        begin += n;
      }
    });
  });
}

template <class T>
void scatterInPlace(const Scatter& s, const KernelArgs& args) {
  scatter(s, reinterpret_cast<Accumulator<T>*>(args.writes[0]), args.reads[1],
          reinterpret_cast<const T*>(args.reads[2]));
}

/// Sums in float32, in scratch.
template <class T>
void scatterHalf(const Scatter& s, const KernelArgs& args) {
  const size_t code = static_cast<size_t>(s.dtype);
  float* sums = reinterpret_cast<float*>(args.scratch);
  const int64_t n = elements(s.base);
  parallelFor(n, 16384, [&](int64_t begin, int64_t end) {
    convertTable().toFloat[code](at(args.writes[0], s.dtype, begin), sums + begin, end - begin);
  });
  scatter(s, sums, args.reads[1], reinterpret_cast<const T*>(args.reads[2]));
  parallelFor(n, 16384, [&](int64_t begin, int64_t end) {
    convertTable().fromFloat[code](sums + begin, at(args.writes[0], s.dtype, begin), end - begin);
  });
}

MadeKernel make(const KernelRequest& request) {
  const Layout& layout = request.operands[0];
  const Scatter s{layout.dtype, request.operands[1].dtype, layout.shape, request.operands[1].shape,
                  request.node.integer(attr::scatter_add::dim)};
  const IndexBase base(layout);
  const int64_t count = elements(s.shape);
  const bool half = s.dtype == DType::bf16 || s.dtype == DType::f16;
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    checkIndices("scatter_add", args.reads[1], s.indexType, count, s.dim, s.base[s.dim]);
    parallelFor(elements(s.base), 16384, [&](int64_t begin, int64_t end) {
      base.copy(at(args.writes[0], s.dtype, begin), args.reads[0], begin, end - begin);
    });
    if (count == 0) return;
    switch (s.dtype) {
      case DType::f32:
        return scatterInPlace<float>(s, args);
      case DType::f64:
        return scatterInPlace<double>(s, args);
      case DType::bf16:
        return scatterHalf<BFloat16>(s, args);
      case DType::f16:
        return scatterHalf<Float16>(s, args);
      case DType::i32:
        return scatterInPlace<int32_t>(s, args);
      case DType::i64:
        return scatterInPlace<int64_t>(s, args);
      default:
        return scatterInPlace<uint8_t>(s, args);
    }
  });
  made.label = label("scatter_add", layout) + " of " + format(s.shape);
  made.scratchBytes = half ? static_cast<size_t>(elements(s.base)) * sizeof(float) : 0;
  made.inPlace = {{0, 0}};
  made.flops = static_cast<double>(count);
  return made;
}

}  // namespace

const KernelEntry scatterAddEntry = {make, accepts};

}  // namespace lazuli
