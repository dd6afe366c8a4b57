#include <algorithm>
#include <map>
#include <queue>

#include "fuse.h"

namespace lazuli {
namespace {

constexpr size_t kMostNodes = 64;  // in a kernel: its tiles must stay in L1
constexpr size_t kMostStreams =
    16;  // full-size values that a kernel reads and writes: the processor's prefetchers follow about as many

// Full-size results of library kernels that a kernel waits for: each lies in memory until the last is there.
// What the steps of a ring give is added up as they go, not at the end.
constexpr size_t kMostAwaited = 4;

/// A stretch of an iteration space seen as the row-major line of its elements: the dim of stride `low` and
/// extent high / low.
struct Interval {
  int64_t low, high;
  bool operator==(const Interval&) const = default;
};

struct Dependency {
  uint32_t unit;
  bool fusable;  // one element needs the same element, in order
};

/// A unit or several fused ones; what it reaches is looked up through `find`.
struct Group {
  std::vector<uint32_t> members;
  int64_t elements = 0;
  std::vector<int64_t> boundaries;  // strides of its members' dims, ascending, 1 and `elements` included
  std::vector<Interval> reduced;    // merged, ascending; empty: no reduction
  bool reduces = false;
  std::vector<Interval> whole;   // dims that may not be split (padded ones)
  std::vector<ValueId> streams;  // full-size values read in order
};

std::vector<Interval> intervals(const Dims& shape, const std::function<bool(size_t)>& wanted) {
  std::vector<Interval> result;
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    const int64_t next = stride * shape[i];
    if (wanted(i) && shape[i] != 1) {
      if (!result.empty() && result.back().high == stride) {
        result.back().high = next;
      } else {
        result.push_back({stride, next});
      }
    }
    stride = next;
  }
  return result;
}

class Grouper {
 public:
  explicit Grouper(const Fusion& fusion) : fusion_(fusion) {}

  std::vector<Unit> run() {
    makeUnits();
    if (fusion_.fuse) {
      mergeNorms();
      for (uint32_t u = 0; u < nodes_.size(); u++)
        for (const Dependency& dependency : dependencies_[u])
          if (dependency.fusable) tryMerge(dependency.unit, u);
      mergeSiblings();
    }
    return ordered();
  }

 private:
  void makeUnits() {
    const Program& program = fusion_.program;
    std::vector<int32_t> unitOf(program.values.size(), -1);
    std::map<int32_t, uint32_t> normOf;  // by matmul that may go with a norm: the norm's unit
    for (size_t i = 0; i < program.nodes.size(); i++) {
      const Node& node = program.nodes[i];
      const Role role = fusion_.roles[i];
      if (role == Role::none || role == Role::absorbed || role == Role::constant) continue;
      if (role == Role::fused && fusion_.inlined[node.results[0]] && !fusion_.stored[node.results[0]])
        continue;
      const uint32_t unit = static_cast<uint32_t>(nodes_.size());
      nodes_.push_back(static_cast<int32_t>(i));
      for (ValueId result : node.results) unitOf[result] = static_cast<int32_t>(unit);
      if (role == Role::matmul) unitOf[fusion_.matmuls[i].result] = static_cast<int32_t>(unit);
      if (const auto& sum = fusion_.sums[i]) {
        unitOf[sum->result] = static_cast<int32_t>(unit);
        if (sum->cast >= 0) unitOf[fusion_.node(sum->cast).results[0]] = static_cast<int32_t>(unit);
      }
      const NormUnit& norm = fusion_.norms[i];
      if (norm.cast >= 0) unitOf[fusion_.node(norm.cast).results[0]] = static_cast<int32_t>(unit);
      for (int32_t matmul : norm.matmuls) normOf[matmul] = unit;
    }
    parents_.resize(nodes_.size());
    groups_.resize(nodes_.size());
    dependencies_.resize(nodes_.size());
    visited_.assign(nodes_.size(), 0);
    for (uint32_t u = 0; u < nodes_.size(); u++) {
      parents_[u] = u;
      const Node& node = fusion_.node(nodes_[u]);
      const Role role = fusion_.roles[static_cast<size_t>(nodes_[u])];
      Group& group = groups_[u];
      group.members = {u};
      if (role == Role::fused) describe(node, group);
      const auto depend = [&](ValueId base, bool fusable) {
        if (unitOf[base] < 0) return;
        const Dependency dependency{static_cast<uint32_t>(unitOf[base]), fusable};
        dependencies_[u].push_back(dependency);
      };
      if (role == Role::fused || role == Role::concat) {
        eachLeaf(fusion_, node, [&](ValueId base, const ViewSteps& steps) {
          const bool linear = role == Role::fused && !readsMemory(node.op) && fusion_.isLinear(base, steps);
          const bool computed =
              fusion_.roleOf(base) == Role::fused && !isReduction(fusion_.producer(base).op);
          depend(base, linear && computed);
          if (linear) group.streams.push_back(base);
        });
        sortUnique(group.streams);
      } else {
        const auto norm = normOf.find(nodes_[u]);
        for (size_t k = 0; k < node.operands.size(); k++)
          depend(fusion_.sources[node.operands[k]].base, k == 0 && norm != normOf.end());
        if (norm != normOf.end()) withNorm_.push_back({norm->second, u});
        const MatmulUnit& matmul = fusion_.matmuls[static_cast<size_t>(nodes_[u])];
        if (matmul.bias) depend(fusion_.sources[*matmul.bias].base, false);
        if (matmul.residual) depend(*matmul.residual, false);
        const auto& sum = fusion_.sums[static_cast<size_t>(nodes_[u])];
        if (sum) depend(sum->residual, false);
      }
    }
  }

