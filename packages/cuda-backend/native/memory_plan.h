#pragma once

#include "storage.h"

namespace lazuli {

/// Where every value lives, decided before anything runs.
struct MemoryPlan {
  StoragePlan storage;
  std::vector<size_t> offsets;         // in the arena, by storage; only of those whose home is the arena
  std::vector<size_t> scratchOffsets;  // in the arena, by step
  size_t arenaBytes = 0;
  size_t lowerBoundBytes = 0;  // most bytes live at once
  size_t inputBytes = 0;
  size_t constantBytes = 0;
  size_t outputBytes = 0;  // of outputs that take over no donated input

  size_t totalBytes() const { return inputBytes + constantBytes + outputBytes + arenaBytes; }
};

MemoryPlan planMemory(const Lowered& lowered, const std::vector<bool>& donated);

/// Throws OutOfMemoryError, naming the largest values of the fullest step, where the plan needs more than
/// `limitBytes`.
void checkLimit(const Lowered& lowered, const MemoryPlan& plan, size_t limitBytes);

/// The plan as text, for LAZULI_DEBUG.
std::string describe(const Lowered& lowered, const MemoryPlan& plan);

/// "12.3 MB"
std::string formatBytes(size_t bytes);

}  // namespace lazuli
