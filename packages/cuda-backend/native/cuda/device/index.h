#pragma once

#include "fault.h"
#include "strided.h"

namespace lazuli::cuda {

/// Indices into a dim of `size`, and where a bad one is told of.
struct Indices {
  const void* data;
  int wide;  // int64, else int32
  long long size;
  Fault* fault;
  unsigned step;
};

// Units that a thread moves.
inline constexpr int kIndexUnits = 4;

/// x as [outer, size, units], the result as [outer, n, units], a unit being what the kernel's name says.
struct IndexSelectArgs {
  const void* x;
  void* y;
  Indices indices;
  long long outer, n, units;
};

/// y[i] = x[offset of i, that along the dim being the index's]
struct GatherArgs {
  const void* x;
  void* y;
  Indices indices;
  Strided at;        // the index's shape, with x's strides, and 0 along the dim
  long long stride;  // of x along the dim
  long long n;
};

/// One value everywhere.
struct IndexFillArgs {
  const void* value;
  void* to;
  long long n;
};

/// The rows that updates go to, by their number; `size` for none.
struct IndexKeysArgs {
  Indices indices;
  Strided at;        // scatter_add: of the index, with the base's strides, and 0 along the dim
  long long stride;  // of the base along the dim; index_add: 1
  long long n, size;
  unsigned* keys;
  unsigned* order;
};

/// out[outer, key] = base[outer, key] + the updates [outer, n, inner] that go there, in their order.
struct IndexSumArgs {
  const unsigned* keys;  // sorted
  const unsigned* order;
  const void* base;
  const void* updates;
  void* out;
  int uniform;  // base is one value
  int columns;  // lanes of a warp across the columns: a power of two
  long long outer, size, n, inner;
};

}  // namespace lazuli::cuda
