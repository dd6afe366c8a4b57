#include "memory_plan.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

namespace lazuli {
namespace {

constexpr size_t kNamedInErrors = 5;
// Packing takes time in their square: of so many, one order is enough.
constexpr size_t kManyIntervals = 10000;

/// A block of the arena that is needed from step `first` to step `last`.
struct Interval {
  size_t bytes;
  int64_t first, last;
  size_t offset = 0;
  bool overlaps(const Interval& other) const { return first <= other.last && other.first <= last; }
};

/// Places the intervals in the given order, each into the smallest gap that holds it among those already
/// placed that live at the same time, else on top. Gives the height.
size_t pack(std::vector<Interval>& intervals, const std::vector<uint32_t>& order) {
  size_t height = 0;
  std::vector<uint32_t> placed;  // by offset
  placed.reserve(order.size());
  for (uint32_t i : order) {
    Interval& interval = intervals[i];
    size_t top = 0, bestGap = SIZE_MAX, offset = SIZE_MAX;
    for (uint32_t k : placed) {
      const Interval& other = intervals[k];
      if (!interval.overlaps(other)) continue;
      if (other.offset > top && other.offset - top >= interval.bytes && other.offset - top < bestGap) {
        bestGap = other.offset - top;
        offset = top;
      }
      top = std::max(top, other.offset + other.bytes);
    }
    interval.offset = offset == SIZE_MAX ? top : offset;
    height = std::max(height, interval.offset + interval.bytes);
    auto above = [&](size_t at, uint32_t k) { return at < intervals[k].offset; };
    placed.insert(std::upper_bound(placed.begin(), placed.end(), interval.offset, above), i);
  }
  return height;
}

/// The best of three orders. Largest first leaves small ones to fill gaps; longest-lived first suits graphs
/// whose sizes are alike; first-needed first is what a stack would do.
size_t packBest(std::vector<Interval>& intervals, size_t lowerBound) {
  using Before = bool (*)(const Interval&, const Interval&);
  const Before orders[] = {
      [](const Interval& a, const Interval& b) { return a.bytes > b.bytes; },
      [](const Interval& a, const Interval& b) {
        return static_cast<double>(a.bytes) * static_cast<double>(a.last - a.first + 1) >
               static_cast<double>(b.bytes) * static_cast<double>(b.last - b.first + 1);
      },
      [](const Interval& a, const Interval& b) { return a.first < b.first; },
  };
  std::vector<Interval> best;
  size_t bestHeight = SIZE_MAX;
  for (Before before : orders) {
    std::vector<uint32_t> order(intervals.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return before(intervals[a], intervals[b]); });
    size_t height = pack(intervals, order);
    if (height < bestHeight) {
      bestHeight = height;
      best = intervals;
    }
    if (bestHeight == lowerBound || intervals.size() > kManyIntervals) break;
  }
  intervals = std::move(best);
  return bestHeight;
}

std::string describeType(const TensorType& type) { return name(type.dtype) + format(type.shape); }

}  // namespace

std::string formatBytes(size_t bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit < 6; unit++) value /= 1000;
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

MemoryPlan planMemory(const Lowered& lowered, const std::vector<bool>& donated) {
  MemoryPlan plan;
  plan.storage = assignStorage(lowered, donated);
  for (size_t live : liveBytes(lowered, plan.storage))
    plan.lowerBoundBytes = std::max(plan.lowerBoundBytes, live);

  std::vector<Interval> intervals;
  const auto& storages = plan.storage.storages;
  for (const Storage& storage : storages) {
    if (storage.home != Storage::Home::arena || storage.bytes == 0) continue;
    intervals.push_back({alignUp(storage.bytes), storage.first, storage.last});
  }
  for (size_t s = 0; s < lowered.steps.size(); s++) {
    size_t bytes = alignUp(lowered.steps[s].made.scratchBytes);
    if (bytes > 0) intervals.push_back({bytes, static_cast<int64_t>(s), static_cast<int64_t>(s)});
  }
  if (!intervals.empty()) plan.arenaBytes = packBest(intervals, plan.lowerBoundBytes);

  // Handed out in the order they were collected.
  auto interval = intervals.begin();
  plan.offsets.assign(storages.size(), 0);
  for (size_t i = 0; i < storages.size(); i++) {
    if (storages[i].home == Storage::Home::arena && storages[i].bytes > 0)
      plan.offsets[i] = (interval++)->offset;
  }
  plan.scratchOffsets.assign(lowered.steps.size(), 0);
  for (size_t s = 0; s < lowered.steps.size(); s++) {
    if (lowered.steps[s].made.scratchBytes > 0) plan.scratchOffsets[s] = (interval++)->offset;
  }

  for (size_t i = 0; i < donated.size(); i++) plan.inputBytes += lowered.values[i].bytes();
  for (const auto& [value, data] : lowered.constants) plan.constantBytes += data.size();
  plan.outputBytes = plan.storage.outputBytes(lowered);
  return plan;
}

