#include "isa/tile_parts.h"

namespace lazuli::LAZULI_ISA {
namespace {

struct Filled {
  TileTable table{};
  Filled() {
    fillArithmetic(table);
    fillMath(table);
    fillMove(table);
    fillRandom(table);
    fillReduce(table);
  }
};

}  // namespace

const TileTable& tileTable() {
  static const Filled filled;
  return filled.table;
}

}  // namespace lazuli::LAZULI_ISA
