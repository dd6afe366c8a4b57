#include "norm.h"
#include "norm_moments.h"
#include "ptx.h"

namespace lazuli::cuda {

// Not contracted with a product before it.
LAZULI_DEVICE float add_apart(float a, float b) { return __fadd_rn(a, b); }
LAZULI_DEVICE double add_apart(double a, double b) { return __dadd_rn(a, b); }

/// A row of sums over an owner's rows: in registers, or in memory where the row is too wide for them.
template <class T, int kPacks, bool kWhole>
struct WeightSums {
  using A = Accumulator<T>;
  static constexpr int kCount = Pack<T>::kCount;
  A sums[kWhole ? kPacks : 1][kCount];
  A* to;
  RowIndex<kWhole> width;
  bool isFirst = true;

  LAZULI_DEVICE WeightSums(A* to, int64_t width) : to(to), width(static_cast<RowIndex<kWhole>>(width)) {
#pragma unroll
    for (auto& pack : sums)
#pragma unroll
      for (A& sum : pack) sum = 0;
  }
  LAZULI_DEVICE void add(RowIndex<kWhole> first, int pack, const A (&values)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if constexpr (kWhole)
        sums[pack][i] += values[i];
      else if (first + i < width)
        to[first + i] = isFirst ? values[i] : to[first + i] + values[i];
    }
  }
  template <class Reader>
  LAZULI_DEVICE void leave(const Reader& reader) {
    if constexpr (kWhole) {
#pragma unroll
      for (int pack = 0; pack < kPacks; ++pack)
#pragma unroll
        for (int i = 0; i < kCount; ++i)
          if (reader.firstOf(0, pack) + i < width) to[reader.firstOf(0, pack) + i] = sums[pack][i];
    }
  }
};

/// The elements in a half type, which is not known before.
template <int kCount>
LAZULI_DEVICE Elements<uint16_t, kCount> narrowed(const Elements<float, kCount>& elements, bool toBFloat16) {
  Elements<uint16_t, kCount> narrow;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    BFloat16 bfloat16;
    Float16 float16;
    store(&bfloat16, elements.at[i]);
    store(&float16, elements.at[i]);
    narrow.at[i] = toBFloat16 ? bfloat16.bits : float16.bits;
  }
  return narrow;
}

/// Has what the thread reads of a row like x's brought nearer.
template <class T, int kPacks>
LAZULI_DEVICE void prefetchLike(const RowReader<T, kPacks, true>& x, const T* row) {
#pragma unroll
  for (int i = 0; i < kPacks; ++i)
    if (x.firstOf(0, i) < x.width) prefetch(row + x.firstOf(0, i));
}

