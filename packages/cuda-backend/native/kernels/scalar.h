#pragma once

// What each elementwise op computes, once: the CPU's vector loops (isa/tile_*.cpp) and CUDA's kernels are
// made from these bodies. Included inside a namespace (isa.h) after scalar_math.h. Integers wrap and divide
// by zero to 0.

template <class T>
struct Wrapping {
  using Type = T;
};
template <>
struct Wrapping<int32_t> {
  using Type = uint32_t;
};
template <>
struct Wrapping<int64_t> {
  using Type = uint64_t;
};
template <class T>
inline constexpr bool kIsFloat = false;
template <>
inline constexpr bool kIsFloat<float> = true;
template <>
inline constexpr bool kIsFloat<double> = true;

LAZULI_SCALAR float sqrt_(float x) { return LAZULI_LIBM(sqrtf)(x); }
LAZULI_SCALAR double sqrt_(double x) { return LAZULI_LIBM(sqrt)(x); }
#define LAZULI_FROM_LIBRARY(name)                                          \
  LAZULI_SCALAR float name##_(float x) { return LAZULI_LIBM(name##f)(x); } \
  LAZULI_SCALAR double name##_(double x) { return LAZULI_LIBM(name)(x); }
LAZULI_FROM_LIBRARY(tan)
LAZULI_FROM_LIBRARY(asin)
LAZULI_FROM_LIBRARY(acos)
LAZULI_FROM_LIBRARY(atan)
LAZULI_FROM_LIBRARY(sinh)
LAZULI_FROM_LIBRARY(cosh)
LAZULI_FROM_LIBRARY(floor)
LAZULI_FROM_LIBRARY(ceil)
LAZULI_FROM_LIBRARY(trunc)
LAZULI_FROM_LIBRARY(rint)
LAZULI_FROM_LIBRARY(fabs)
#undef LAZULI_FROM_LIBRARY
LAZULI_SCALAR float fmod_(float x, float y) { return LAZULI_LIBM(fmodf)(x, y); }
LAZULI_SCALAR double fmod_(double x, double y) { return LAZULI_LIBM(fmod)(x, y); }
LAZULI_SCALAR float atan2_(float y, float x) { return LAZULI_LIBM(atan2f)(y, x); }
LAZULI_SCALAR double atan2_(double y, double x) { return LAZULI_LIBM(atan2)(y, x); }
LAZULI_SCALAR double pow_(double x, double y) { return LAZULI_LIBM(pow)(x, y); }

/// x^y through float64: exact enough that only the last rounding shows.
LAZULI_SCALAR float pow_(float x, float y) {
  const double a = LAZULI_LIBM(fabsf)(x);
  // log2 |x|: mantissa in [sqrt(1/2), sqrt(2)), s = (m - 1) / (m + 1), log m = 2 atanh s.
  const uint64_t offset = 0x3fe6a09e667f3bcdu;  // sqrt(1/2)
  const uint64_t bits = __builtin_bit_cast(uint64_t, a) - offset;
  const double mantissa = __builtin_bit_cast(double, (bits & 0x000fffffffffffffu) + offset);
  const double exponent = static_cast<double>(static_cast<int32_t>(static_cast<int64_t>(bits) >> 52));
  const double s = (mantissa - 1.0) / (mantissa + 1.0), s2 = s * s;
  double p = 1.0 / 13;
  p = p * s2 + 1.0 / 11;
  p = p * s2 + 1.0 / 9;
  p = p * s2 + 1.0 / 7;
  p = p * s2 + 1.0 / 5;
  p = p * s2 + 1.0 / 3;
  p = p * s2 + 1.0;
  double log2 = exponent + s * p * 0x1.71547652b82fep+1;  // 2 / ln 2
  const double infinity = kInfinity;
  log2 = a == 0.0 ? -infinity : a == infinity ? infinity : log2;
  double t = static_cast<double>(y) * log2;
  t = t > 200.0 ? 200.0 : t;
  t = t < -200.0 ? -200.0 : t;
  const double rounded = t + 0x1.8p52;
  const double r = (t - (rounded - 0x1.8p52)) * 0x1.62e42fefa39efp-1;
  double q = 1.0 / 40320;
  q = q * r + 1.0 / 5040;
  q = q * r + 1.0 / 720;
  q = q * r + 1.0 / 120;
  q = q * r + 1.0 / 24;
  q = q * r + 1.0 / 6;
  q = q * r + 0.5;
  q = q * r + 1.0;
  q = q * r + 1.0;
  const double scale = __builtin_bit_cast(double, (__builtin_bit_cast(uint64_t, rounded) + 1023u) << 52);
  const float magnitude = static_cast<float>(q * scale);
  // From 2^24 every float32 is an even integer.
  const float size = LAZULI_LIBM(fabsf)(y);
  const float clamped = size < 0x1p24f ? size : 0.0f;
  const int32_t whole = static_cast<int32_t>(clamped);
  const bool integer = (static_cast<float>(whole) == clamped) & (y == y);
  const uint32_t odd = integer ? static_cast<uint32_t>(whole) & 1u : 0u;
  float result = floatOf(bitsOf(magnitude) | (bitsOf(x) & odd << 31));
  result = (x < 0.0f) & !integer & (a < infinity) ? kNaN : result;
  result = (x != x) | (y != y) ? kNaN : result;
  result = (a == 1.0) & (size == kInfinity) ? 1.0f : result;
  return (x == 1.0f) | (y == 0.0f) ? 1.0f : result;
}

