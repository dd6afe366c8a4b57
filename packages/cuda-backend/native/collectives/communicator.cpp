#include "collectives/communicator.h"

#include <algorithm>
#include <cstring>

#include "collectives/reduce_table.h"
#include "parallel.h"

namespace lazuli {
namespace {

constexpr size_t kPiece = size_t{64} << 10;  // bytes that a thread moves or reduces at a time: stays in L2

/// Calls `body(position, bytes)` over runs of [0, bytes), each `length(position)` long at most.
template <class Length, class Body>
void eachRun(size_t bytes, Length&& length, Body&& body) {
  parallelFor(static_cast<int64_t>(bytes), kPiece, [&](int64_t begin, int64_t end) {
    const auto last = static_cast<size_t>(end);
    for (auto at = static_cast<size_t>(begin); at < last;) {
      const size_t run = std::min({kPiece, length(at), last - at});
      body(at, run);
      at += run;
    }
  });
}

}  // namespace

std::byte* Communicator::packing(size_t bytes) {
  if (bytes > packingBytes_) {
    packing_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
    packingBytes_ = bytes;
  }
  return packing_.get();
}

std::span<const int64_t> meshSizes(std::span<const int64_t> mesh) {
  return mesh.first(static_cast<size_t>(std::find(mesh.begin(), mesh.end(), 0) - mesh.begin()));
}

Group groupOf(std::span<const int64_t> mesh, std::span<const int64_t> axes, int device) {
  const std::span<const int64_t> sizes = meshSizes(mesh);
  const std::span<const int64_t> order = mesh.subspan(std::min(sizes.size() + 1, mesh.size()));
  const Dims strides = denseStrides(Dims(sizes.begin(), sizes.end()));
  Group group;
  const auto point =
      order.empty() ? device : static_cast<int>(std::ranges::find(order, device) - order.begin());
  int base = point;
  for (int64_t axis : axes) {
    const auto a = static_cast<size_t>(axis);
    const int64_t coordinate = point / strides[a] % sizes[a];
    base -= static_cast<int>(coordinate * strides[a]);
    group.self = group.self * static_cast<size_t>(sizes[a]) + static_cast<size_t>(coordinate);
  }
  group.devices = {base};
  for (int64_t axis : axes) {
    const auto a = static_cast<size_t>(axis);
    std::vector<int> wider;
    for (int first : group.devices)
      for (int64_t i = 0; i < sizes[a]; i++) wider.push_back(first + static_cast<int>(i * strides[a]));
    group.devices = std::move(wider);
  }
  if (!order.empty())
    for (int& member : group.devices) member = static_cast<int>(order[static_cast<size_t>(member)]);
  return group;
}

void copyRange(const std::byte* from, Spread fromSpread, size_t fromStart, std::byte* to, Spread toSpread,
               size_t toStart, size_t bytes) {
  eachRun(
      bytes,
      [&](size_t at) { return std::min(fromSpread.left(fromStart + at), toSpread.left(toStart + at)); },
      [&](size_t at, size_t run) {
        std::memcpy(to + toSpread.at(toStart + at), from + fromSpread.at(fromStart + at), run);
      });
}

void copySpread(const std::byte* from, Spread fromSpread, std::byte* to, Spread toSpread, size_t bytes) {
  copyRange(from, fromSpread, 0, to, toSpread, 0, bytes);
}

void reduceMembers(std::span<const std::byte* const> members, Spread spread, std::byte* to, size_t elements,
                   Reduction reduction) {
  const auto combine =
      reduceTable().combine[static_cast<size_t>(reduction.kind)][static_cast<size_t>(reduction.dtype)];
  const size_t size = sizeBytes(reduction.dtype);
  eachRun(
      elements * size, [&](size_t at) { return spread.left(at); },
      [&](size_t at, size_t run) {
        combine(members.data(), members.size(), spread.at(at), to + at, static_cast<int64_t>(run / size));
      });
}

}  // namespace lazuli
