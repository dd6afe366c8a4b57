#pragma once

// The half types as stored, and their conversions, without branches or calls. Included inside a namespace
// (isa.h); needs <stdint.h> before it.

#include "kernels/scalar_math.h"

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

LAZULI_SCALAR float load(float x) { return x; }
LAZULI_SCALAR double load(double x) { return x; }
LAZULI_SCALAR float load(BFloat16 x) { return floatOf(static_cast<uint32_t>(x.bits) << 16); }
LAZULI_SCALAR float load(Float16 x) {
  // Shifted to float32's place the exponent is 112 too small; a product puts that right for subnormals too.
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13;
  const uint32_t finite = bitsOf(floatOf(magnitude) * 0x1p112f);
  const uint32_t bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite;
  return floatOf(bits | (x.bits & 0x8000u) << 16);
}

// To nearest, ties to even. NaN stays NaN, quiet.
LAZULI_SCALAR void store(float* to, float x) { *to = x; }
LAZULI_SCALAR void store(double* to, double x) { *to = x; }
LAZULI_SCALAR void store(BFloat16* to, float x) {
  const uint32_t bits = bitsOf(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  to->bits = static_cast<uint16_t>(x == x ? rounded : (bits >> 16 | 0x40u));
}
LAZULI_SCALAR void store(Float16* to, float x) {
  const uint32_t bits = bitsOf(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Below 2^-14 the unit is 2^-24, which is that of float32 in [0.5, 1).
  const uint32_t subnormal = bitsOf(floatOf(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // 65520 and above round to infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  to->bits = static_cast<uint16_t>(half | (bits >> 16 & 0x8000u));
}
