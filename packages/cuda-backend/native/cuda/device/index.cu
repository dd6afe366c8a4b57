#include "index.h"
#include "walk.h"

namespace lazuli::cuda {

/// Index `i`, or -1 and a fault.
LAZULI_DEVICE int64_t checkedIndex(const Indices& indices, int64_t i) {
  const int64_t index = indexAt(indices.data, indices.wide, i);
  if (index >= 0 && index < indices.size) return index;
  leaveFault(indices.fault, indices.step, index, indices.size, i);
  return -1;
}

/// Elements kIndexUnits of a thread, a block's width apart.
LAZULI_DEVICE int64_t unitOf(int i) {
  return (static_cast<int64_t>(blockIdx.x) * kIndexUnits + i) * static_cast<int>(blockDim.x) + threadIdx.x;
}

template <class Unit>
LAZULI_DEVICE void indexSelect(const IndexSelectArgs& args) {
  const int64_t count = args.outer * args.n * args.units;
  int64_t from[kIndexUnits];
#pragma unroll
  for (int i = 0; i < kIndexUnits; ++i) {
    from[i] = -1;
    if (unitOf(i) >= count) continue;
    const Divided unit = divide(unitOf(i), args.units);
    const Divided row = divide(unit.quotient, args.n);
    const int64_t index = checkedIndex(args.indices, row.rest);
    if (index >= 0) from[i] = (row.quotient * args.indices.size + index) * args.units + unit.rest;
  }
  Unit units[kIndexUnits];
#pragma unroll
  for (int i = 0; i < kIndexUnits; ++i)
    if (from[i] >= 0) units[i] = static_cast<const Unit*>(args.x)[from[i]];
#pragma unroll
  for (int i = 0; i < kIndexUnits; ++i)
    if (from[i] >= 0) static_cast<Unit*>(args.y)[unitOf(i)] = units[i];
}

template <class Unit>
LAZULI_DEVICE void gather(const GatherArgs& args) {
  int64_t from[kIndexUnits];
  bool is[kIndexUnits];
#pragma unroll
  for (int i = 0; i < kIndexUnits; ++i) {
    is[i] = unitOf(i) < args.n;
    if (!is[i]) continue;
    const int64_t index = checkedIndex(args.indices, unitOf(i));
    is[i] = index >= 0;
    from[i] = offsetOf(args.at, unitOf(i)) + index * args.stride;
  }
  Unit units[kIndexUnits];
#pragma unroll
  for (int i = 0; i < kIndexUnits; ++i)
    if (is[i]) units[i] = static_cast<const Unit*>(args.x)[from[i]];
#pragma unroll
  for (int i = 0; i < kIndexUnits; ++i)
    if (is[i]) static_cast<Unit*>(args.y)[unitOf(i)] = units[i];
}

template <class Unit>
LAZULI_DEVICE void indexFill(const IndexFillArgs& args) {
  constexpr int kCount = 16 / static_cast<int>(sizeof(Unit));
  Elements<Unit, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.at[i] = *static_cast<const Unit*>(args.value);
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * static_cast<int>(blockDim.x) + threadIdx.x) * kCount;
  if (first < args.n)
    storeElements(static_cast<Unit*>(args.to), first, static_cast<int64_t>(args.n), true, pack);
}

LAZULI_KERNEL(lazuli_index_select_16, IndexSelectArgs, 256) { indexSelect<uint4>(args); }
#define LAZULI_INDEX(bytes, Unit)                                                               \
  LAZULI_KERNEL(lazuli_index_select_##bytes, IndexSelectArgs, 256) { indexSelect<Unit>(args); } \
  LAZULI_KERNEL(lazuli_gather_##bytes, GatherArgs, 256) { gather<Unit>(args); }                 \
  LAZULI_KERNEL(lazuli_index_fill_##bytes, IndexFillArgs, 256) { indexFill<Unit>(args); }
LAZULI_INDEX(1, uint8_t)
LAZULI_INDEX(2, uint16_t)
LAZULI_INDEX(4, uint32_t)
LAZULI_INDEX(8, uint64_t)

LAZULI_KERNEL(lazuli_index_keys, IndexKeysArgs, 256) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * static_cast<int>(blockDim.x) + threadIdx.x;
  if (i >= args.n) return;
  const int64_t index = checkedIndex(args.indices, i);
  args.keys[i] = static_cast<unsigned>(index < 0 ? args.size : offsetOf(args.at, i) + index * args.stride);
  args.order[i] = static_cast<unsigned>(i);
}

}  // namespace lazuli::cuda