template <class T>
LAZULI_SCALAR T add(T a, T b) {
  using W = typename Wrapping<T>::Type;
  return static_cast<T>(static_cast<W>(a) + static_cast<W>(b));
}
template <class T>
LAZULI_SCALAR T sub(T a, T b) {
  using W = typename Wrapping<T>::Type;
  return static_cast<T>(static_cast<W>(a) - static_cast<W>(b));
}
template <class T>
LAZULI_SCALAR T mul(T a, T b) {
  using W = typename Wrapping<T>::Type;
  return static_cast<T>(static_cast<W>(a) * static_cast<W>(b));
}
template <class T>
LAZULI_SCALAR T neg(T x) {
  if constexpr (kIsFloat<T>) return -x;
  return sub(T(0), x);
}
template <class T>
LAZULI_SCALAR T square(T x) {
  return mul(x, x);
}
template <class T>
LAZULI_SCALAR T abs(T x) {
  if constexpr (kIsFloat<T>) return fabs_(x);
  return x < T(0) ? neg(x) : x;
}
template <class T>
LAZULI_SCALAR T sign(T x) {
  return static_cast<T>((x > T(0)) - (x < T(0)));
}
template <class T>
LAZULI_SCALAR T relu(T x) {
  return x < T(0) ? T(0) : x;  // keeps NaN
}
template <class T>
LAZULI_SCALAR T maximum(T a, T b) {
  return (a > b) | (a != a) ? a : b;
}
template <class T>
LAZULI_SCALAR T minimum(T a, T b) {
  return (a < b) | (a != a) ? a : b;
}

#define LAZULI_ROUNDING(name, body)               \
  template <class T>                              \
  LAZULI_SCALAR T name(T x) {                     \
    if constexpr (kIsFloat<T>) return body##_(x); \
    return x;                                     \
  }
LAZULI_ROUNDING(floor, floor)
LAZULI_ROUNDING(ceil, ceil)
LAZULI_ROUNDING(trunc, trunc)
LAZULI_ROUNDING(round, rint)
#undef LAZULI_ROUNDING

template <class T>
LAZULI_SCALAR T div(T a, T b) {
  if constexpr (kIsFloat<T>) return a / b;
  if (b == T(0)) return T(0);
  if (b == static_cast<T>(-1) && T(-1) < T(0)) return neg(a);  // the lowest value / -1 traps
  return static_cast<T>(a / b);
}
/// Has the divisor's sign.
template <class T>
LAZULI_SCALAR T remainder(T a, T b) {
  if constexpr (kIsFloat<T>) {
    const T r = fmod_(a, b);
    return (r != T(0)) & ((r < T(0)) != (b < T(0))) ? r + b : r;
  } else {
    if (b == T(0) || (b == static_cast<T>(-1) && T(-1) < T(0))) return T(0);
    const T r = static_cast<T>(a % b);
    return r != T(0) && (r < T(0)) != (b < T(0)) ? static_cast<T>(r + b) : r;
  }
}
template <class T>
LAZULI_SCALAR T floor_divide(T a, T b) {
  if constexpr (kIsFloat<T>) {
    // As torch.floor_divide: (a - fmod) / b is near an integer, where a / b may round up to the next one.
    const T r = fmod_(a, b);
    const T quotient = rint_((a - r) / b) - ((r != T(0)) & ((r < T(0)) != (b < T(0))) ? T(1) : T(0));
    return b == T(0) ? a / b : quotient;
  } else {
    if (b == T(0)) return T(0);
    const T quotient = div(a, b);
    return remainder(a, b) != T(0) && (a < T(0)) != (b < T(0)) ? static_cast<T>(quotient - 1) : quotient;
  }
}
template <class T>
LAZULI_SCALAR T pow(T x, T y) {
  if constexpr (kIsFloat<T>) {
    return pow_(x, y);
  } else {
    if (y < T(0)) return x == T(1) ? T(1) : x == static_cast<T>(-1) ? (y & 1 ? x : T(1)) : T(0);
    T result = 1;
    for (; y != T(0); y = static_cast<T>(y >> 1), x = mul(x, x))
      if (y & 1) result = mul(result, x);
    return result;
  }
}

#define LAZULI_AS_MATH(name)  \
  template <class T>          \
  LAZULI_SCALAR T name(T x) { \
    return name##_(x);        \
  }
