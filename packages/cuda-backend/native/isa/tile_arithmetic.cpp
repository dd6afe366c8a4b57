#include "isa/tile_parts.h"

namespace lazuli::LAZULI_ISA {
namespace {

LAZULI_TILE_UNARY_A(LAZULI_DEFINE_UNARY)
LAZULI_TILE_UNARY_BOOL(LAZULI_DEFINE_UNARY)
LAZULI_TILE_BINARY_A(LAZULI_DEFINE_BINARY)
LAZULI_TILE_BINARY_BOOL(LAZULI_DEFINE_BINARY)
LAZULI_DEFINE_UNARY(to_bool)
LAZULI_DEFINE_TERNARY(mul_add)
LAZULI_DEFINE_TERNARY(mul_sub)
LAZULI_DEFINE_TERNARY(sub_mul)

template <class T>
void whereTile(void* out, const void* a, const void* b, const void* c, int64_t n) {
  T* r = static_cast<T*>(out);
  const uint8_t* condition = static_cast<const uint8_t*>(a);
  const T* x = static_cast<const T*>(b);
  const T* y = static_cast<const T*>(c);
  LAZULI_TILE_LOOP r[i] = where(condition[i], x[i], y[i]);
}

// A float out of an integer's range gives some value, without a trap.
template <class To, class From>
inline To convert(From x) {
  if constexpr (kIsFloat<From> && sizeof(To) == 1) {
    return static_cast<To>(static_cast<int32_t>(x));
  } else {
    return static_cast<To>(x);
  }
}
template <class From, class To>
void castTile(void* out, const void* a, const void*, const void*, int64_t n) {
  To* r = static_cast<To*>(out);
  const From* x = static_cast<const From*>(a);
  LAZULI_TILE_LOOP r[i] = convert<To>(x[i]);
}
template <class From>
void fillCasts(TileTable& table) {
  TileFn* row = table.cast[laneIndex(From())];
  row[laneIndex(float())] = castTile<From, float>;
  row[laneIndex(double())] = castTile<From, double>;
  row[laneIndex(int32_t())] = castTile<From, int32_t>;
  row[laneIndex(int64_t())] = castTile<From, int64_t>;
  row[laneIndex(uint8_t())] = castTile<From, uint8_t>;
}

}  // namespace

void fillArithmetic(TileTable& table) {
  LAZULI_TILE_UNARY_A(LAZULI_FILL_ALL)
  LAZULI_TILE_UNARY_BOOL(LAZULI_FILL_ALL)
  LAZULI_TILE_BINARY_A(LAZULI_FILL_ALL)
  LAZULI_TILE_BINARY_BOOL(LAZULI_FILL_ALL)
  LAZULI_FILL_ALL(to_bool)
  LAZULI_FILL_ALL(where)
  LAZULI_FILL_ALL(mul_add)
  LAZULI_FILL_ALL(mul_sub)
  LAZULI_FILL_ALL(sub_mul)
  fillCasts<float>(table);
  fillCasts<double>(table);
  fillCasts<int32_t>(table);
  fillCasts<int64_t>(table);
  fillCasts<uint8_t>(table);
}

}  // namespace lazuli::LAZULI_ISA
