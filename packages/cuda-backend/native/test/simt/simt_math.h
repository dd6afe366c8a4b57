#pragma once

// CUDA's mathematical functions that math.h has not. The approximate ones are exact here.

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LAZULI_SIMT_BITS(name, From, To) \
  inline To name(From from) {            \
    To to;                               \
    memcpy(&to, &from, sizeof to);       \
    return to;                           \
  }
LAZULI_SIMT_BITS(__float_as_uint, float, unsigned)
LAZULI_SIMT_BITS(__uint_as_float, unsigned, float)
LAZULI_SIMT_BITS(__float_as_int, float, int)
LAZULI_SIMT_BITS(__int_as_float, int, float)
LAZULI_SIMT_BITS(__double_as_longlong, double, long long)
LAZULI_SIMT_BITS(__longlong_as_double, long long, double)
#undef LAZULI_SIMT_BITS

inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline float __frsqrt_rn(float a) { return static_cast<float>(1 / __builtin_sqrt(a)); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __drcp_rn(double a) { return 1.0 / a; }
inline double __dsqrt_rn(double a) { return __builtin_sqrt(a); }
inline float rsqrtf(float x) { return static_cast<float>(1 / __builtin_sqrt(x)); }
inline double rsqrt(double x) { return 1 / __builtin_sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1) << (31 - i);
  return y;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<long long>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<unsigned>(bytes >> (selector >> i * 4 & 7) * 8 & 0xff) << i * 8;
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  shift &= 31;
  return shift ? high << shift | low >> (32 - shift) : high;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  shift &= 31;
  return shift ? high << (32 - shift) | low >> shift : low;
}

// To an integer: past its ends to the end, NaN to 0 (as on the GPU; undefined in C++).
template <class To, class From>
inline To lazuliSimtSaturate(From x) {
  constexpr To lowest = static_cast<To>(-1) < 0 ? static_cast<To>(1ull << (sizeof(To) * 8 - 1)) : 0;
  constexpr To highest = static_cast<To>(~lowest);
  if (x != x) return 0;
  if (x <= static_cast<From>(lowest)) return lowest;
  return x >= static_cast<From>(highest) ? highest : static_cast<To>(x);
}
inline int __float2int_rn(float x) { return lazuliSimtSaturate<int>(rintf(x)); }
inline int __float2int_rz(float x) { return lazuliSimtSaturate<int>(truncf(x)); }
inline int __float2int_rd(float x) { return lazuliSimtSaturate<int>(floorf(x)); }
inline int __float2int_ru(float x) { return lazuliSimtSaturate<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return lazuliSimtSaturate<unsigned>(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return lazuliSimtSaturate<unsigned>(truncf(x)); }
inline long long __float2ll_rn(float x) { return lazuliSimtSaturate<long long>(rintf(x)); }
inline long long __float2ll_rz(float x) { return lazuliSimtSaturate<long long>(truncf(x)); }
inline int __double2int_rn(double x) { return lazuliSimtSaturate<int>(rint(x)); }
inline int __double2int_rz(double x) { return lazuliSimtSaturate<int>(trunc(x)); }
inline long long __double2ll_rn(double x) { return lazuliSimtSaturate<long long>(rint(x)); }
inline long long __double2ll_rz(double x) { return lazuliSimtSaturate<long long>(trunc(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

#define LAZULI_SIMT_MIN_MAX(T)                     \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
LAZULI_SIMT_MIN_MAX(int)
LAZULI_SIMT_MIN_MAX(unsigned)
LAZULI_SIMT_MIN_MAX(long)
LAZULI_SIMT_MIN_MAX(unsigned long)
LAZULI_SIMT_MIN_MAX(long long)
LAZULI_SIMT_MIN_MAX(unsigned long long)
#undef LAZULI_SIMT_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
