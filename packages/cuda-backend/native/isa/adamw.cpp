#include "kernels/adamw_table.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/vector_math.h"

namespace {

template <class T, class G>
void update(const AdamwTable::Work& work) {
  using A = Accumulator<T>;
  const T* p = static_cast<const T*>(work.p);
  const G* g = static_cast<const G*>(work.g);
  const float* m = work.m;
  const float* v = work.v;
  T* pOut = static_cast<T*>(work.pOut);
  float* mOut = work.mOut;
  float* vOut = work.vOut;
  const A gradScale = static_cast<A>(work.gradScale), shrink = static_cast<A>(work.shrink);
  const A decay = static_cast<A>(work.decay), rate = static_cast<A>(work.rate);
  const A beta1 = static_cast<A>(work.beta1), rest1 = static_cast<A>(1 - work.beta1);
  const A beta2 = static_cast<A>(work.beta2), rest2 = static_cast<A>(1 - work.beta2);
  const A rootScale = static_cast<A>(work.rootScale), eps = static_cast<A>(work.eps);
  const int64_t n = work.n;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A weight = load(p[i]);
    const A grad = static_cast<A>(load(g[i])) * gradScale + decay * weight;
    const A m1 = beta1 * static_cast<A>(m[i]) + rest1 * grad;
    const A v1 = beta2 * static_cast<A>(v[i]) + rest2 * (grad * grad);
    mOut[i] = static_cast<float>(m1);
    vOut[i] = static_cast<float>(v1);
    store(pOut + i, weight * shrink - rate * (m1 / (sqrt_(v1) * rootScale + eps)));
  }
}

}  // namespace

const AdamwTable& adamwTable() {
  static constexpr AdamwTable table = {
      {{update<float, float>, nullptr, update<float, BFloat16>, update<float, Float16>},
       {update<double, float>, update<double, double>},
       {update<BFloat16, float>, nullptr, update<BFloat16, BFloat16>},
       {update<Float16, float>, nullptr, nullptr, update<Float16, Float16>}},
  };
  return table;
}

}  // namespace lazuli::LAZULI_ISA
