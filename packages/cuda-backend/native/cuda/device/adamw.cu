#include "adamw.h"
#include "dtype.h"

namespace lazuli::cuda {

/// What all elements of a launch have in common.
template <class A>
struct AdamwStep {
  A gradScale, shrink, decay, rate, rootScale;
};

template <class A>
LAZULI_DEVICE AdamwStep<A> stepOf(const AdamwArgs& args) {
  const double lr = *args.lr, step = *args.step;
  return {args.gradScale ? static_cast<A>(*args.gradScale) : A(1),
          static_cast<A>(args.decoupled ? 1 - lr * args.weightDecay : 1.0),
          static_cast<A>(args.decoupled ? 0.0 : args.weightDecay),
          // 1 - beta^step, which keeps its digits in the first steps.
          static_cast<A>(lr / -expm1(step * args.logBeta1)),
          static_cast<A>(1 / sqrt(-expm1(step * args.logBeta2)))};
}

template <class T, class G>
LAZULI_DEVICE void adamw(const AdamwArgs& args) {
  using A = Accumulator<T>;
  constexpr int kCount = sizeof(T) == 2 ? 8 : 4;
  LAZULI_SHARED AdamwStep<A> shared;
  if (threadIdx.x == 0) shared = stepOf<A>(args);
  int index = 0;
  for (int end = args.count; end - index > 1;) {
    const int middle = (index + end) / 2;
    if (args.firstBlocks[middle] <= blockIdx.x)
      index = middle;
    else
      end = middle;
  }
  const AdamwTensor& tensor = args.tensors[index];
  const int64_t start = static_cast<int64_t>(blockIdx.x - args.firstBlocks[index]) * kAdamwChunk;
  const T* p = static_cast<const T*>(tensor.p) + start;
  const G* g = static_cast<const G*>(tensor.g) + start;
  const float *m = tensor.m + start, *v = tensor.v + start;
  T* pOut = static_cast<T*>(tensor.pOut) + start;
  float *mOut = tensor.mOut + start, *vOut = tensor.vOut + start;
  const int n = static_cast<int>(tensor.n - start < kAdamwChunk ? tensor.n - start : kAdamwChunk);
  __syncthreads();
  const AdamwStep<A> s = shared;
  const bool skip = args.skip && *args.skip;
  const A beta1 = static_cast<A>(args.beta1), rest1 = static_cast<A>(1 - args.beta1);
  const A beta2 = static_cast<A>(args.beta2), rest2 = static_cast<A>(1 - args.beta2);
  const A eps = static_cast<A>(args.eps);
  // Every buffer begins at an aligned address, and a chunk is many units.
  for (int first = static_cast<int>(threadIdx.x) * kCount; first < n;
       first += static_cast<int>(blockDim.x) * kCount) {
    auto ps = loadElements<kCount>(p, first, n, true);
    auto ms = loadElements<kCount>(m, first, n, true);
    auto vs = loadElements<kCount>(v, first, n, true);
    if (!skip) {
      const auto gs = loadElements<kCount>(g, first, n, true);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const A weight = load(ps.at[i]);
        const A grad = static_cast<A>(load(gs.at[i])) * s.gradScale + s.decay * weight;
        const A m1 = beta1 * static_cast<A>(ms.at[i]) + rest1 * grad;
        const A v1 = beta2 * static_cast<A>(vs.at[i]) + rest2 * (grad * grad);
        ms.at[i] = static_cast<float>(m1);
        vs.at[i] = static_cast<float>(v1);
        store(&ps.at[i], weight * s.shrink - s.rate * (m1 / (sqrt_of(v1) * s.rootScale + eps)));
      }
    } else if (p == pOut && m == mOut && v == vOut) {
      continue;
    }
    storeElements(pOut, first, n, true, ps);
    storeElements(mOut, first, n, true, ms);
    storeElements(vOut, first, n, true, vs);
  }
}

// lazuli_adamw_<p>_<g>
#define LAZULI_ADAMW(p, P, g, G) \
  LAZULI_KERNEL(lazuli_adamw_##p##_##g, AdamwArgs, 256) { adamw<P, G>(args); }
LAZULI_ADAMW(f32, float, f32, float)
LAZULI_ADAMW(f32, float, bf16, BFloat16)
LAZULI_ADAMW(f32, float, f16, Float16)
LAZULI_ADAMW(f64, double, f32, float)
LAZULI_ADAMW(f64, double, f64, double)
LAZULI_ADAMW(bf16, BFloat16, f32, float)
LAZULI_ADAMW(bf16, BFloat16, bf16, BFloat16)
LAZULI_ADAMW(f16, Float16, f32, float)
LAZULI_ADAMW(f16, Float16, f16, Float16)

}  // namespace lazuli::cuda
