#include "storage.h"

#include <algorithm>

namespace lazuli {
namespace {

class StorageAssigner {
 public:
  StorageAssigner(const Lowered& lowered, const std::vector<bool>& donated)
      : lowered_(lowered),
        donated_(donated),
        end_(static_cast<int64_t>(lowered.steps.size())),
        lastRead_(lowered.values.size(), -1),
        lastReadBefore_(lowered.values.size(), -1),
        outputOf_(lowered.values.size(), -1) {
    plan_.of.assign(lowered.values.size(), StoragePlan::none);
    plan_.takesOver.assign(lowered.outputs.size(), -1);
  }

  StoragePlan assign() {
    for (int64_t s = 0; s < end_; s++) {
      for (ValueId v : lowered_.steps[s].reads) {
        if (lastRead_[v] != s) lastReadBefore_[v] = lastRead_[v];
        lastRead_[v] = s;
      }
    }
    for (ValueId v = 0; v < donated_.size(); v++) add(v, Storage::Home::input, v, -1);
    for (uint32_t i = 0; i < lowered_.constants.size(); i++) {
      add(lowered_.constants[i].first, Storage::Home::constant, i, -1);
    }
    chooseOutputs();
    for (int64_t s = 0; s < end_; s++) place(s);
    for (Storage& storage : plan_.storages)
      storage.last = std::max({storage.first, storage.last, lastRead_[storage.values.back()]});
    takeOverDeadInputs();
    return std::move(plan_);
  }

 private:
  uint32_t add(ValueId value, Storage::Home home, uint32_t index, int64_t first) {
    plan_.of[value] = static_cast<uint32_t>(plan_.storages.size());
    plan_.storages.push_back({home, index, lowered_.values[value].bytes(), first, -1, {value}});
    return plan_.of[value];
  }

  bool isMade(ValueId value) const { return plan_.of[value] == StoragePlan::none; }

  /// An output is the place of its value's first appearance among the outputs; further ones are copies.
  void chooseOutputs() {
    for (uint32_t o = 0; o < lowered_.outputs.size(); o++) {
      ValueId v = lowered_.outputs[o];
      bool first = outputOf_[v] < 0;
      lastRead_[v] = end_;
      if (first && isMade(v)) {
        outputOf_[v] = o;
      } else if (first && v < donated_.size() && donated_[v]) {
        outputOf_[v] = o;
        plan_.takesOver[o] = v;
      } else {
        plan_.copies.push_back({v, o});
      }
    }
  }

  void place(int64_t s) {
    const Step& step = lowered_.steps[s];
    std::vector<uint32_t> claimed;
    for (uint32_t w = 0; w < step.writes.size(); w++) {
      ValueId value = step.writes[w];
      uint32_t shared = placeOfRead(step, s, w, claimed);
      if (shared == StoragePlan::none) {
        bool output = outputOf_[value] >= 0;
        shared = add(value, output ? Storage::Home::output : Storage::Home::arena,
                     output ? static_cast<uint32_t>(outputOf_[value]) : 0, s);
      } else {
        join(shared, value, s);
      }
      claimed.push_back(shared);
    }
  }

  /// The storage of a read that dies in step `s` and that write `w` may overwrite. An output looks for a
  /// donated input first; other values leave those to the outputs where they can.
  uint32_t placeOfRead(const Step& step, int64_t s, uint32_t w, const std::vector<uint32_t>& claimed) const {
    ValueId value = step.writes[w];
    Storage::Home wanted = outputOf_[value] >= 0 ? Storage::Home::input : Storage::Home::arena;
    uint32_t found = StoragePlan::none;
    for (auto [write, read] : step.made.inPlace) {
      if (write != w || !mayOverwrite(step, s, w, step.reads[read])) continue;
      uint32_t candidate = plan_.of[step.reads[read]];
      if (std::find(claimed.begin(), claimed.end(), candidate) != claimed.end()) continue;
      if (plan_.storages[candidate].home == wanted) return candidate;
      if (found == StoragePlan::none) found = candidate;
    }
    return found;
  }

  /// Whether nothing needs the value after step `s`, which reads it, or after what step `s` starts.
  bool diesAt(const Step& step, int64_t s, ValueId read) const {
    const int64_t last = lastRead_[read];
    if (last == s || step.transfer != Transfer::start || last == end_) return last == s;
    return lowered_.steps[last].isDoneOf(step) && lastReadBefore_[read] == s;
  }

  bool mayOverwrite(const Step& step, int64_t s, uint32_t w, ValueId read) const {
    if (!diesAt(step, s, read) || lowered_.values[read].bytes() != lowered_.values[step.writes[w]].bytes())
      return false;
    const Storage& storage = plan_.storage(read);
    bool ours = storage.home == Storage::Home::arena ||
                (storage.home == Storage::Home::input && donated_[storage.index]);
    if (!ours) return false;
    // A kernel that reads the value a second time, in another layout, must allow that too.
    const auto& pairs = step.made.inPlace;
    for (uint32_t r = 0; r < step.reads.size(); r++) {
      bool paired = std::find(pairs.begin(), pairs.end(), std::pair<uint32_t, uint32_t>{w, r}) != pairs.end();
      if (step.reads[r] == read && !paired) return false;
    }
    return true;
  }

