#include <algorithm>
#include <map>

#include "kernels/fused_plan.h"

namespace lazuli {
namespace {

using Value = FusedSpec::Value;
using Kind = FusedSpec::Value::Kind;

class Emitter {
 public:
  Emitter(FusedPlan& plan, const std::vector<bool>& dead, std::vector<int> accessOf,
          std::vector<int> storeAccess)
      : plan_(plan), dead_(dead), accessOf_(std::move(accessOf)), storeAccess_(std::move(storeAccess)) {}

  void emit() {
    const FusedSpec& spec = plan_.spec;
    const size_t count = spec.values.size();
    invariant_.assign(count, false);
    for (size_t i = 0; i < count; i++) {
      if (dead_[i]) continue;
      invariant_[i] = isInvariant(static_cast<int>(i));
      TileStep step = stepFor(static_cast<int>(i));
      if (invariant_[i]) {
        plan_.invariant.push_back(step);
        continue;
      }
      plan_.opsPerElement += cost(spec.values[i]);
      const int direct = directStore(static_cast<int>(i));
      if (direct >= 0) step.direct = storeAccess_[direct];
      plan_.steps.push_back(step);
      addStores(static_cast<int>(i));
    }
    for (size_t i = 0; i < count; i++)
      if (invariant_[i]) addStores(static_cast<int>(i));
    assignSlots();
    findInPlace();
  }

 private:
  bool isInvariant(int index) const {
    const Value& value = plan_.spec.values[index];
    if (value.kind == Kind::constant) return true;
    if (value.isRead()) {
      const TileAccess& access = plan_.accesses[accessOf_[index]];
      if (!access.pad.empty()) return false;
      for (size_t i = 0; i < access.strides.size(); i++)
        if (access.strides[i] != 0 && plan_.extents[i] != 1) return false;
      return true;
    }
    for (int arg : value.args)
      if (arg >= 0 && !invariant_[arg]) return false;
    return true;
  }

  static int64_t cost(const Value& value) {
    switch (value.kind) {
      case Kind::uniform:
      case Kind::normal:
        return 8;
      case Kind::op:
        return value.op >= TileOp::exp && value.op <= TileOp::softplus ? 4 : 1;
      default:
        return 1;
    }
  }

  TileStep stepFor(int index) const {
    const TileTable& table = tileTable();
    const Value& value = plan_.spec.values[index];
    TileStep step{TileStep::Kind::op, nullptr, index, {0, 0, 0}, accessOf_[index], -1};
    switch (value.kind) {
      case Kind::constant:
        step.kind = TileStep::Kind::constant;
        return step;
      case Kind::load:
        step.kind = TileStep::Kind::load;
        return step;
      case Kind::index:
        step.kind = TileStep::Kind::index;
        return step;
      case Kind::uniform:
        step.kind = TileStep::Kind::uniform;
        return step;
      case Kind::normal:
        step.kind = TileStep::Kind::normal;
        return step;
      default:
        break;
    }
    // The operands' lane decides; where's condition is a byte.
    const int lanes = value.op == TileOp::where && value.kind == Kind::op ? value.args[1] : value.args[0];
    const Lane from = plan_.spec.values[lanes].lane;
    step.fn = value.kind == Kind::cast ? table.cast[static_cast<int>(from)][static_cast<int>(value.lane)]
                                       : table.op[static_cast<int>(value.op)][static_cast<int>(from)];
    if (!step.fn) throw ProgramError(std::string("no ") + name(value.op) + " for this dtype on the CPU");
    for (int i = 0; i < 3; i++) step.args[i] = value.args[i] >= 0 ? value.args[i] : value.args[0];
    return step;
  }

  /// The store, if any, whose memory this value can be made in: of the lane's own type.
  int directStore(int index) const {
    const auto& stores = plan_.spec.stores;
    for (size_t i = 0; i < stores.size(); i++) {
      const DType dtype = plan_.accesses[storeAccess_[i]].dtype;
      if (stores[i].value == index && dtype != DType::bf16 && dtype != DType::f16) return static_cast<int>(i);
    }
    return -1;
  }

  /// A value that was made in its store's memory is recognised when the tile runs.
  void addStores(int index) {
    const auto& stores = plan_.spec.stores;
    for (size_t i = 0; i < stores.size(); i++)
      if (stores[i].value == index)
        plan_.steps.push_back(
            {TileStep::Kind::store, nullptr, index, {index, index, index}, storeAccess_[i], -1});
  }