  static void sortUnique(std::vector<ValueId>& values) {
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
  }

  void describe(const Node& node, Group& group) const {
    const Dims& space = fusion_.space(node);
    group.elements = elements(space);
    group.boundaries = {1};
    int64_t stride = 1;
    for (size_t i = space.size(); i-- > 0;) {
      stride *= space[i];
      if (space[i] != 1) group.boundaries.push_back(stride);
    }
    if (isReduction(node.op)) {
      const Dims dims = reducedDims(node);
      group.reduces = true;
      group.reduced = intervals(space, [&](size_t i) {
        return std::find(dims.begin(), dims.end(), static_cast<int64_t>(i)) != dims.end();
      });
    }
    if (node.op == Op::pad) {
      const Dims& low = node.ints(attr::pad::low);
      const Dims& high = node.ints(attr::pad::high);
      const Dims& interior = node.ints(attr::pad::interior);
      int64_t inner = 1;
      for (size_t i = space.size(); i-- > 0;) {
        if (low[i] != 0 || high[i] != 0 || interior[i] != 0) group.whole.push_back({inner, inner * space[i]});
        inner *= space[i];
      }
    }
  }

 public:
  static Dims reducedDims(const Node& node) {
    switch (node.op) {
      case Op::argmax:
        return {node.integer(attr::argmax::dim)};
      case Op::argmin:
        return {node.integer(attr::argmin::dim)};
      default:
        return node.ints(attr::sum::dims);
    }
  }

 private:
  uint32_t find(uint32_t unit) {
    while (parents_[unit] != unit) unit = parents_[unit] = parents_[parents_[unit]];
    return unit;
  }

  bool isFused(uint32_t unit) const {
    return fusion_.roles[static_cast<size_t>(nodes_[unit])] == Role::fused;
  }

  bool tryMerge(uint32_t first, uint32_t second) {
    uint32_t a = find(first), b = find(second);
    if (a == b || !isFused(a) || !isFused(b)) return false;
    Group& into = groups_[a];
    Group& from = groups_[b];
    if (into.elements != from.elements || into.elements == 0) return false;
    if (into.members.size() + from.members.size() > kMostNodes) return false;
    if (into.reduces && from.reduces && into.reduced != from.reduced) return false;
    std::vector<ValueId> streams = into.streams;
    streams.insert(streams.end(), from.streams.begin(), from.streams.end());
    sortUnique(streams);
    if (streams.size() > kMostStreams) return false;
    // What a barrier passes on was there before.
    const auto awaited = std::count_if(streams.begin(), streams.end(), [&](ValueId value) {
      return fusion_.roleOf(value) == Role::library && fusion_.producer(value).op != Op::barrier;
    });
    if (static_cast<size_t>(awaited) > kMostAwaited) return false;
    std::vector<int64_t> boundaries;
    std::set_union(into.boundaries.begin(), into.boundaries.end(), from.boundaries.begin(),
                   from.boundaries.end(), std::back_inserter(boundaries));
    for (size_t i = 1; i < boundaries.size(); i++)
      if (boundaries[i] % boundaries[i - 1] != 0) return false;
    std::vector<Interval> whole = into.whole;
    whole.insert(whole.end(), from.whole.begin(), from.whole.end());
    for (const Interval& interval : whole)
      for (int64_t boundary : boundaries)
        if (boundary > interval.low && boundary < interval.high) return false;
    if (dependsThroughOthers(a, b)) return false;
    parents_[b] = a;
    into.members.insert(into.members.end(), from.members.begin(), from.members.end());
    into.boundaries = std::move(boundaries);
    into.streams = std::move(streams);
    into.whole = std::move(whole);
    if (from.reduces) {
      into.reduces = true;
      into.reduced = from.reduced;
    }
    from = {};
    return true;
  }