void checkLimit(const Lowered& lowered, const MemoryPlan& plan, size_t limitBytes) {
  if (limitBytes == 0 || plan.totalBytes() <= limitBytes) return;
  std::vector<int64_t> nodeOf(lowered.values.size(), -1);
  for (const Step& step : lowered.steps) {
    for (ValueId v : step.writes) nodeOf[v] = step.node;
  }
  std::vector<size_t> live = liveBytes(lowered, plan.storage);
  int64_t fullest = std::max_element(live.begin(), live.end()) - live.begin();
  std::vector<ValueId> largest;
  for (const Storage& storage : plan.storage.storages) {
    bool there =
        storage.home != Storage::Home::arena || (storage.first <= fullest && fullest <= storage.last);
    if (there && !storage.values.empty()) largest.push_back(storage.values.back());
  }
  auto larger = [&](ValueId a, ValueId b) { return lowered.values[a].bytes() > lowered.values[b].bytes(); };
  std::stable_sort(largest.begin(), largest.end(), larger);
  if (largest.size() > kNamedInErrors) largest.resize(kNamedInErrors);

  std::string text = "the program needs " + formatBytes(plan.totalBytes()) + " but the limit is " +
                     formatBytes(limitBytes) + " (inputs " + formatBytes(plan.inputBytes) + ", constants " +
                     formatBytes(plan.constantBytes) + ", outputs " + formatBytes(plan.outputBytes) +
                     ", intermediates " + formatBytes(plan.arenaBytes) + "); largest:";
  int64_t node = -1;
  for (ValueId v : largest) {
    bool input = plan.storage.storage(v).home == Storage::Home::input;
    std::string where = nodeOf[v] >= 0 ? "node " + std::to_string(nodeOf[v])
                        : input        ? "input " + std::to_string(v)
                                       : "constant";
    text += "\n  " + formatBytes(lowered.values[v].bytes()) + "  " + describeType(lowered.values[v]) + "  " +
            where;
    if (node < 0) node = nodeOf[v];
  }
  throw OutOfMemoryError(text, node);
}

std::string describe(const Lowered& lowered, const MemoryPlan& plan) {
  auto place = [&](ValueId v) {
    const Storage& storage = plan.storage.storage(v);
    switch (storage.home) {
      case Storage::Home::input:
        return "input " + std::to_string(storage.index);
      case Storage::Home::constant:
        return "constant " + std::to_string(storage.index);
      case Storage::Home::output:
        return "output " + std::to_string(storage.index);
      default:
        return "arena " + std::to_string(plan.offsets[plan.storage.of[v]]);
    }
  };
  auto list = [&](const std::vector<ValueId>& values) {
    std::string text;
    for (ValueId v : values) {
      text += (text.empty() ? "" : ", ") + ("v" + std::to_string(v)) + " " + describeType(lowered.values[v]) +
              " @ " + place(v);
    }
    return text;
  };
  std::string text = "arena " + formatBytes(plan.arenaBytes) + " (at least " +
                     formatBytes(plan.lowerBoundBytes) + "), inputs " + formatBytes(plan.inputBytes) +
                     ", constants " + formatBytes(plan.constantBytes) + ", fresh outputs " +
                     formatBytes(plan.outputBytes) + "\n";
  for (size_t s = 0; s < lowered.steps.size(); s++) {
    const Step& step = lowered.steps[s];
    text += std::to_string(s) + "  " + step.made.label + "  (node " + std::to_string(step.node) + ")\n    " +
            list(step.writes) + "\n    <- " + list(step.reads) + "\n";
    if (!step.made.detail.empty()) text += "    = " + step.made.detail + "\n";
    if (step.made.scratchBytes > 0) {
      text += "    scratch " + formatBytes(step.made.scratchBytes) + " @ arena " +
              std::to_string(plan.scratchOffsets[s]) + "\n";
    }
  }
  for (const auto& copy : plan.storage.copies) {
    text += "output " + std::to_string(copy.output) + " copies v" + std::to_string(copy.from) + "\n";
  }
  for (size_t o = 0; o < plan.storage.takesOver.size(); o++) {
    if (plan.storage.takesOver[o] >= 0) {
      text += "output " + std::to_string(o) + " takes over input " +
              std::to_string(plan.storage.takesOver[o]) + "\n";
    }
  }
  return text;
}

}  // namespace lazuli