  /// Linear scan. A slot is taken over at the step that reads it last only by a value of the same lane size,
  /// as loops read and write element by element.
  void assignSlots() {
    const FusedSpec& spec = plan_.spec;
    const size_t count = spec.values.size();
    size_t bytes = 1;
    for (size_t i = 0; i < count; i++)
      if (!dead_[i]) bytes = std::max(bytes, laneBytes(spec.values[i].lane));
    const size_t slotBytes = bytes * kTile;
    const int end = static_cast<int>(plan_.steps.size());
    lastUse_.assign(count, -1);
    for (int s = 0; s < end; s++) {
      const TileStep& step = plan_.steps[s];
      lastUse_[step.value] = std::max(lastUse_[step.value], s);
      if (step.kind == TileStep::Kind::op)
        for (int arg : step.args) lastUse_[arg] = s;
    }
    for (const auto& reduce : spec.reduces) lastUse_[reduce.value] = end;
    plan_.slots.assign(count, 0);
    size_t next = 0;
    std::vector<size_t> free;
    auto take = [&] {
      if (free.empty()) return slotBytes * next++;
      const size_t slot = free.back();
      free.pop_back();
      return slot;
    };
    for (size_t i = 0; i < count; i++)
      if (invariant_[i]) plan_.slots[i] = take();
    for (int s = 0; s < end; s++) {
      const TileStep& step = plan_.steps[s];
      if (step.kind == TileStep::Kind::store) {
        if (lastUse_[step.value] == s && !invariant_[step.value]) free.push_back(plan_.slots[step.value]);
        continue;
      }
      std::vector<size_t> dying, later;
      if (step.kind == TileStep::Kind::op)
        for (int i = 0; i < 3; i++) {
          const int arg = step.args[i];
          if (invariant_[arg] || lastUse_[arg] != s ||
              std::find(step.args, step.args + i, arg) != step.args + i)
            continue;
          const bool same = laneBytes(spec.values[arg].lane) == laneBytes(spec.values[step.value].lane);
          (same ? free : later).push_back(plan_.slots[arg]);
        }
      plan_.slots[step.value] = take();
      if (lastUse_[step.value] == s) later.push_back(plan_.slots[step.value]);
      free.insert(free.end(), later.begin(), later.end());
    }
    plan_.frameBytes = slotBytes * next;
  }

  /// A store may overwrite a load's memory where both are dense in the space, the buffer is read nowhere
  /// else, and no step after the store reads it.
  void findInPlace() {
    const FusedSpec& spec = plan_.spec;
    for (size_t k = 0; k < spec.stores.size(); k++) {
      const auto& store = spec.stores[k];
      if (!store.layout.isDense()) continue;
      const auto writes = [&](const TileStep& step) {
        return step.direct == storeAccess_[k] ||
               (step.kind == TileStep::Kind::store && step.access == storeAccess_[k]);
      };
      const int written = static_cast<int>(std::find_if(plan_.steps.begin(), plan_.steps.end(), writes) -
                                           plan_.steps.begin());
      std::map<uint32_t, int> reads;
      for (size_t i = 0; i < spec.values.size(); i++) {
        const Value& value = spec.values[i];
        if (value.kind == Kind::uniform || value.kind == Kind::normal) {
          reads[value.read] += 2;
          if (value.first >= 0) reads[static_cast<uint32_t>(value.first)] += 2;
        }
        if (value.kind == Kind::load) reads[value.read]++;
      }
      for (size_t i = 0; i < spec.values.size(); i++) {
        const Value& value = spec.values[i];
        if (dead_[i] || value.kind != Kind::load || !value.pad.empty() || reads[value.read] != 1) continue;
        if (!value.layout.isDense() || sizeBytes(value.layout.dtype) != sizeBytes(store.layout.dtype))
          continue;
        if (invariant_[i] && plan_.total > 1) continue;
        if (lastUse_[i] <= written) plan_.inPlace.push_back({store.write, value.read});
      }
    }
  }

  FusedPlan& plan_;
  const std::vector<bool>& dead_;
  std::vector<int> accessOf_, storeAccess_;
  std::vector<bool> invariant_;
  std::vector<int> lastUse_;
};

}  // namespace

void planSteps(FusedPlan& plan, const std::vector<bool>& dead, std::vector<int> accessOf,
               std::vector<int> storeAccess) {
  Emitter(plan, dead, std::move(accessOf), std::move(storeAccess)).emit();
}

}  // namespace lazuli
