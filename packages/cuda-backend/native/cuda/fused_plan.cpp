#include "cuda/fused_plan.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <numeric>

namespace lazuli::cuda {
namespace {

using Value = FusedSpec::Value;
using Kind = FusedGrid::Kind;
using AccessKind = FusedGrid::Access::Kind;

// Threads that keep the memory of a large GPU busy, and blocks that give each of its processors two.
constexpr int64_t kEnoughThreads = 132 * 1024;
constexpr int64_t kEnoughBlocks = 264;
constexpr size_t kSharedBytes = 40 * 1024;  // of the 48 KiB that every block may have

int64_t ceilDiv(int64_t a, int64_t b) { return a <= 0 ? 0 : (a - 1) / b + 1; }
int64_t powerAbove(int64_t x) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(x, 1))));
}

bool isTrivial(const PadWindow& window, int64_t extent) {
  return window.low == 0 && window.step == 1 && window.count == extent;
}

/// Elements of a vector that can be moved at once: all pieces begin at multiples of their size.
int pieceOf(const FusedPlan& plan, const TileAccess& access, int vector) {
  int64_t divisor = std::gcd(static_cast<int64_t>(vector), access.offset);
  for (size_t i = 0; i + 1 < plan.extents.size(); i++)
    if (plan.extents[i] > 1) divisor = std::gcd(divisor, access.strides[i]);
  const int64_t most = std::min<int64_t>(16 / static_cast<int64_t>(sizeBytes(access.dtype)), divisor);
  return static_cast<int>(std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(most, 1))));
}

bool isMemory(const FusedGrid& grid, size_t access) {
  for (size_t i = 0; i < grid.accessOf.size(); i++)
    if (grid.accessOf[i] == static_cast<int>(access))
      return grid.plan.spec.values[i].kind == Value::Kind::load;
  return true;
}

FusedGrid::Access accessFor(const FusedGrid& grid, const TileAccess& access, int vector) {
  const FusedPlan& plan = grid.plan;
  const size_t last = plan.extents.size() - 1;
  if (access.pad.empty()) {
    bool invariant = true;
    for (size_t i = 0; i <= last; i++) invariant &= access.strides[i] == 0 || plan.extents[i] == 1;
    if (invariant) return {AccessKind::invariant, 1};
  } else if (!isTrivial(access.pad[last], plan.extents[last])) {
    return {AccessKind::padded, 1};
  }
  if (access.strides[last] == 0 || plan.extents[last] == 1) return {AccessKind::broadcast, 1};
  if (access.strides[last] != 1) return {AccessKind::strided, 1};
  return {AccessKind::vector, pieceOf(plan, access, vector)};
}

/// The longest vector that most of the bytes can be moved by.
int chooseVector(const FusedGrid& grid) {
  const FusedPlan& plan = grid.plan;
  size_t least = 16;
  std::vector<const TileAccess*> moved;
  for (size_t i = 0; i < plan.accesses.size(); i++) {
    if (!isMemory(grid, i)) continue;
    const TileAccess& access = plan.accesses[i];
    const auto [kind, width] = accessFor(grid, access, 1);
    if (kind == AccessKind::strided || kind == AccessKind::padded) return 1;
    if (kind != AccessKind::vector) continue;
    moved.push_back(&access);
    least = std::min(least, sizeBytes(access.dtype));
  }
  // Values made from nothing: four, as random numbers come.
  if (moved.empty()) return plan.width() % 4 == 0 ? 4 : 1;
  for (int vector = static_cast<int>(16 / std::max<size_t>(least, 2)); vector > 1; vector /= 2) {
    if (plan.width() < vector || (plan.width() % vector != 0 && plan.extents.size() > 1)) continue;
    int64_t good = 0, all = 0;
    for (const TileAccess* access : moved) {
      const int64_t size = static_cast<int64_t>(sizeBytes(access->dtype));
      const int width = pieceOf(plan, *access, vector);
      if (width * size >= std::min<int64_t>(16, vector * size)) good += size;
      all += size;
    }
    if (2 * good >= all) return vector;
  }
  return 1;
}

bool needsWideIndex(const FusedPlan& plan) {
  constexpr int64_t kMost = INT32_MAX / 2;
  if (plan.total >= kMost) return true;
  for (const TileAccess& access : plan.accesses) {
    int64_t reach = std::abs(access.offset);
    for (size_t i = 0; i < plan.extents.size(); i++) reach += std::abs(access.strides[i]) * plan.extents[i];
    if (reach >= kMost) return true;
  }
  return false;
}

