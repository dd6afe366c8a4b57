#pragma once

// Elementary functions as scalar bodies. Included inside a namespace (isa.h); needs <stdint.h> before it.
//
// The float32 bodies have no branches and no calls, so that a loop over them becomes vector code. They are
// within 2.5 ulp everywhere, subnormals included, and keep NaN and infinities. Polynomials are least-maximum
// fits of the relative error, found by iteratively reweighted least squares. Float64 goes to the C library.

// How the bodies are declared, and what the C library's functions are called: GCC's builtins are vectorised
// and folded; device compilers have the functions alone.
#if defined(__CUDACC__)
#define LAZULI_SCALAR __device__ __forceinline__
#define LAZULI_LIBM(name) ::name
#else
#define LAZULI_SCALAR inline
#define LAZULI_LIBM(name) __builtin_##name
#endif

inline constexpr float kInfinity = __builtin_bit_cast(float, 0x7f800000u);
inline constexpr float kNaN = __builtin_bit_cast(float, 0x7fc00000u);

LAZULI_SCALAR uint32_t bitsOf(float x) { return __builtin_bit_cast(uint32_t, x); }
LAZULI_SCALAR float floatOf(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// Added to a float32 of magnitude below 2^22, rounds it to the nearest integer, which the low mantissa bits
// then hold.
inline constexpr float kRoundToInteger = 0x1.8p23f;
inline constexpr float kLog2E = 0x1.715476p+0f;
// ln 2 in two parts: the first has 16 bits, so that its product with an exponent is exact.
inline constexpr float kLn2High = 0x1.62e4p-1f;
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;

/// e^r - 1 for |r| <= ln(2) / 2: r + r^2 q(r).
LAZULI_SCALAR float expm1Reduced(float r) {
  float q = 0x1.6a215ap-10f;
  q = q * r + 0x1.123b9ap-7f;
  q = q * r + 0x1.5558fcp-5f;
  q = q * r + 0x1.55549p-3f;
  q = q * r + 0x1.fffffcp-2f;
  return r + r * r * q;
}

// Results outside the range a body is good for are chosen at its end: a clamp at its start the compiler would
// turn into branches over copies of the body, and those into many more vector instructions.

// kRoundToInteger that leaves n + 254 in the low bits: two biases, for the two factors of 2^n.
inline constexpr float kRoundForPower = kRoundToInteger + 254.0f;

/// p 2^n for n in [-151, 129], where `rounded` is n + kRoundForPower. In two factors: 2^n itself may not be a
/// float, and only the last product rounds.
LAZULI_SCALAR float timesPower(float p, float rounded) {
  const uint32_t bits = bitsOf(rounded), half = bits >> 1;
  return p * floatOf(half << 23) * floatOf((bits - half) << 23);
}

LAZULI_SCALAR float exp_(float x) {
  const float rounded = x * kLog2E + kRoundForPower;
  const float n = rounded - kRoundForPower;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  const float result = timesPower(1.0f + expm1Reduced(r), rounded);
  const float finite = x < -104.0f ? 0.0f : result;
  return x > 89.0f ? kInfinity : finite;
}

LAZULI_SCALAR float exp2_(float x) {
  const float rounded = x + kRoundForPower;
  const float r = (x - (rounded - kRoundForPower)) * 0x1.62e43p-1f;
  const float result = timesPower(1.0f + expm1Reduced(r), rounded);
  const float finite = x < -151.0f ? 0.0f : result;
  return x > 129.0f ? kInfinity : finite;
}

/// For x in [-18, 89].
LAZULI_SCALAR float expm1Body(float x) {
  const float rounded = x * kLog2E + kRoundToInteger;
  const float n = rounded - kRoundToInteger;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  // Half of 2^n (e^r) - 1, so that n = 128 has a factor.
  const float half = floatOf((bitsOf(rounded) << 23) + (126u << 23));
  return 2.0f * (half * expm1Reduced(r) + (half - 0.5f));
}

LAZULI_SCALAR float expm1_(float x) {
  const float result = expm1Body(x);
  const float nonzero = x < -18.0f ? -1.0f : result;
  const float finite = x == 0.0f ? x : nonzero;
  return x > 89.0f ? kInfinity : finite;
}

/// log(m 2^e) where m = 1 + f in [sqrt(1/2), sqrt(2)): f - f^2/2 + f^3 p(f) + e ln 2.
LAZULI_SCALAR float logReduced(float f, float e) {
  float p = 0x1.1b4c8p-4f;
  p = p * f - 0x1.e2fc3ap-4f;
  p = p * f + 0x1.e65632p-4f;
  p = p * f - 0x1.fb409ap-4f;
  p = p * f + 0x1.23323cp-3f;
  p = p * f - 0x1.5562fp-3f;
  p = p * f + 0x1.99a54cp-3f;
  p = p * f - 0x1.ffffeep-3f;
  p = p * f + 0x1.555546p-2f;
  const float f2 = f * f;
  const float tail = f * f2 * p - 0.5f * f2 + e * kLn2Low;
  return e * kLn2High + (f + tail);
}

struct Exponent {
  float mantissa, exponent;  // mantissa in [sqrt(1/2), sqrt(2))
};
LAZULI_SCALAR Exponent splitExponent(float x) {
  const bool subnormal = x < 0x1p-126f;
  const uint32_t offset = 0x3f3504f3u;  // sqrt(1/2)
  const uint32_t bits = bitsOf(subnormal ? x * 0x1p23f : x) - offset;
  const float e = static_cast<float>(static_cast<int32_t>(bits) >> 23);
  return {floatOf((bits & 0x007fffffu) + offset), subnormal ? e - 23.0f : e};
}

/// The result of a logarithm of x outside (0, inf).
LAZULI_SCALAR float logEdge(float x) {
  const float notPositive = x == 0.0f ? -kInfinity : kNaN;
  return x <= 0.0f ? notPositive : x;
}

LAZULI_SCALAR float log_(float x) {
  const Exponent s = splitExponent(x);
  const float result = logReduced(s.mantissa - 1.0f, s.exponent);
  return (x > 0.0f) & (x < kInfinity) ? result : logEdge(x);
}

LAZULI_SCALAR float log2_(float x) {
  const Exponent s = splitExponent(x);
  const float result = s.exponent + logReduced(s.mantissa - 1.0f, 0.0f) * kLog2E;
  return (x > 0.0f) & (x < kInfinity) ? result : logEdge(x);
}

LAZULI_SCALAR float log1p_(float x) {
  const float u = 1.0f + x;
  const Exponent s = splitExponent(u);
  // What rounding took from u, in units of the mantissa.
  const float lost = x >= 1.0f ? 1.0f - (u - x) : x - (u - 1.0f);
  const int32_t e = static_cast<int32_t>(s.exponent);
  const float unit = floatOf(static_cast<uint32_t>(127 - (e > 126 ? 126 : e)) << 23);
  const float result = logReduced((s.mantissa - 1.0f) + lost * unit, s.exponent);
  const float finite = x == 0.0f ? x : result;
  return (u > 0.0f) & (x < kInfinity) ? finite : logEdge(u);
}

LAZULI_SCALAR float tanh_(float x) {
  const float a = LAZULI_LIBM(fabsf)(x);
  const float t = expm1Body(2.0f * a);
  const float size = t / (t + 2.0f);
  return LAZULI_LIBM(copysignf)(a > 10.0f ? 1.0f : size, x);
}

LAZULI_SCALAR float sigmoid_(float x) {
  const float e = exp_(-LAZULI_LIBM(fabsf)(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

LAZULI_SCALAR float erf_(float x) {
  const float a = LAZULI_LIBM(fabsf)(x);
  const float x2 = x * x;
  float p = 0x1.496a32p-14f;  // below 1: x + x p(x^2)
  p = p * x2 - 0x1.a3f7p-11f;
  p = p * x2 + 0x1.5405b2p-8f;
  p = p * x2 - 0x1.b7f90ep-6f;
  p = p * x2 + 0x1.ce2cf8p-4f;
  p = p * x2 - 0x1.81273ep-2f;
  p = p * x2 + 0x1.06eba8p-3f;
  float q = 0x1.67cbdp-16f;  // from 1 to 4, where erf rounds to 1: 1 - e^-q(a)
  q = q * a - 0x1.cbd4d8p-12f;
  q = q * a + 0x1.12a6dap-8f;
  q = q * a - 0x1.9c6a32p-6f;
  q = q * a + 0x1.bbd95p-4f;
  q = q * a + 0x1.443c48p-1f;
  q = q * a + 0x1.212a52p+0f;
  q = q * a - 0x1.7ea51ep-13f;
  const float rest = a > 4.0f ? 0.0f : exp_(-q);
  const float large = LAZULI_LIBM(copysignf)(1.0f - rest, x);
  const float small = x + x * p;
  return a < 1.0f ? small : large;
}

/// 2/pi for float32 of exponents 26 g to 26 g + 25 (g = 0: all below 26), less those of its bits that give
/// only multiples of 4 quadrants. Products of `high` and `mid`, of 29 bits each, with a float32 are exact in
/// float64. (Payne and Hanek's reduction, 1983, in float64.)
struct TwoOverPi {
  double high, mid, low;
};
constexpr TwoOverPi twoOverPi(int g) {
  constexpr uint32_t words[6] = {0xa2f9836eu, 0x4e441529u, 0xfc2757d1u,
                                 0xf534ddc0u, 0xdb629599u, 0x3c439041u};
  const int first = g == 0 ? 0 : 26 * g - 25;
  double weight = 1;
  for (int bit = 0; bit < first; ++bit) weight /= 2;
  double parts[3] = {0, 0, 0};
  for (int i = 0; i < 29 + 29 + 53; ++i) {
    const int bit = first + i;  // weighs 2^-(bit + 1)
    weight /= 2;
    if (words[bit / 32] >> (31 - bit % 32) & 1) parts[i < 29 ? 0 : i < 58 ? 1 : 2] += weight;
  }
  return {parts[0], parts[1], parts[2]};
}
template <double TwoOverPi::*part>
LAZULI_SCALAR double chooseTwoOverPi(double magnitude) {
  constexpr TwoOverPi t0 = twoOverPi(0), t1 = twoOverPi(1), t2 = twoOverPi(2), t3 = twoOverPi(3),
                      t4 = twoOverPi(4);
  double chosen = magnitude < 0x1p104 ? t3.*part : t4.*part;
  chosen = magnitude < 0x1p78 ? t2.*part : chosen;
  chosen = magnitude < 0x1p52 ? t1.*part : chosen;
  return magnitude < 0x1p26 ? t0.*part : chosen;
}

LAZULI_SCALAR double nearest(double x) { return (x + 0x1.8p52) - 0x1.8p52; }
LAZULI_SCALAR double modulo4(double x) { return x - 4.0 * nearest(x * 0.25); }

/// sin(x + shift quarter turns).
LAZULI_SCALAR float sinShifted(float x, uint32_t shift) {
  const double wide = x;
  const double magnitude = LAZULI_LIBM(fabs)(wide);
  const double high = modulo4(wide * chooseTwoOverPi<&TwoOverPi::high>(magnitude));
  const double mid = modulo4(wide * chooseTwoOverPi<&TwoOverPi::mid>(magnitude));
  const double low = wide * chooseTwoOverPi<&TwoOverPi::low>(magnitude);
  const double n = nearest(high + mid + low);
  const double part = ((high - n) + mid) + low;
  const uint32_t quadrant = bitsOf(static_cast<float>(n) + kRoundToInteger) + shift;
  const float r = static_cast<float>(part * 0x1.921fb54442d18p+0);
  const float r2 = r * r;
  const float sine = r + r * r2 * ((-0x1.994cfap-13f * r2 + 0x1.11075cp-7f) * r2 - 0x1.555546p-3f);
  const float cosine =
      1.0f - 0.5f * r2 + r2 * r2 * ((0x1.9a00cep-16f * r2 - 0x1.6c0c86p-10f) * r2 + 0x1.55554ap-5f);
  const uint32_t odd = 0u - (quadrant & 1u);  // as bits: a choice of values would become a branch
  return floatOf(((bitsOf(cosine) & odd) | (bitsOf(sine) & ~odd)) ^ (quadrant & 2u) << 30);
}

LAZULI_SCALAR float sin_(float x) { return x == 0.0f ? x : sinShifted(x, 0); }
LAZULI_SCALAR float cos_(float x) { return sinShifted(x, 1); }

LAZULI_SCALAR double exp_(double x) { return LAZULI_LIBM(exp)(x); }
LAZULI_SCALAR double exp2_(double x) { return LAZULI_LIBM(exp2)(x); }
LAZULI_SCALAR double expm1_(double x) { return LAZULI_LIBM(expm1)(x); }
LAZULI_SCALAR double log_(double x) { return LAZULI_LIBM(log)(x); }
LAZULI_SCALAR double log2_(double x) { return LAZULI_LIBM(log2)(x); }
LAZULI_SCALAR double log1p_(double x) { return LAZULI_LIBM(log1p)(x); }
LAZULI_SCALAR double tanh_(double x) { return LAZULI_LIBM(tanh)(x); }
LAZULI_SCALAR double sigmoid_(double x) { return 1.0 / (1.0 + LAZULI_LIBM(exp)(-x)); }
LAZULI_SCALAR double erf_(double x) { return LAZULI_LIBM(erf)(x); }
LAZULI_SCALAR double sin_(double x) { return LAZULI_LIBM(sin)(x); }
LAZULI_SCALAR double cos_(double x) { return LAZULI_LIBM(cos)(x); }
