#pragma once

// What the two forms of the product share. Included inside `namespace lazuli::LAZULI_ISA`.

#include "kernels/gemm_vector.h"

template <class T>
constexpr int64_t kTileCols = kTileVectors* Simd<T>::width;

static inline int64_t roundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
static inline bool isFloating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::bf16 || dtype == DType::f16;
}
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// isa/gemm_skinny.cpp: products of few rows, bound by reading b once, which is not packed.
bool gemmIsSkinny(GemmTypes types, int64_t m, int64_t bRow, int64_t bCol);
size_t gemmSkinnyScratch(GemmTypes types, int64_t m, int64_t n, int64_t k);
void gemmSkinny(GemmTypes types, const GemmBlock& block);

template <class T>
LAZULI_INLINE Vec<T> activate(Activation activation, Vec<T> x) {
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::relu:
      return x < T(0) ? Vec<T>{} : x;
    case Activation::silu:
      return x / (T(1) + exp(-x));
    case Activation::gelu_erf:
      return T(0.5) * x * (T(1) + erf(x * T(0.70710678118654752)));
    case Activation::gelu_tanh:  // (1 + tanh u) / 2 = 1 / (1 + e^-2u)
      return x / (T(1) + exp(x * (T(-1.5957691216057308) - x * x * T(0.071354816272600248))));
  }
  return x;
}

/// A finished sum becomes a piece of a row of c.
template <class T, class Out>
LAZULI_INLINE void finish(Vec<T> sum, Out* c, int64_t count, const Out* bias, Activation activation,
                          const Out* residual) {
  if (bias) sum += loadPart<T>(bias, count);
  sum = activate<T>(activation, sum);
  if (residual) sum += loadPart<T>(residual, count);
  storePart<T>(c, sum, count);
}
