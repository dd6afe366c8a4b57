#pragma once

// What printed fused kernels (cuda/fused_print.cpp) are made of: the ops' scalar bodies, elements as they lie
// in memory, vectors of them, and reductions. NVRTC gets this text with every kernel.

#include "simt.h"

namespace lazuli::fused {

// Each needs the one before it.
// clang-format off
#include "kernels/scalar_math.h"
#include "kernels/scalar_half.h"
#include "kernels/scalar.h"
#include "kernels/scalar_random.h"
// clang-format on

/// A block of threads in its part's grid.
struct Block {
  uint32_t x, y;
};

// ---- Elements: what lies in memory to its lane (kernels/tile.h) and back, rounded to nearest even.

template <class T>
LAZULI_DEVICE T laneOf(T x) {
  return x;
}
template <class T>
struct Memory {
  template <class L>
  static LAZULI_DEVICE T of(L x) {
    return x;
  }
};
#if defined(LAZULI_SIMT)
LAZULI_DEVICE float laneOf(BFloat16 x) { return load(x); }
LAZULI_DEVICE float laneOf(Float16 x) { return load(x); }
template <>
struct Memory<BFloat16> {
  static BFloat16 of(float x) {
    BFloat16 half;
    store(&half, x);
    return half;
  }
};
template <>
struct Memory<Float16> {
  static Float16 of(float x) {
    Float16 half;
    store(&half, x);
    return half;
  }
};
#else
LAZULI_DEVICE float laneOf(BFloat16 x) { return floatOf(static_cast<uint32_t>(x.bits) << 16); }
LAZULI_DEVICE float laneOf(Float16 x) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
}
template <>
struct Memory<BFloat16> {
  static LAZULI_DEVICE BFloat16 of(float x) {
    BFloat16 half;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half.bits) : "f"(x));
    return half;
  }
};
template <>
struct Memory<Float16> {
  static LAZULI_DEVICE Float16 of(float x) {
    Float16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(x));
    return half;
  }
};
#endif

LAZULI_DEVICE float round_bf16(float x) { return laneOf(Memory<BFloat16>::of(x)); }
LAZULI_DEVICE float round_f16(float x) { return laneOf(Memory<Float16>::of(x)); }

/// A float out of an integer's range gives some value.
template <class To, class From>
LAZULI_DEVICE To convert(From x) {
  if constexpr (kIsFloat<From> && sizeof(To) == 1) {
    return static_cast<To>(static_cast<int32_t>(x));
  } else {
    return static_cast<To>(x);
  }
}

// ---- Vectors: V elements of memory that one thread holds, moved in pieces of W elements (4, 8 or 16 bytes),
// W = 1: one by one. As words, so that moves of 16 bytes stay such.

template <int bytes>
struct Word {
  using Type = uint32_t;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};

LAZULI_DEVICE void unpack(uint32_t* words, uint32_t x) { words[0] = x; }
LAZULI_DEVICE void unpack(uint32_t* words, uint2 x) {
  words[0] = x.x;
  words[1] = x.y;
}
LAZULI_DEVICE void unpack(uint32_t* words, uint4 x) {
  words[0] = x.x;
  words[1] = x.y;
  words[2] = x.z;
  words[3] = x.w;
}
LAZULI_DEVICE uint32_t packed(const uint32_t* words, uint32_t) { return words[0]; }
LAZULI_DEVICE uint2 packed(const uint32_t* words, uint2) { return make_uint2(words[0], words[1]); }
LAZULI_DEVICE uint4 packed(const uint32_t* words, uint4) {
  return make_uint4(words[0], words[1], words[2], words[3]);
}

template <class T, int V, int W, bool asWords = (sizeof(T) * W >= 4)>
struct Vector {
  static constexpr int kSize = static_cast<int>(sizeof(T));
  static constexpr int kPiece = kSize * W / 4;  // words
  using Piece = typename Word<kSize * W>::Type;
  uint32_t words[V * kSize / 4];