/// The dim that squares span beside the innermost one, where an access is across; -1: none is.
int chooseSquareDim(const FusedGrid& grid) {
  const FusedPlan& plan = grid.plan;
  const int last = static_cast<int>(plan.extents.size()) - 1;
  if (plan.total < 4096 || plan.extents[static_cast<size_t>(last)] < kSquare / 2) return -1;
  int best = -1;
  for (size_t i = 0; i < plan.accesses.size(); i++) {
    const TileAccess& access = plan.accesses[i];
    if (!access.pad.empty() || !isMemory(grid, i) || std::abs(access.strides.back()) <= 1) continue;
    for (int dim = 0; dim < last; dim++)
      if (std::abs(access.strides[static_cast<size_t>(dim)]) == 1 &&
          plan.extents[static_cast<size_t>(dim)] >= kSquare / 2)
        best = dim;
  }
  return best;
}

void planSquares(FusedGrid& grid) {
  const FusedPlan& plan = grid.plan;
  grid.kind = Kind::squares;
  size_t shared = 0;
  for (size_t i = 0; i < plan.accesses.size(); i++) {
    const TileAccess& access = plan.accesses[i];
    const bool across = access.pad.empty() && std::abs(access.strides.back()) > 1 &&
                        std::abs(access.strides[static_cast<size_t>(grid.squareDim)]) == 1;
    const size_t bytes = kSquare * (kSquare + 1) * sizeBytes(access.dtype);
    if (!across || !isMemory(grid, i) || shared + bytes > kSharedBytes) continue;
    grid.accesses[i] = {AccessKind::turned, 1};
    shared += bytes;
  }
  grid.unroll = kSquare * kSquare / grid.threads;
  grid.blocks = static_cast<uint64_t>(
      plan.total / plan.width() / plan.extents[static_cast<size_t>(grid.squareDim)] *
      ceilDiv(plan.width(), kSquare) * ceilDiv(plan.extents[static_cast<size_t>(grid.squareDim)], kSquare));
}

/// Bytes that a thread loads for one vector.
int64_t loadedBytes(const FusedGrid& grid) {
  int64_t bytes = 0;
  for (size_t i = 0; i < grid.accessOf.size(); i++)
    if (grid.accessOf[i] >= 0 && grid.plan.spec.values[i].kind == Value::Kind::load &&
        grid.accesses[static_cast<size_t>(grid.accessOf[i])].kind != AccessKind::invariant)
      bytes += grid.vector * static_cast<int64_t>(
                                 sizeBytes(grid.plan.accesses[static_cast<size_t>(grid.accessOf[i])].dtype));
  return bytes;
}

/// Vectors in flight: 64 bytes a thread, as far as there are enough threads.
int unrollFor(const FusedGrid& grid, int64_t perThread) {
  const int64_t bytes = std::max<int64_t>(loadedBytes(grid), 4);
  int64_t unroll = 1;
  while (unroll < 4 && unroll * 2 * bytes <= 64 && unroll * 2 <= perThread) unroll *= 2;
  return static_cast<int>(unroll);
}

void planMap(FusedGrid& grid) {
  grid.kind = Kind::map;
  const int64_t vectors = grid.plan.total / grid.width() * grid.vectors();
  grid.unroll = unrollFor(grid, vectors / kEnoughThreads);
  grid.blocks = static_cast<uint64_t>(ceilDiv(vectors, grid.threads * grid.unroll));
}

bool hasFloatSum(const FusedSpec& spec) {
  for (const auto& reduce : spec.reduces)
    if ((reduce.kind == ReduceKind::sum || reduce.kind == ReduceKind::prod) &&
        spec.values[static_cast<size_t>(reduce.value)].lane == Lane::f32)
      return true;
  return false;
}

