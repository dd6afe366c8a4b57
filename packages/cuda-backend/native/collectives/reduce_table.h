#pragma once

#include <stdint.h>

#include <cstddef>

#include "isa.h"

namespace lazuli {

/// to[i] = members[0][i] combined with members[1][i] and so on, in this order; each member's elements begin
/// `offset` bytes into its memory. `to` may be where a member's elements are. By ReduceKind and DType; null
/// for sums and products of bool.
struct ReduceTable {
  using Combine = void (*)(const std::byte* const* members, size_t count, size_t offset, void* to, int64_t n);
  Combine combine[4][8];
};
LAZULI_DECLARE_ISA(ReduceTable, reduceTable)

}  // namespace lazuli
