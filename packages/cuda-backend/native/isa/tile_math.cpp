#include "isa/tile_parts.h"

namespace lazuli::LAZULI_ISA {
namespace {

LAZULI_TILE_UNARY_F(LAZULI_DEFINE_UNARY)
LAZULI_TILE_BINARY_F(LAZULI_DEFINE_BINARY)
LAZULI_DEFINE_UNARY(gelu_erf)
LAZULI_DEFINE_UNARY(gelu_tanh)
LAZULI_DEFINE_BINARY(gelu_erf_grad)
LAZULI_DEFINE_BINARY(gelu_tanh_grad)
LAZULI_DEFINE_BINARY(silu_mul)

}  // namespace

void fillMath(TileTable& table) {
  LAZULI_TILE_UNARY_F(LAZULI_FILL_FLOAT)
  LAZULI_TILE_BINARY_F(LAZULI_FILL_FLOAT)
  LAZULI_FILL_FLOAT(gelu_erf)
  LAZULI_FILL_FLOAT(gelu_tanh)
  LAZULI_FILL_FLOAT(gelu_erf_grad)
  LAZULI_FILL_FLOAT(gelu_tanh_grad)
  LAZULI_FILL_FLOAT(silu_mul)
}

}  // namespace lazuli::LAZULI_ISA
