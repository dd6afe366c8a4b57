#include "isa/tile_parts.h"
#include "isa/transpose.h"

namespace lazuli::LAZULI_ISA {

// What lies in memory to its lane and back, as scalar_half.h has it for floats; integers and bytes are their
// own lane.
inline int32_t load(int32_t x) { return x; }
inline int64_t load(int64_t x) { return x; }
inline uint8_t load(uint8_t x) { return x; }
inline void store(int32_t* to, int32_t x) { *to = x; }
inline void store(int64_t* to, int64_t x) { *to = x; }
inline void store(uint8_t* to, uint8_t x) { *to = x; }

namespace {

template <class T>
void loadTile(void* out, const void* from, int64_t stride, int64_t n) {
  using L = decltype(load(T()));
  L* r = static_cast<L*>(out);
  const T* x = static_cast<const T*>(from);
  if (stride == 1) {
    LAZULI_TILE_LOOP r[i] = load(x[i]);
  } else if (stride == 0) {
    const L value = load(x[0]);
    LAZULI_TILE_LOOP r[i] = value;
  } else {
    LAZULI_TILE_LOOP r[i] = load(x[i * stride]);
  }
}

template <class T>
void storeTile(void* to, int64_t stride, const void* tile, int64_t n) {
  using L = decltype(load(T()));
  T* r = static_cast<T*>(to);
  const L* x = static_cast<const L*>(tile);
  if (stride == 1) {
    LAZULI_TILE_LOOP store(r + i, x[i]);
  } else {
    LAZULI_TILE_LOOP store(r + i * stride, x[i]);
  }
}

template <class T>
inline constexpr bool kIsOwnLane = sizeof(T) == sizeof(decltype(load(T())));

template <class T>
void loadBlock(void* out, const void* from, int64_t rowStride, int64_t columnStride, int64_t rows,
               int64_t columns) {
  using L = decltype(load(T()));
  using U = typename Raw<sizeof(T)>::Type;
  if (rowStride != 1) {
    for (int64_t i = 0; i < rows; i++)
      loadTile<T>(static_cast<L*>(out) + i * columns, static_cast<const T*>(from) + i * rowStride,
                  columnStride, columns);
  } else if (kIsOwnLane<T>) {
    transposeRaw(static_cast<U*>(out), columns, static_cast<const U*>(from), columnStride, rows, columns);
  } else {
    U turned[kTile];
    transposeRaw(turned, columns, static_cast<const U*>(from), columnStride, rows, columns);
    loadTile<T>(out, turned, 1, rows * columns);
  }
}

template <class T>
void storeBlock(void* to, int64_t rowStride, int64_t columnStride, const void* tile, int64_t rows,
                int64_t columns) {
  using L = decltype(load(T()));
  using U = typename Raw<sizeof(T)>::Type;
  if (rowStride != 1) {
    for (int64_t i = 0; i < rows; i++)
      storeTile<T>(static_cast<T*>(to) + i * rowStride, columnStride,
                   static_cast<const L*>(tile) + i * columns, columns);
  } else if (kIsOwnLane<T>) {
    transposeRaw(static_cast<U*>(to), columnStride, static_cast<const U*>(tile), columns, columns, rows);
  } else {
    U rounded[kTile];
    storeTile<T>(rounded, 1, tile, rows * columns);
    transposeRaw(static_cast<U*>(to), columnStride, static_cast<const U*>(rounded), columns, columns, rows);
  }
}

template <class Half>
void roundTile(void* out, const void* a, const void*, const void*, int64_t n) {
  float* r = static_cast<float*>(out);
  const float* x = static_cast<const float*>(a);
  LAZULI_TILE_LOOP {
    Half half;
    store(&half, x[i]);
    r[i] = load(half);
  }
}

void indexTile(void* out, int64_t first, int64_t step, int64_t n) {
  int64_t* r = static_cast<int64_t*>(out);
  LAZULI_TILE_LOOP r[i] = first + i * step;
}

template <class T>
void fillType(TileTable& table, DType dtype) {
  const int i = static_cast<int>(dtype);
  table.load[i] = loadTile<T>;
  table.store[i] = storeTile<T>;
  table.loadBlock[i] = loadBlock<T>;
  table.storeBlock[i] = storeBlock<T>;
}

}  // namespace

void fillMove(TileTable& table) {
  fillType<float>(table, DType::f32);
  fillType<double>(table, DType::f64);
  fillType<BFloat16>(table, DType::bf16);
  fillType<Float16>(table, DType::f16);
  fillType<int32_t>(table, DType::i32);
  fillType<int64_t>(table, DType::i64);
  fillType<uint8_t>(table, DType::u8);
  fillType<uint8_t>(table, DType::boolean);
  table.op[static_cast<int>(TileOp::round_bf16)][0] = roundTile<BFloat16>;
  table.op[static_cast<int>(TileOp::round_f16)][0] = roundTile<Float16>;
  table.index = indexTile;
}

}  // namespace lazuli::LAZULI_ISA