// With h the normalised x: dx = (g w - mean(g w) - h mean(g w h)) / std, dw += g h, db += g; rms_norm without
// the first mean.
template <class T, Norm kNorm, bool kWhole>
LAZULI_DEVICE void normGrad(const NormGradArgs& args) {
  using A = Accumulator<T>;
  constexpr int kCount = Pack<T>::kCount;
  using Reader = RowReader<T, kRowPairPacks, kWhole>;
  Group group(args.shape.lanes);
  const int64_t owner = group.row, owners = args.owners;
  const bool isOwner = owner < owners, adds = args.residual.data != nullptr;
  const A share = 1 / static_cast<A>(args.shape.width), eps = static_cast<A>(args.eps);
  A* partials = static_cast<A*>(args.partials) + (isOwner ? owner : 0) * args.shape.width;
  WeightSums<T, kRowPairPacks, kWhole> dw(partials, args.shape.width);
  WeightSums<T, kNorm == Norm::layer ? kRowPairPacks : 1, kWhole> db(partials + owners * args.shape.width,
                                                                     args.shape.width);
  // As many times for all: the groups of a warp stay together.
  const int64_t times = (args.shape.rows + owners - 1) / owners;
  for (int64_t time = 0; time < times; ++time) {
    const int64_t at = time * owners + owner;
    const bool isRow = isOwner && at < args.shape.rows;
    const int64_t width = isRow ? args.shape.width : 0, row = isRow ? at : 0;
    Reader x(group, static_cast<const T*>(args.x.data) + row * args.x.stride, width, args.x.aligned);
    Reader g(group, static_cast<const T*>(args.g.data) + row * args.g.stride, width, args.g.aligned);
    const auto residual = [&] {
      return static_cast<const T*>(args.residual.data) + row * args.residual.stride;
    };
    // On its way while the sums are made: held in registers, it would leave room for fewer threads.
    if constexpr (kWhole)
      if (adds) prefetchLike(x, residual());
    const Moments<A> m = momentsOf<kNorm>(group, x, share, eps);
    A sum = 0, dot = 0;
    eachPack(x, g, [&](auto first, const Pack<T>& xs, const Pack<T>& gs, int) {
      A w[kCount];
      loadEither<T>(args.w, args.single, first, x.width, args.alignedWeights, w);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const A gw = load(gs.at[i]) * w[i];
        sum += gw;
        dot += gw * (load(xs.at[i]) - m.mean);
      }
    });
    const A mean = kNorm == Norm::layer ? group.sum(sum) * share : A(0);
    const A slope = group.sum(dot) * m.inverse * share;
    T* dx = static_cast<T*>(args.dx.data) + row * args.dx.stride;
    eachPack(x, g, [&](auto first, const Pack<T>& xs, const Pack<T>& gs, int pack) {
      A w[kCount], gh[kCount], gi[kCount];
      loadEither<T>(args.w, args.single, first, x.width, args.alignedWeights, w);
      Pack<T> out;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const A h = (load(xs.at[i]) - m.mean) * m.inverse;
        gi[i] = load(gs.at[i]);
        gh[i] = first + i < x.width ? gi[i] * h : A(0);
        store(&out.at[i], m.inverse * (gi[i] * w[i] - mean - h * slope));
      }
      dw.add(first, pack, gh);
      if constexpr (kNorm == Norm::layer) db.add(first, pack, gi);
      if (adds) {
        const Pack<T> rest = loadPack(residual(), first, x.width, args.residual.aligned);
#pragma unroll
        for (int i = 0; i < kCount; ++i) store(&out.at[i], add_apart(load(out.at[i]), load(rest.at[i])));
        if constexpr (kCount == 4) {
          uint16_t* half = static_cast<uint16_t*>(args.narrow.data);
          if (half)
            storeElements(half + row * args.narrow.stride, first, x.width, args.narrow.aligned,
                          narrowed(out, args.toBFloat16));
        }
      }
      storeElements(dx, first, x.width, args.dx.aligned, out);
    });
    dw.isFirst = db.isFirst = false;
  }
  if (!isOwner) return;
  const Reader where(group, static_cast<const T*>(args.x.data), 0, false);
  dw.leave(where);
  if constexpr (kNorm == Norm::layer) db.leave(where);
}

/// 32 columns a block, whose warps take the owners in turn.
template <class A>
LAZULI_DEVICE void normSum(const NormSumArgs& args) {
  LAZULI_SHARED A rooms[32][32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  const A* from = static_cast<const A*>(args.partials) + blockIdx.y * args.owners * args.width + column;
  A sum = 0;
  if (column < args.width) {
#pragma unroll 8
    for (int64_t owner = warp; owner < args.owners; owner += 32) sum += from[owner * args.width];
  }
  rooms[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= args.width) return;
  for (int other = 1; other < 32; ++other) sum += rooms[other][lane];
  void* to = args.to[blockIdx.y];
  switch (args.dtype) {
    case 0:
      return store(static_cast<float*>(to) + column, static_cast<float>(sum));
    case 1:
      return store(static_cast<double*>(to) + column, static_cast<double>(sum));
    case 2:
      return store(static_cast<BFloat16*>(to) + column, static_cast<float>(sum));
    default:
      return store(static_cast<Float16*>(to) + column, static_cast<float>(sum));
  }
}
LAZULI_KERNEL(lazuli_norm_sum_f32, NormSumArgs, 1024) { normSum<float>(args); }
LAZULI_KERNEL(lazuli_norm_sum_f64, NormSumArgs, 1024) { normSum<double>(args); }

#define LAZULI_NORM_GRAD(suffix, T)                                                 \
  LAZULI_KERNEL(lazuli_rms_norm_grad_whole_##suffix, NormGradArgs, kRowThreads) {   \
    normGrad<T, Norm::rms, true>(args);                                             \
  }                                                                                 \
  LAZULI_KERNEL(lazuli_rms_norm_grad_parts_##suffix, NormGradArgs, kRowThreads) {   \
    normGrad<T, Norm::rms, false>(args);                                            \
  }                                                                                 \
  LAZULI_KERNEL(lazuli_layer_norm_grad_whole_##suffix, NormGradArgs, kRowThreads) { \
    normGrad<T, Norm::layer, true>(args);                                           \
  }                                                                                 \
  LAZULI_KERNEL(lazuli_layer_norm_grad_parts_##suffix, NormGradArgs, kRowThreads) { \
    normGrad<T, Norm::layer, false>(args);                                          \
  }
LAZULI_FLOATS(LAZULI_NORM_GRAD)

}  // namespace lazuli::cuda