LAZULI_AS_MATH(exp)
LAZULI_AS_MATH(exp2)
LAZULI_AS_MATH(expm1)
LAZULI_AS_MATH(log)
LAZULI_AS_MATH(log1p)
LAZULI_AS_MATH(log2)
LAZULI_AS_MATH(sqrt)
LAZULI_AS_MATH(sin)
LAZULI_AS_MATH(cos)
LAZULI_AS_MATH(tan)
LAZULI_AS_MATH(asin)
LAZULI_AS_MATH(acos)
LAZULI_AS_MATH(atan)
LAZULI_AS_MATH(sinh)
LAZULI_AS_MATH(cosh)
LAZULI_AS_MATH(tanh)
LAZULI_AS_MATH(sigmoid)
LAZULI_AS_MATH(erf)
#undef LAZULI_AS_MATH
template <class T>
LAZULI_SCALAR T atan2(T y, T x) {
  return atan2_(y, x);
}
template <class T>
LAZULI_SCALAR T rsqrt(T x) {
  return T(1) / sqrt_(x);
}
template <class T>
LAZULI_SCALAR T reciprocal(T x) {
  return T(1) / x;
}
/// log(1 + x) for x in [0, 1].
LAZULI_SCALAR float log1pOfUnit(float x) {
  const float u = 1.0f + x;
  const bool high = u >= 0x1.6a09e6p+0f;  // sqrt(2)
  const float lost = x - (u - 1.0f);
  return logReduced(high ? (0.5f * u - 1.0f) + 0.5f * lost : x, high ? 1.0f : 0.0f);
}
LAZULI_SCALAR double log1pOfUnit(double x) { return log1p_(x); }
template <class T>
LAZULI_SCALAR T softplus(T x) {
  return (x < T(0) ? T(0) : x) + log1pOfUnit(exp_(-fabs_(x)));
}
template <class T>
LAZULI_SCALAR T silu(T x) {
  return x / (T(1) + exp_(-x));
}
template <class T>
LAZULI_SCALAR T silu_grad(T x, T g) {
  const T s = sigmoid_(x);
  return g * s * (T(1) + x * (T(1) - s));
}
template <class T>
LAZULI_SCALAR T gelu_erf(T x) {
  return T(0.5) * x * (T(1) + erf_(x * T(0.70710678118654752440)));
}
template <class T>
LAZULI_SCALAR T gelu_erf_grad(T x, T g) {
  const T density = T(0.39894228040143267794) * exp_(T(-0.5) * x * x);
  return g * (T(0.5) * (T(1) + erf_(x * T(0.70710678118654752440))) + x * density);
}
// (1 + tanh u) / 2 is sigmoid(2u); 2u = x (a + b x^2).
template <class T>
LAZULI_SCALAR T gelu_tanh(T x) {
  return x * sigmoid_(x * (T(1.5957691216057307) + T(0.07135481627260025) * x * x));
}
template <class T>
LAZULI_SCALAR T gelu_tanh_grad(T x, T g) {
  const T x2 = x * x;
  const T s = sigmoid_(x * (T(1.5957691216057307) + T(0.07135481627260025) * x2));
  return g * (s + x * s * (T(1) - s) * (T(1.5957691216057307) + T(0.21406444881780074) * x2));
}

template <class T>
LAZULI_SCALAR uint8_t eq(T a, T b) {
  return a == b;
}
template <class T>
LAZULI_SCALAR uint8_t ne(T a, T b) {
  return a != b;
}
template <class T>
LAZULI_SCALAR uint8_t lt(T a, T b) {
  return a < b;
}
template <class T>
LAZULI_SCALAR uint8_t le(T a, T b) {
  return a <= b;
}
template <class T>
LAZULI_SCALAR uint8_t gt(T a, T b) {
  return a > b;
}
template <class T>
LAZULI_SCALAR uint8_t ge(T a, T b) {
  return a >= b;
}
template <class T>
LAZULI_SCALAR uint8_t logical_and(T a, T b) {
  return (a != T(0)) & (b != T(0));
}
template <class T>
LAZULI_SCALAR uint8_t logical_or(T a, T b) {
  return (a != T(0)) | (b != T(0));
}
template <class T>
LAZULI_SCALAR uint8_t logical_xor(T a, T b) {
  return (a != T(0)) != (b != T(0));
}
template <class T>
LAZULI_SCALAR uint8_t logical_not(T x) {
  return x == T(0);
}
template <class T>
LAZULI_SCALAR uint8_t to_bool(T x) {
  return x != T(0);
}
template <class T>
LAZULI_SCALAR uint8_t isnan(T x) {
  return x != x;
}
template <class T>
LAZULI_SCALAR uint8_t isfinite(T x) {
  if constexpr (kIsFloat<T>) return x - x == T(0);
  return 1;
}
template <class T>
LAZULI_SCALAR uint8_t isinf(T x) {
  return isfinite(x) == 0 && x == x;
}
template <class T>
LAZULI_SCALAR T where(uint8_t condition, T a, T b) {
  return condition ? a : b;
}

template <class T>
LAZULI_SCALAR T mul_add(T a, T b, T c) {
  return add(mul(a, b), c);
}
template <class T>
LAZULI_SCALAR T mul_sub(T a, T b, T c) {
  return sub(mul(a, b), c);
}
template <class T>
LAZULI_SCALAR T sub_mul(T a, T b, T c) {
  return sub(c, mul(a, b));
}
template <class T>
LAZULI_SCALAR T silu_mul(T a, T b) {
  return silu(a) * b;
}