  LAZULI_DEVICE void load(const T* from) {
#pragma unroll
    for (int i = 0; i < V / W; i++) unpack(words + i * kPiece, reinterpret_cast<const Piece*>(from)[i]);
  }
  /// By an instruction of its own: a plain assignment may become stores of single words.
  LAZULI_DEVICE void store(T* to) const {
#pragma unroll
    for (int i = 0; i < V / W; i++)
      __stwb(reinterpret_cast<Piece*>(to) + i, packed(words + i * kPiece, Piece()));
  }
  /// The first `count` elements.
  LAZULI_DEVICE void load(const T* from, int count) {
    if (count >= V) return load(from);
#pragma unroll
    for (int j = 0; j < V; j++)
      if (j < count) set(j, from[j]);
  }
  LAZULI_DEVICE void store(T* to, int count) const {
    if (count >= V) return store(to);
#pragma unroll
    for (int j = 0; j < V; j++)
      if (j < count) to[j] = get(j);
  }
  LAZULI_DEVICE T get(int j) const {
    if constexpr (kSize == 8) {
      return __builtin_bit_cast(T, static_cast<uint64_t>(words[2 * j + 1]) << 32 | words[2 * j]);
    } else if constexpr (kSize == 4) {
      return __builtin_bit_cast(T, words[j]);
    } else if constexpr (kSize == 2) {
      return __builtin_bit_cast(T, static_cast<uint16_t>(words[j / 2] >> j % 2 * 16));
    } else {
      return static_cast<T>(words[j / 4] >> j % 4 * 8);
    }
  }
  /// In the order of j.
  LAZULI_DEVICE void set(int j, T x) {
    if constexpr (kSize == 8) {
      const uint64_t bits = __builtin_bit_cast(uint64_t, x);
      words[2 * j] = static_cast<uint32_t>(bits);
      words[2 * j + 1] = static_cast<uint32_t>(bits >> 32);
    } else if constexpr (kSize == 4) {
      words[j] = __builtin_bit_cast(uint32_t, x);
    } else if constexpr (kSize == 2) {
      const uint32_t bits = __builtin_bit_cast(uint16_t, x);
      words[j / 2] = j % 2 == 0 ? bits : words[j / 2] | bits << 16;
    } else {
      const uint32_t bits = static_cast<uint8_t>(x);
      words[j / 4] = j % 4 == 0 ? bits : words[j / 4] | bits << j % 4 * 8;
    }
  }
};

template <class T, int V, int W>
struct Vector<T, V, W, false> {
  T at[V];
  LAZULI_DEVICE void load(const T* from) { load(from, V); }
  LAZULI_DEVICE void store(T* to) const { store(to, V); }
  LAZULI_DEVICE void load(const T* from, int count) {
#pragma unroll
    for (int j = 0; j < V; j++)
      if (j < count) at[j] = from[j];
  }
  LAZULI_DEVICE void store(T* to, int count) const {
#pragma unroll
    for (int j = 0; j < V; j++)
      if (j < count) to[j] = at[j];
  }
  LAZULI_DEVICE T get(int j) const { return at[j]; }
  LAZULI_DEVICE void set(int j, T x) { at[j] = x; }
};

// ---- Random numbers (docs/ir.md). Neighbouring elements share a counter's four words.

LAZULI_DEVICE uint32_t keyWord(const int64_t* key) {
  const uint64_t word = static_cast<uint64_t>(*key);
  return static_cast<uint32_t>(word ^ word >> 32);
}

template <bool normal>
struct Random {
  uint64_t stream;
  uint32_t k0, k1;
  uint64_t counter;  // whose values are here
  bool any;
  float values[4];

  LAZULI_DEVICE Random(const int64_t* key, int64_t keyStride, uint64_t stream)
      : stream(stream), k0(keyWord(key)), k1(keyWord(key + keyStride)), counter(0), any(false) {}

  LAZULI_DEVICE float of(uint64_t element) {
    if (!any || element >> 2 != counter) {
      any = true;
      counter = element >> 2;
      const RandomWords made = philox(counter, stream, k0, k1);
      if constexpr (normal) {
        const NormalPair a = normalOf(made.words[0], made.words[1]),
                         b = normalOf(made.words[2], made.words[3]);
        values[0] = a.first, values[1] = a.second, values[2] = b.first, values[3] = b.second;
      } else {
#pragma unroll
        for (int i = 0; i < 4; i++) values[i] = uniformOf(made.words[i]);
      }
    }
    // Not values[element & 3]: an array that is indexed lies in memory.
    const uint32_t at = static_cast<uint32_t>(element) & 3u;
    const float low = at & 1u ? values[1] : values[0], high = at & 1u ? values[3] : values[2];
    return at & 2u ? high : low;
  }
};

}  // namespace lazuli::fused
