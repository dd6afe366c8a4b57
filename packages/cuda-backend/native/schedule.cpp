#include "schedule.h"

#include <algorithm>

#include "storage.h"

namespace lazuli {
namespace {

// Two moves are tried, alone and together, and kept where the planned memory falls by more than a 64th:
// - lazy: a step that makes more than it frees waits until something needs its result (a cast of a weight, a
// mask);
// - eager: a step that frees more than it makes runs as soon as its operands are there (an optimizer's
// update, which ends
//   the life of a gradient, straight after that gradient).
// Where a collective is started and waited for apart, neither of the two moves past what the program has
// there: the partitioner placed them for what computes in between. Every device orders its collectives alike,
// because all order the same steps.

using Order = std::vector<uint32_t>;

class Scheduler {
 public:
  Scheduler(Lowered& lowered, const std::vector<bool>& donated)
      : lowered_(lowered),
        donated_(donated),
        plan_(assignStorage(lowered, donated)),
        count_(lowered.steps.size()) {}

  void run() {
    findReaders();
    findOrderings();
    findMoves();
    size_t best = cost(plan_);
    Order chosen;
    for (auto [lazy, eager] : {std::pair{true, false}, {false, true}, {true, true}}) {
      Order order = ordered(lazy, eager);
      size_t bytes = cost(order);
      if (bytes < best - best / 64) {
        best = bytes;
        chosen = std::move(order);
      }
    }
    if (!chosen.empty()) lowered_.steps = permuted(chosen);
  }

 private:
  void findReaders() {
    producer_.assign(lowered_.values.size(), -1);
    readers_.resize(lowered_.values.size());
    for (uint32_t s = 0; s < count_; s++) {
      for (ValueId v : lowered_.steps[s].writes) producer_[v] = s;
      for (ValueId v : lowered_.steps[s].reads) {
        if (readers_[v].empty() || readers_[v].back() != s) readers_[v].push_back(s);
      }
    }
  }

  /// What must run before a step: who makes its operands, and who still reads what it overwrites of a donated
  /// input.
  void findOrderings() {
    before_.resize(count_);
    for (uint32_t s = 0; s < count_; s++) {
      for (ValueId v : lowered_.steps[s].reads) {
        if (producer_[v] >= 0) before_[s].push_back(static_cast<uint32_t>(producer_[v]));
      }
    }
    for (const Storage& storage : plan_.storages) {
      if (storage.home != Storage::Home::input) continue;
      for (size_t i = 1; i < storage.values.size(); i++) {
        uint32_t writer = static_cast<uint32_t>(producer_[storage.values[i]]);
        for (uint32_t reader : readers_[storage.values[i - 1]]) {
          const Step& step = lowered_.steps[writer];
          if (reader != writer && !lowered_.steps[reader].isDoneOf(step)) before_[writer].push_back(reader);
        }
      }
    }
  }

  bool inArena(ValueId value) const { return plan_.storage(value).home == Storage::Home::arena; }

  void findMoves() {
    lazy_.assign(count_, false);
    eager_.assign(count_, false);
    beforeEager_.resize(count_);
    for (uint32_t s = 0; s < count_; s++) {
      const Step& step = lowered_.steps[s];
      if (step.transfer != Transfer::none) continue;
      size_t made = 0, freed = 0, freedOfOthers = 0;
      for (ValueId v : step.writes) made += inArena(v) ? alignUp(lowered_.values[v].bytes()) : 0;
      std::vector<ValueId> dying;
      for (ValueId v : step.reads) {
        bool dies = producer_[v] >= 0 && inArena(v) && readers_[v].back() == s;
        if (!dies || std::find(dying.begin(), dying.end(), v) != dying.end()) continue;
        dying.push_back(v);
        size_t bytes = alignUp(lowered_.values[v].bytes());
        freed += bytes;
        // A lazy producer waits along with this step.
        if (!lazy_[static_cast<size_t>(producer_[v])]) freedOfOthers += bytes;
      }
      lazy_[s] = made > freedOfOthers;
      eager_[s] = freed > made;
      if (!eager_[s]) continue;
      // Before the other readers are done, nothing dies here.
      for (ValueId v : dying)
        beforeEager_[s].insert(beforeEager_[s].end(), readers_[v].begin(), readers_[v].end() - 1);
    }
  }

