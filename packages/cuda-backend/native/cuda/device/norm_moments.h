#pragma once

#include "rows.h"

namespace lazuli::cuda {

enum class Norm { rms, layer };

template <class A>
struct Moments {
  A mean, inverse;  // 1 / sqrt(variance + eps); rms_norm: mean 0
};

template <Norm kNorm, class Reader, class A>
LAZULI_DEVICE Moments<A> momentsOf(Group& group, Reader& x, A share, A eps) {
  A mean = 0, rest = 0, squares = 0;
  if constexpr (kNorm == Norm::layer) {
    A sum = 0;
    x.each([&](A value) { sum += value; });
    mean = group.sum(sum) * share;
  }
  x.each([&](A value) {
    const A centred = value - mean;
    rest += centred;
    squares += centred * centred;
  });
  squares = group.sum(squares);
  if constexpr (kNorm == Norm::rms) return {0, rsqrt_of(squares * share + eps)};
  // What the rounded mean missed is seen in the centred values (the corrected two-pass algorithm, Chan et al.
  // 1983).
  const A shift = group.sum(rest) * share;
  const A variance = squares * share - shift * shift;
  return {mean + shift, rsqrt_of((variance > 0 ? variance : A(0)) + eps)};
}

}  // namespace lazuli::cuda