void planRows(FusedGrid& grid) {
  const ReduceShape& shape = grid.plan.reduce;
  grid.kind = Kind::rows;
  const int64_t vectors = grid.width() == 0 ? 0 : shape.reduced / grid.width() * grid.vectors();
  const bool block = vectors > 512 || (vectors > 64 && shape.outer * 32 < kEnoughThreads);
  grid.lanes = block ? (vectors >= 8192 && shape.outer < kEnoughBlocks ? 512 : 256)
                     : static_cast<int>(std::min<int64_t>(32, powerAbove(vectors)));
  if (block) grid.threads = grid.lanes;
  if (block && shape.outer < kEnoughBlocks)
    grid.pieces =
        std::max<int64_t>(1, std::min(ceilDiv(kEnoughBlocks, shape.outer), vectors / (grid.lanes * 4)));
  grid.length = std::max<int64_t>(1, ceilDiv(ceilDiv(vectors, grid.pieces), grid.lanes) * grid.lanes);
  grid.pieces = std::max<int64_t>(1, ceilDiv(vectors, grid.length));
  const int64_t steps = ceilDiv(std::min(grid.length, vectors), grid.lanes);
  grid.unroll = unrollFor(grid, steps);
  grid.twoLevels = hasFloatSum(grid.plan.spec) && steps > 2 * kFlushSteps;
  grid.blocks = static_cast<uint64_t>(ceilDiv(shape.outer, grid.threads / grid.lanes));
}

void planColumns(FusedGrid& grid) {
  const ReduceShape& shape = grid.plan.reduce;
  grid.kind = Kind::columns;
  const int64_t columns = shape.inner / grid.width() * grid.vectors();
  grid.lanes = static_cast<int>(std::min<int64_t>(32, powerAbove(columns)));
  const int64_t rows = grid.threads / grid.lanes;
  const int64_t panels = shape.outer * ceilDiv(columns, grid.lanes);
  if (panels < kEnoughBlocks)
    grid.pieces = std::max<int64_t>(1, std::min(ceilDiv(kEnoughBlocks, panels), shape.reduced / (rows * 4)));
  grid.length = std::max<int64_t>(1, ceilDiv(ceilDiv(shape.reduced, grid.pieces), rows) * rows);
  grid.pieces = std::max<int64_t>(1, ceilDiv(shape.reduced, grid.length));
  const int64_t steps = ceilDiv(std::min(grid.length, shape.reduced), rows);
  grid.unroll = unrollFor(grid, steps);
  grid.twoLevels = hasFloatSum(grid.plan.spec) && steps > 2 * kFlushSteps;
  grid.blocks = static_cast<uint64_t>(panels);
}

}  // namespace

FusedGrid planGrid(FusedSpec spec) {
  FusedGrid grid;
  FusedPlan& plan = grid.plan;
  plan.spec = std::move(spec);
  plan.total = elements(plan.spec.space);
  const bool reduces = !plan.spec.reduces.empty();
  if (plan.total == 0 && !reduces) return grid;
  planDims(plan, grid.accessOf, grid.storeAccess);
  if (reduces && grid.outputs() == 0) return grid;
  grid.wideIndex = needsWideIndex(plan);
  grid.vector = plan.total == 0 ? 1 : chooseVector(grid);
  for (const TileAccess& access : plan.accesses)
    grid.accesses.push_back(accessFor(grid, access, grid.vector));
  if (!reduces) {
    grid.squareDim = chooseSquareDim(grid);
    grid.squareDim >= 0 ? planSquares(grid) : planMap(grid);
  } else {
    plan.reduce.inner > 1 ? planColumns(grid) : planRows(grid);
  }
  if (grid.blocks > INT32_MAX)
    throw ProgramError("a fused kernel over " + std::to_string(plan.total) +
                       " elements is more than CUDA can launch");
  return grid;
}

std::vector<std::pair<uint32_t, uint32_t>> inPlacePairs(const FusedSpec& spec) {
  std::map<uint32_t, int> reads;
  for (const Value& value : spec.values) {
    if (value.kind == Value::Kind::load) reads[value.read]++;
    if (value.kind != Value::Kind::uniform && value.kind != Value::Kind::normal) continue;
    reads[value.read] += 2;
    if (value.first >= 0) reads[static_cast<uint32_t>(value.first)] += 2;
  }
  std::vector<std::pair<uint32_t, uint32_t>> pairs;
  for (const auto& store : spec.stores) {
    if (!store.layout.isDense()) continue;
    for (const Value& value : spec.values)
      if (value.kind == Value::Kind::load && value.pad.empty() && reads[value.read] == 1 &&
          value.layout.isDense() && sizeBytes(value.layout.dtype) == sizeBytes(store.layout.dtype))
        pairs.push_back({store.write, value.read});
  }
  return pairs;
}

}  // namespace lazuli::cuda
