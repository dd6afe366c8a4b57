#pragma once

#include <span>
#include <variant>

#include "generated/ops.h"
#include "types.h"

namespace lazuli {

using ValueId = uint32_t;
/// Dimensions a value may have, and elements (with every dim of 0 counted as 1): decode refuses more, so that
/// products of dims and sizes in bytes never overflow.
inline constexpr size_t kMaxRank = 16;
inline constexpr int64_t kMaxElements = int64_t{1} << 48;
/// int, bool, enum and dtype attributes are int64; ints are a vector; bytes a string of bytes.
using Attr = std::variant<int64_t, double, std::vector<int64_t>, std::vector<uint8_t>>;

struct Node {
  Op op;
  std::vector<ValueId> operands;
  std::vector<ValueId> results;
  std::vector<Attr> attrs;

  /// Attributes by position: the constants `attr::<op>::<name>` of generated/ops.h.
  int64_t integer(size_t attr) const { return std::get<int64_t>(attrs[attr]); }
  bool flag(size_t attr) const { return integer(attr) != 0; }
  double number(size_t attr) const { return std::get<double>(attrs[attr]); }
  const std::vector<int64_t>& ints(size_t attr) const { return std::get<std::vector<int64_t>>(attrs[attr]); }
  const std::vector<uint8_t>& bytes(size_t attr) const { return std::get<std::vector<uint8_t>>(attrs[attr]); }
};

/// A decoded, validated program. Values are numbered: inputs first, then the results of the nodes in order.
/// Nodes that are only names (`input`, `result`, `detach`) are resolved away: operands point at the value
/// itself.
struct Program {
  struct Value {
    TensorType type;
    int32_t node = -1;  // producer; -1 for inputs
    int32_t result = 0;
  };
  std::vector<Value> values;
  uint32_t inputCount = 0;
  std::vector<bool> donated;  // by input
  std::vector<Node> nodes;  // names stay, with no operands and results, so that positions match TypeScript's
  std::vector<ValueId> outputs;

  const TensorType& type(ValueId value) const { return values[value].type; }
};

/// Decodes and validates words (docs/ir.md). Every count, reference, opcode, dtype, shape and attribute is
/// checked, and every node's result types are re-derived or checked against its operands, so that no later
/// stage can index out of range whatever the words say. Throws ProgramError.
Program decode(std::span<const uint32_t> words);

}  // namespace lazuli