  /// The base order with lazy steps put off and eager ones brought forward.
  Order ordered(bool lazy, bool eager) const {
    std::vector<std::vector<uint32_t>> before = before_, after(count_);
    std::vector<uint32_t> waitsFor(count_);  // steps that are not lazy
    auto isLazy = [&](uint32_t s) { return lazy && lazy_[s]; };
    // By lazy step: the steps that are not, and that it or lazy ones before it need.
    std::vector<std::vector<uint32_t>> through(count_);
    const auto tidy = [](std::vector<uint32_t>& steps) {
      std::sort(steps.begin(), steps.end());
      steps.erase(std::unique(steps.begin(), steps.end()), steps.end());
    };
    for (uint32_t s = 0; s < count_; s++) {
      if (eager) before[s].insert(before[s].end(), beforeEager_[s].begin(), beforeEager_[s].end());
      tidy(before[s]);
      std::vector<uint32_t> needed;
      for (uint32_t p : before[s]) {
        if (isLazy(p))
          needed.insert(needed.end(), through[p].begin(), through[p].end());
        else
          needed.push_back(p);
      }
      tidy(needed);
      if (isLazy(s)) {
        through[s] = std::move(needed);
        continue;
      }
      // Nothing but lazy steps is brought forward along with an eager one: what is neither keeps its order.
      for (uint32_t p : needed) after[p].push_back(s);
      waitsFor[s] = static_cast<uint32_t>(needed.size());
    }
    Order order;
    std::vector<bool> done(count_);
    std::vector<size_t> next(count_);  // of before[s]: those before it are done
    std::vector<uint32_t> stack;
    auto emit = [&](uint32_t first) {
      stack.push_back(first);
      while (!stack.empty()) {
        uint32_t s = stack.back();
        if (done[s]) {
          stack.pop_back();
          continue;
        }
        while (next[s] < before[s].size() && done[before[s][next[s]]]) next[s]++;
        if (next[s] < before[s].size()) {
          stack.push_back(before[s][next[s]]);
          continue;
        }
        stack.pop_back();
        done[s] = true;
        order.push_back(s);
        if (isLazy(s)) continue;
        for (size_t i = after[s].size(); i-- > 0;) {
          uint32_t user = after[s][i];
          if (--waitsFor[user] == 0 && eager && eager_[user] && !isLazy(user)) stack.push_back(user);
        }
      }
    };
    for (uint32_t s = 0; s < count_; s++) {
      if (!isLazy(s)) emit(s);
    }
    for (uint32_t s = 0; s < count_; s++) emit(s);
    return order;
  }

  std::vector<Step> permuted(const Order& order) {
    std::vector<Step> steps;
    steps.reserve(count_);
    for (uint32_t s : order) steps.push_back(std::move(lowered_.steps[s]));
    return steps;
  }

  size_t cost(const StoragePlan& plan) const {
    size_t peak = 0;
    for (size_t bytes : liveBytes(lowered_, plan)) peak = std::max(peak, bytes);
    return peak + plan.outputBytes(lowered_);
  }

  size_t cost(const Order& order) {
    lowered_.steps = permuted(order);
    size_t bytes = cost(assignStorage(lowered_, donated_));
    Order inverse(count_);
    for (uint32_t i = 0; i < count_; i++) inverse[order[i]] = i;
    lowered_.steps = permuted(inverse);
    return bytes;
  }

  Lowered& lowered_;
  const std::vector<bool>& donated_;
  StoragePlan plan_;  // of the base order
  size_t count_;
  std::vector<int64_t> producer_;               // by value
  std::vector<std::vector<uint32_t>> readers_;  // by value: steps, ascending
  std::vector<std::vector<uint32_t>> before_, beforeEager_;
  std::vector<bool> lazy_, eager_;
};

}  // namespace

void schedule(Lowered& lowered, const std::vector<bool>& donated) { Scheduler(lowered, donated).run(); }

}  // namespace lazuli
