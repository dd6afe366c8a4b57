#include "collectives/communicator.h"

#include <algorithm>
#include <cstring>

#include "collectives/reduce_table.h"
#include "parallel.h"

namespace lazuli {
namespace {

constexpr size_t kPiece = size_t{64} << 10;  // bytes that a thread moves or reduces at a time: stays in L2

/// Calls `body(position, bytes)` over runs of [0, bytes) that lie within one block of `block` bytes.
template <class Body>
void eachRun(size_t bytes, size_t block, Body&& body) {
  parallelFor(static_cast<int64_t>(bytes), kPiece, [&](int64_t begin, int64_t end) {
    const auto last = static_cast<size_t>(end);
    for (auto at = static_cast<size_t>(begin); at < last;) {
      const size_t run = std::min({kPiece, block - at % block, last - at});
      body(at, run);
      at += run;
    }
  });
}

}  // namespace

Group groupOf(std::span<const int64_t> mesh, std::span<const int64_t> axes, int device) {
  Dims strides = denseStrides(Dims(mesh.begin(), mesh.end()));
  Group group;
  int base = device;
  for (int64_t axis : axes) {
    const auto a = static_cast<size_t>(axis);
    const int64_t coordinate = device / strides[a] % mesh[a];
    base -= static_cast<int>(coordinate * strides[a]);
    group.self = group.self * static_cast<size_t>(mesh[a]) + static_cast<size_t>(coordinate);
  }
  group.devices = {base};
  for (int64_t axis : axes) {
    const auto a = static_cast<size_t>(axis);
    std::vector<int> wider;
    for (int first : group.devices)
      for (int64_t i = 0; i < mesh[a]; i++) wider.push_back(first + static_cast<int>(i * strides[a]));
    group.devices = std::move(wider);
  }
  return group;
}

void copySpread(const std::byte* from, Spread fromSpread, std::byte* to, Spread toSpread, size_t bytes) {
  eachRun(bytes, std::min(fromSpread.block, toSpread.block),
          [&](size_t at, size_t run) { std::memcpy(to + toSpread.at(at), from + fromSpread.at(at), run); });
}

void reduceMembers(std::span<const std::byte* const> members, Spread spread, std::byte* to, size_t elements,
                   Reduction reduction) {
  const auto combine =
      reduceTable().combine[static_cast<size_t>(reduction.kind)][static_cast<size_t>(reduction.dtype)];
  const size_t size = sizeBytes(reduction.dtype);
  eachRun(elements * size, spread.block, [&](size_t at, size_t run) {
    combine(members.data(), members.size(), spread.at(at), to + at, static_cast<int64_t>(run / size));
  });
}

}  // namespace lazuli