  void join(uint32_t index, ValueId value, int64_t s) {
    Storage& storage = plan_.storages[index];
    plan_.of[value] = index;
    storage.values.push_back(value);
    storage.last = s;  // also where nothing reads the value
    int64_t output = outputOf_[value];
    if (output < 0) return;
    if (storage.home == Storage::Home::input) {
      plan_.takesOver[static_cast<size_t>(output)] = storage.index;
    } else {
      storage.home = Storage::Home::output;
      storage.index = static_cast<uint32_t>(output);
    }
  }

  /// Outputs still without a donated input get one of their size that is dead before the output's memory is
  /// used.
  void takeOverDeadInputs() {
    for (Storage& storage : plan_.storages) {
      if (storage.home != Storage::Home::output || storage.bytes == 0) continue;
      for (uint32_t i = 0; i < donated_.size(); i++) {
        Storage& input = plan_.storages[plan_.of[i]];
        bool untouched = input.home == Storage::Home::input && input.values.size() == 1;
        if (!donated_[i] || !untouched || input.bytes != storage.bytes || input.last >= storage.first)
          continue;
        plan_.takesOver[storage.index] = i;
        storage.home = Storage::Home::input;
        storage.index = i;
        storage.first = -1;
        // One list of the values in the order they live there.
        storage.values.insert(storage.values.begin(), i);
        input = Storage{Storage::Home::input, i, 0, -1, -1, {}};
        plan_.of[i] = static_cast<uint32_t>(&storage - plan_.storages.data());
        break;
      }
    }
  }

  const Lowered& lowered_;
  const std::vector<bool>& donated_;
  int64_t end_;
  std::vector<int64_t> lastRead_, lastReadBefore_;  // by value: of the steps that read it, the last two
  std::vector<int64_t> outputOf_;                   // by value: the output whose place it is, or -1
  StoragePlan plan_;
};

}  // namespace

size_t StoragePlan::outputBytes(const Lowered& lowered) const {
  size_t bytes = 0;
  for (size_t o = 0; o < takesOver.size(); o++) {
    if (takesOver[o] < 0) bytes += lowered.values[lowered.outputs[o]].bytes();
  }
  return bytes;
}

StoragePlan assignStorage(const Lowered& lowered, const std::vector<bool>& donated) {
  return StorageAssigner(lowered, donated).assign();
}

std::vector<size_t> liveBytes(const Lowered& lowered, const StoragePlan& plan) {
  size_t steps = lowered.steps.size();
  // Differences first: a storage adds its bytes where it starts and takes them away after its last step.
  std::vector<size_t> live(steps + 1);
  for (const Storage& storage : plan.storages) {
    if (storage.home != Storage::Home::arena) continue;
    size_t bytes = alignUp(storage.bytes);
    live[static_cast<size_t>(storage.first)] += bytes;
    live[static_cast<size_t>(storage.last) + 1] -= bytes;
  }
  for (size_t s = 1; s <= steps; s++) live[s] += live[s - 1];
  live.pop_back();
  for (size_t s = 0; s < steps; s++) live[s] += alignUp(lowered.steps[s].made.scratchBytes);
  return live;
}

void verify(const Lowered& lowered, size_t inputs) {
  std::vector<bool> known(lowered.values.size());
  auto fail = [](const std::string& what, int64_t node) {
    throw ProgramError("internal error: " + what, node);
  };
  auto define = [&](ValueId value, int64_t node) {
    if (value >= known.size()) fail("a value without a type", node);
    if (known[value]) fail("value " + std::to_string(value) + " is made twice", node);
    known[value] = true;
  };
  for (ValueId v = 0; v < inputs; v++) define(v, -1);
  for (const auto& [value, data] : lowered.constants) {
    define(value, -1);
    if (data.size() != lowered.values[value].bytes()) fail("a constant of the wrong size", -1);
  }
  for (const Step& step : lowered.steps) {
    if (!step.made.kernel) fail("a step without a kernel", step.node);
    for (ValueId read : step.reads) {
      if (read >= known.size() || !known[read]) {
        fail(step.made.label + " reads value " + std::to_string(read) + " before it is made", step.node);
      }
    }
    for (ValueId write : step.writes) define(write, step.node);
    for (auto [write, read] : step.made.inPlace) {
      if (write >= step.writes.size() || read >= step.reads.size())
        fail("an in-place pair out of range", step.node);
    }
  }
  for (ValueId value : lowered.outputs) {
    if (value >= known.size() || !known[value]) fail("an output that nothing makes", -1);
  }
}

}  // namespace lazuli
