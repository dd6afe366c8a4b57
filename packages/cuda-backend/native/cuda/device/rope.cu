#include "rope.h"
#include "walk.h"

namespace lazuli::cuda {

template <class T, int kCount>
struct Turned {
  Elements<T, kCount> a, b;
};
/// Pairs (a, b), turned by their angles.
template <int kCount, class T>
LAZULI_DEVICE Turned<T, kCount> turn(const RopeArgs& args, const Elements<T, kCount>& a,
                                     const Elements<T, kCount>& b, int64_t angle) {
  using A = Accumulator<T>;
  A cos[kCount], sin[kCount];
  const int64_t end = angle + kCount;
  loadEither<T>(args.cos, args.single, angle, end, kCount > 1, cos);
  loadEither<T>(args.sin, args.single, angle, end, kCount > 1, sin);
  Turned<T, kCount> out;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const A s = args.inverse ? -sin[i] : sin[i];
    store(&out.a.at[i], load(a.at[i]) * cos[i] - load(b.at[i]) * s);
    store(&out.b.at[i], load(b.at[i]) * cos[i] + load(a.at[i]) * s);
  }
  return out;
}

/// Where the row of a batch element (quotient) and position (rest) begins.
LAZULI_DEVICE int64_t rowAt(const RopeRows& rows, const Divided& position) {
  return offsetOf(rows.batch, position.quotient) + position.rest * rows.lengthStride;
}

/// A thread's unit is kCount pairs: of a row's halves, or of neighbours.
template <class T, int kCount, bool kInterleaved>
LAZULI_DEVICE void ropeUnit(const RopeArgs& args) {
  const int64_t half = args.width / 2, units = half / kCount;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * static_cast<int>(blockDim.x) + threadIdx.x;
  const Divided unit = divide(at, units);
  const int64_t row = unit.quotient, pair = unit.rest * kCount;
  if (row >= args.rows) return;
  const Divided position = divide(row, args.length);
  const T* x = static_cast<const T*>(args.x) + rowAt(args.xRows, position);
  T* y = static_cast<T*>(args.y) + rowAt(args.yRows, position);
  const int64_t angle = position.rest * half + pair;
  if constexpr (kInterleaved) {
    const auto both = loadElements<2 * kCount>(x + 2 * pair);
    Elements<T, kCount> a, b;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      a.at[i] = both.at[2 * i];
      b.at[i] = both.at[2 * i + 1];
    }
    const auto turned = turn<kCount>(args, a, b, angle);
    Elements<T, 2 * kCount> out;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      out.at[2 * i] = turned.a.at[i];
      out.at[2 * i + 1] = turned.b.at[i];
    }
    storeElements(y + 2 * pair, out);
  } else {
    const auto turned =
        turn<kCount>(args, loadElements<kCount>(x + pair), loadElements<kCount>(x + pair + half), angle);
    storeElements(y + pair, turned.a);
    storeElements(y + pair + half, turned.b);
  }
}

template <class T>
LAZULI_DEVICE void ropePair(const RopeArgs& args, bool interleaved) {
  const int64_t half = args.width / 2;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * static_cast<int>(blockDim.x) + threadIdx.x;
  const Divided unit = divide(at, half);
  const int64_t row = unit.quotient, pair = unit.rest;
  if (row >= args.rows) return;
  const Divided position = divide(row, args.length);
  const T* x = static_cast<const T*>(args.x) + rowAt(args.xRows, position);
  T* y = static_cast<T*>(args.y) + rowAt(args.yRows, position);
  const int64_t a = interleaved ? 2 * pair : pair, b = interleaved ? a + 1 : pair + half;
  const auto turned =
      turn<1>(args, Elements<T, 1>{{x[a]}}, Elements<T, 1>{{x[b]}}, position.rest * half + pair);
  y[a] = turned.a.at[0];
  y[b] = turned.b.at[0];
}

template <class T, bool kInterleaved>
LAZULI_DEVICE void rope(const RopeArgs& args) {
  constexpr int kCount = Pack<T>::kCount;
  if (args.aligned)
    ropeUnit<T, kInterleaved ? kCount / 2 : kCount, kInterleaved>(args);
  else
    ropePair<T>(args, kInterleaved);
}

#define LAZULI_ROPE(suffix, T)                                                        \
  LAZULI_KERNEL(lazuli_rope_halves_##suffix, RopeArgs, 256) { rope<T, false>(args); } \
  LAZULI_KERNEL(lazuli_rope_interleaved_##suffix, RopeArgs, 256) { rope<T, true>(args); }
LAZULI_FLOATS(LAZULI_ROPE)

}  // namespace lazuli::cuda
