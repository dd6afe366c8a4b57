#pragma once

#include "isa.h"
#include "types.h"

namespace lazuli {

// The tile interpreter's instruction set: vector loops over tiles of up to kTile elements that lie in L1. A
// tile holds one of five lane types; bfloat16 and float16 become float32 on load and are rounded on store.
// One table per instruction set, filled by isa/tile_*.cpp.

inline constexpr int64_t kTile = 256;  // elements; 512 and more leave L1 to memory traffic and are slower

enum class Lane : uint8_t { f32, f64, i32, i64, u8 };
inline constexpr int kLanes = 5;
inline constexpr size_t kLaneBytes[kLanes] = {4, 8, 4, 8, 1};

inline constexpr Lane laneOf(DType dtype) {
  constexpr Lane lanes[kDTypes] = {Lane::f32, Lane::f64, Lane::f32, Lane::f32,
                                   Lane::i32, Lane::i64, Lane::u8,  Lane::u8};
  return lanes[static_cast<int>(dtype)];
}
inline constexpr size_t laneBytes(Lane lane) { return kLaneBytes[static_cast<int>(lane)]; }

// Names that are also IR ops map one to one (fuse_emit.cpp). A(numeric lanes), F(float lanes).
#define LAZULI_TILE_UNARY_A(X) X(neg) X(abs) X(sign) X(square) X(relu) X(floor) X(ceil) X(round) X(trunc)
#define LAZULI_TILE_UNARY_POWERS(X) X(exp) X(exp2) X(expm1) X(log) X(log1p) X(log2) X(sqrt) X(rsqrt)
#define LAZULI_TILE_UNARY_ANGLES(X) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) X(sinh) X(cosh)
#define LAZULI_TILE_UNARY_SHAPES(X) X(tanh) X(sigmoid) X(erf) X(reciprocal) X(silu) X(softplus)
#define LAZULI_TILE_UNARY_F(X) \
  LAZULI_TILE_UNARY_POWERS(X) LAZULI_TILE_UNARY_ANGLES(X) LAZULI_TILE_UNARY_SHAPES(X)
#define LAZULI_TILE_UNARY_BOOL(X) X(logical_not) X(isnan) X(isinf) X(isfinite)
#define LAZULI_TILE_BINARY_A(X) \
  X(add) X(sub) X(mul) X(div) X(pow) X(maximum) X(minimum) X(remainder) X(floor_divide)
#define LAZULI_TILE_BINARY_F(X) X(atan2) X(silu_grad)
#define LAZULI_TILE_BINARY_BOOL(X) \
  X(eq) X(ne) X(lt) X(le) X(gt) X(ge) X(logical_and) X(logical_or) X(logical_xor)

enum class TileOp : uint8_t {
#define LAZULI_TILE_NAME(name) name,
  LAZULI_TILE_UNARY_A(LAZULI_TILE_NAME) LAZULI_TILE_UNARY_F(LAZULI_TILE_NAME)
      LAZULI_TILE_UNARY_BOOL(LAZULI_TILE_NAME) LAZULI_TILE_BINARY_A(LAZULI_TILE_NAME)
          LAZULI_TILE_BINARY_F(LAZULI_TILE_NAME) LAZULI_TILE_BINARY_BOOL(LAZULI_TILE_NAME)
#undef LAZULI_TILE_NAME
              where,  // a: u8 condition, b, c
  gelu_erf,
  gelu_tanh,
  gelu_erf_grad,
  gelu_tanh_grad,
  to_bool,  // != 0
  round_bf16,
  round_f16,  // to that type's values
  // Pairs that one pass does: a * b + c, a * b - c, c - a * b, silu(a) * b.
  mul_add,
  mul_sub,
  sub_mul,
  silu_mul,
  count
};
inline constexpr int kTileOps = static_cast<int>(TileOp::count);
const char* name(TileOp op);

/// out[i] = op(a[i], b[i], c[i]) for i < n. `out` may be an operand of the same lane size.
using TileFn = void (*)(void* out, const void* a, const void* b, const void* c, int64_t n);

enum class ReduceKind : uint8_t { sum, prod, max, min, argmax, argmin };
inline constexpr int kReduceKinds = 6;

/// What one output's reduction has seen so far: the accumulator of the lane's wide type (float64 for sums and
/// products of floats, else the lane type) and, for argmax and argmin, where it was seen (-1: nothing yet).
struct alignas(16) RowState {
  unsigned char value[8];
  int64_t index;
};

/// Reductions of one kind and lane. Rows: elements of a tile reduce into one state. Columns: tile element i
/// into accumulator i, which lies in two arrays: `lane` accumulators that take one row after another, and a
/// wide state that these are flushed into after at most kFlushRows rows, so that float32 sums stay accurate.
struct ReduceTable {
  void (*init)(RowState* state);
  void (*row)(RowState* state, const void* tile, int64_t n, int64_t firstIndex);
  void (*combine)(RowState* into, const RowState* from);
  /// The lane value (or the int32 index) of n states, `stride` states apart.
  void (*finish)(void* out, const RowState* states, int64_t stride, int64_t n);
  void (*columnInit)(void* lane, int32_t* index, int64_t n);
  void (*column)(void* lane, int32_t* index, const void* tile, int64_t n, int32_t position);
  void (*flush)(RowState* states, const void* lane, const int32_t* index, int64_t n);
};
inline constexpr int64_t kFlushRows = 64;

struct RandomKey {
  uint32_t words[2];
  uint64_t stream;
  uint64_t first;  // the number of element 0
};

struct TileTable {
  TileFn op[kTileOps][kLanes];  // by the operands' lane (where: of b and c); null: not for this lane
  TileFn cast[kLanes][kLanes];  // from, to
  /// n elements `stride` apart to a tile; 0 splats.
  void (*load[kDTypes])(void* out, const void* from, int64_t stride, int64_t n);
  /// A tile to n elements `stride` apart, rounded.
  void (*store[kDTypes])(void* to, int64_t stride, const void* tile, int64_t n);
  /// out[r * columns + c] = from[r * rowStride + c * columnStride]
  void (*loadBlock[kDTypes])(void* out, const void* from, int64_t rowStride, int64_t columnStride,
                             int64_t rows, int64_t columns);
  /// to[r * rowStride + c * columnStride] = tile[r * columns + c]
  void (*storeBlock[kDTypes])(void* to, int64_t rowStride, int64_t columnStride, const void* tile,
                              int64_t rows, int64_t columns);
  /// int64 first + i * step
  void (*index)(void* out, int64_t first, int64_t step, int64_t n);
  /// float32 random values of elements key.first + first + i * step (docs/ir.md)
  void (*uniform)(void* out, int64_t first, int64_t step, int64_t n, const RandomKey& key);
  void (*normal)(void* out, int64_t first, int64_t step, int64_t n, const RandomKey& key);
  ReduceTable reduce[kReduceKinds][kLanes];
};

LAZULI_DECLARE_ISA(TileTable, tileTable)

}  // namespace lazuli
