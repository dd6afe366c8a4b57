#pragma once

#include <stdint.h>

#include "kernels/tile.h"

namespace lazuli::LAZULI_ISA {

// Each needs the one before it.
// clang-format off
#include "kernels/scalar_math.h"
#include "kernels/scalar_half.h"
#include "kernels/scalar.h"
// clang-format on

// Each fills its part of the table, in a translation unit of its own.
void fillArithmetic(TileTable& table);
void fillMath(TileTable& table);
void fillMove(TileTable& table);
void fillRandom(TileTable& table);
void fillReduce(TileTable& table);

/// Operands may be the result tile itself, never overlap it otherwise.
#define LAZULI_TILE_LOOP _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++)

inline constexpr int laneIndex(float) { return 0; }
inline constexpr int laneIndex(double) { return 1; }
inline constexpr int laneIndex(int32_t) { return 2; }
inline constexpr int laneIndex(int64_t) { return 3; }
inline constexpr int laneIndex(uint8_t) { return 4; }

#define LAZULI_DEFINE_UNARY(name)                                                  \
  template <class T>                                                               \
  void name##Tile(void* out, const void* a, const void*, const void*, int64_t n) { \
    using R = decltype(name(T()));                                                 \
    R* r = static_cast<R*>(out);                                                   \
    const T* x = static_cast<const T*>(a);                                         \
    LAZULI_TILE_LOOP r[i] = name(x[i]);                                            \
  }
#define LAZULI_DEFINE_BINARY(name)                                                   \
  template <class T>                                                                 \
  void name##Tile(void* out, const void* a, const void* b, const void*, int64_t n) { \
    using R = decltype(name(T(), T()));                                              \
    R* r = static_cast<R*>(out);                                                     \
    const T* x = static_cast<const T*>(a);                                           \
    const T* y = static_cast<const T*>(b);                                           \
    LAZULI_TILE_LOOP r[i] = name(x[i], y[i]);                                        \
  }
#define LAZULI_DEFINE_TERNARY(name)                                                    \
  template <class T>                                                                   \
  void name##Tile(void* out, const void* a, const void* b, const void* c, int64_t n) { \
    T* r = static_cast<T*>(out);                                                       \
    const T* x = static_cast<const T*>(a);                                             \
    const T* y = static_cast<const T*>(b);                                             \
    const T* z = static_cast<const T*>(c);                                             \
    LAZULI_TILE_LOOP r[i] = name(x[i], y[i], z[i]);                                    \
  }
#define LAZULI_FILL(name, T) table.op[static_cast<int>(TileOp::name)][laneIndex(T())] = name##Tile<T>;
#define LAZULI_FILL_FLOAT(name) LAZULI_FILL(name, float) LAZULI_FILL(name, double)
#define LAZULI_FILL_ALL(name) \
  LAZULI_FILL_FLOAT(name) LAZULI_FILL(name, int32_t) LAZULI_FILL(name, int64_t) LAZULI_FILL(name, uint8_t)

}  // namespace lazuli::LAZULI_ISA
