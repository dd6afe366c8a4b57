#include "norm.h"
#include "norm_moments.h"

namespace lazuli::cuda {

template <class T, Norm kNorm, bool kWhole>
LAZULI_DEVICE void norm(const NormArgs& args) {
  using A = Accumulator<T>;
  constexpr int kCount = Pack<T>::kCount;
  Group group(args.shape.lanes);
  // Groups past the last row go along, with nothing in theirs.
  const bool isRow = group.row < args.shape.rows;
  const int64_t width = isRow ? args.shape.width : 0, row = isRow ? group.row : 0;
  RowReader<T, kRowPacks, kWhole> x(group, static_cast<const T*>(args.x.data) + row * args.x.stride, width,
                                    args.x.aligned);
  const Moments<A> m =
      momentsOf<kNorm>(group, x, 1 / static_cast<A>(args.shape.width), static_cast<A>(args.eps));
  T* y = static_cast<T*>(args.y.data) + row * args.y.stride;
  x.eachPack([&](auto first, const Pack<T>& pack, int) {
    A w[kCount];
    [[maybe_unused]] A b[kCount];
    loadEither<T>(args.w, args.single, first, x.width, args.alignedWeights, w);
    if constexpr (kNorm == Norm::layer)
      loadEither<T>(args.b, args.single, first, x.width, args.alignedWeights, b);
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const A value = load(pack.at[i]);
      if constexpr (kNorm == Norm::layer)
        store(&out.at[i], (value - m.mean) * m.inverse * w[i] + b[i]);
      else
        store(&out.at[i], value * m.inverse * w[i]);
    }
    storeElements(y, first, x.width, args.y.aligned, out);
  });
}

#define LAZULI_NORM(suffix, T)                                                                              \
  LAZULI_KERNEL(lazuli_rms_norm_whole_##suffix, NormArgs, kRowThreads) { norm<T, Norm::rms, true>(args); }  \
  LAZULI_KERNEL(lazuli_rms_norm_parts_##suffix, NormArgs, kRowThreads) { norm<T, Norm::rms, false>(args); } \
  LAZULI_KERNEL(lazuli_layer_norm_whole_##suffix, NormArgs, kRowThreads) {                                  \
    norm<T, Norm::layer, true>(args);                                                                       \
  }                                                                                                         \
  LAZULI_KERNEL(lazuli_layer_norm_parts_##suffix, NormArgs, kRowThreads) {                                  \
    norm<T, Norm::layer, false>(args);                                                                      \
  }
LAZULI_FLOATS(LAZULI_NORM)

}  // namespace lazuli::cuda
