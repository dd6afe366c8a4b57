#pragma once

#include "kernel.h"

namespace lazuli {

/// One piece of memory and when it is needed. Values that follow each other in place share one.
struct Storage {
  enum class Home : uint8_t { arena, input, constant, output };
  Home home = Home::arena;
  uint32_t index = 0;  // of the input, constant or output
  size_t bytes = 0;
  int64_t first = -1;           // step that first writes it; -1: it is there from the start
  int64_t last = -1;            // step that last uses it; the number of steps: it outlives them
  std::vector<ValueId> values;  // in the order they live in it
};

struct StoragePlan {
  static constexpr uint32_t none = UINT32_MAX;
  std::vector<Storage> storages;
  std::vector<uint32_t> of;        // by value; none where no step makes or reads it
  std::vector<int64_t> takesOver;  // by output: the donated input whose buffer it becomes, or -1
  /// Outputs that are another output's value, an input or a constant: copied after the last step.
  struct Copy {
    ValueId from;
    uint32_t output;
  };
  std::vector<Copy> copies;

  const Storage& storage(ValueId value) const { return storages[of[value]]; }
  /// Bytes of outputs that take over no donated input.
  size_t outputBytes(const Lowered& lowered) const;
};

/// Sizes in an arena: every address in it is a multiple of 64.
inline constexpr size_t kAlignment = 64;
inline constexpr size_t alignUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Decides which values share memory in the given order of steps. A write goes into the place of a read that
/// dies there, where the kernel allows it; an output goes into a donated input's buffer of its size, in place
/// where the kernel allows it, else where every read of that input is over. `donated` is by input.
StoragePlan assignStorage(const Lowered& lowered, const std::vector<bool>& donated);

/// Bytes of arena live by step, scratch included.
std::vector<size_t> liveBytes(const Lowered& lowered, const StoragePlan& plan);

/// Throws ProgramError where the lowering broke its promises: reads before writes, values written twice.
void verify(const Lowered& lowered, size_t inputs);

}  // namespace lazuli