  /// Whether one of the groups needs the other's results in a way other than element by element.
  bool dependsThroughOthers(uint32_t a, uint32_t b) {
    stamp_++;
    std::vector<uint32_t> open;
    const auto follow = [&](uint32_t unit, bool ofPair) {
      for (const Dependency& dependency : dependencies_[unit]) {
        const uint32_t group = find(dependency.unit);
        if (group == a || group == b) {
          if (ofPair && dependency.fusable) continue;
          return true;
        }
        if (visited_[group] == stamp_) continue;
        visited_[group] = stamp_;
        open.push_back(group);
      }
      return false;
    };
    for (uint32_t side : {a, b})
      for (uint32_t member : groups_[side].members)
        if (follow(member, true)) return true;
    while (!open.empty()) {
      const uint32_t group = open.back();
      open.pop_back();
      for (uint32_t member : groups_[group].members)
        if (follow(member, false)) return true;
    }
    return false;
  }

  /// A matmul goes with the norm whose rows it takes, unless it waits for what others make of the norm or of
  /// the matmuls that go with it.
  void mergeNorms() {
    for (const auto& [norm, matmul] : withNorm_) {
      if (dependsThroughOthers(norm, matmul)) continue;
      parents_[matmul] = norm;
      groups_[norm].members.push_back(matmul);
      groups_[matmul] = {};
    }
  }

  /// Kernels over the same elements of the same large value read it once.
  void mergeSiblings() {
    std::map<ValueId, std::vector<uint32_t>> readers;
    for (uint32_t u = 0; u < nodes_.size(); u++)
      if (find(u) == u && isFused(u) && groups_[u].elements > 1)
        for (ValueId value : groups_[u].streams) readers[value].push_back(u);
    for (const auto& [value, units] : readers)
      for (size_t i = 1; i < units.size(); i++)
        for (size_t j = 0; j < i; j++)
          if (tryMerge(units[j], units[i])) break;
  }

  /// Kahn's algorithm; of the units that are ready, the one that the program has first.
  std::vector<Unit> ordered() {
    std::vector<int> waiting(nodes_.size(), 0);
    std::vector<std::vector<uint32_t>> readers(nodes_.size());
    for (uint32_t u = 0; u < nodes_.size(); u++) {
      for (const Dependency& dependency : dependencies_[u]) {
        const uint32_t from = find(dependency.unit), to = find(u);
        if (from == to) continue;
        readers[from].push_back(to);
        waiting[to]++;
      }
    }
    using Entry = std::pair<int32_t, uint32_t>;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready;
    const auto position = [&](uint32_t group) {
      const auto& members = groups_[group].members;
      return nodes_[*std::max_element(members.begin(), members.end())];
    };
    for (uint32_t u = 0; u < nodes_.size(); u++)
      if (find(u) == u && waiting[u] == 0) ready.push({position(u), u});
    std::vector<Unit> units;
    while (!ready.empty()) {
      const uint32_t group = ready.top().second;
      ready.pop();
      units.push_back(unitOf(group));
      for (uint32_t reader : readers[group])
        if (--waiting[reader] == 0) ready.push({position(reader), reader});
    }
    return units;
  }

  Unit unitOf(uint32_t root) const {
    const Group& group = groups_[root];
    Unit unit;
    unit.role = fusion_.roles[static_cast<size_t>(nodes_[root])];
    for (uint32_t member : group.members) unit.nodes.push_back(nodes_[member]);
    std::sort(unit.nodes.begin(), unit.nodes.end());
    if (unit.role != Role::fused) return unit;
    if (group.elements == 0) {
      const Node& node = fusion_.node(unit.nodes[0]);
      unit.space = fusion_.space(node);
      unit.reduced.assign(unit.space.size(), false);
      if (isReduction(node.op))
        for (int64_t dim : reducedDims(node)) unit.reduced[static_cast<size_t>(dim)] = true;
      return unit;
    }
    for (size_t i = group.boundaries.size() - 1; i > 0; i--) {
      const int64_t low = group.boundaries[i - 1], high = group.boundaries[i];
      unit.space.push_back(high / low);
      unit.reduced.push_back(std::any_of(
          group.reduced.begin(), group.reduced.end(),
          [&](const Interval& interval) { return interval.low <= low && high <= interval.high; }));
    }
    return unit;
  }

  const Fusion& fusion_;
  std::vector<int32_t> nodes_;  // by unit
  std::vector<uint32_t> parents_;
  std::vector<Group> groups_;
  std::vector<std::vector<Dependency>> dependencies_;
  std::vector<std::pair<uint32_t, uint32_t>> withNorm_;  // a norm's unit, and one that may go with it
  std::vector<uint32_t> visited_;
  uint32_t stamp_ = 0;
};

}  // namespace

std::vector<Unit> groupUnits(const Fusion& fusion) { return Grouper(fusion).run(); }

}  // namespace lazuli
