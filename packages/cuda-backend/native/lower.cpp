#include "lower.h"

#include <algorithm>
#include <map>

#include "fuse.h"
#include "kernel_cache.h"
#include "kernels/norm_matmul.h"

namespace lazuli {
namespace {

std::string dims(const Dims& shape) {
  std::string text;
  for (int64_t dim : shape) {
    if (!text.empty()) text += "x";
    text += std::to_string(dim);
  }
  return text.empty() ? "scalar" : text;
}

/// Whether elements that are next in one are next in the other, so that one may be written over the other.
bool liesAs(const Layout& one, const Layout& other) {
  if (one.isDense() && other.isDense()) return true;
  if (one.shape != other.shape || one.offset != other.offset) return false;
  for (size_t dim = 0; dim < one.shape.size(); dim++)
    if (one.shape[dim] != 1 && one.strides[dim] != other.strides[dim]) return false;
  return true;
}

class Lowering {
 public:
  Lowering(const Program& program, bool fuse, const KernelMaker& maker)
      : program_(program), maker_(maker), kernels_(maker), fusion_(program, fuse, maker) {
    for (const Program::Value& value : program.values) lowered_.values.push_back(value.type);
    for (const Node& node : program.nodes) {
      if (node.op == Op::collective_done)
        started_[node.operands[0]] = node.integer(attr::collective_done::bucket);
    }
  }

  Lowered run() {
    findMatmuls(fusion_);
    if (isFused("LAZULI_FUSE_NORM")) {
      findNorms(fusion_, maker_);
      findSums(fusion_, maker_);
    }
    findInlined(fusion_);
    for (size_t i = 0; i < fusion_.roles.size(); i++) {
      if (fusion_.roles[i] != Role::constant) continue;
      const ValueId value = program_.nodes[i].results[0];
      if (fusion_.inlined[value] && !fusion_.stored[value]) continue;
      lowered_.constants.push_back({value, program_.nodes[i].bytes(attr::constant::data)});
    }
    for (const Unit& unit : groupUnits(fusion_)) {
      node_ = unit.nodes.back();
      try {
        add(unit);
      } catch (ProgramError& error) {
        if (error.node < 0) error.node = node_;
        throw;
      }
    }
    flush();
    flushReductions();
    node_ = -1;
    for (ValueId output : program_.outputs) lowered_.outputs.push_back(inMemory(output));
    return std::move(lowered_);
  }

 private:
  void add(const Unit& unit) {
    const Node& node = fusion_.node(unit.nodes[0]);
    const bool isNormUnit =
        unit.nodes.size() > 1 || fusion_.norms[static_cast<size_t>(unit.nodes[0])].cast >= 0;
    if (unit.role != Role::library || isNormUnit || readsOpen(node)) flush();
    if (unit.role != Role::fused) flushReductions();
    switch (unit.role) {
      case Role::fused:
        return addFused(unit);
      case Role::concat:
        return addFused(emitConcat(fusion_, unit), "concat", program_.type(node.results[0]).shape);
      case Role::matmul:
        return addMatmul(node, fusion_.matmuls[static_cast<size_t>(unit.nodes[0])]);
      default:
        return isNormUnit ? addNorm(unit)
                          : addLibrary(node, fusion_.sums[static_cast<size_t>(unit.nodes[0])]);
    }
  }

  void push(MadeKernel made, std::vector<ValueId> reads, std::vector<ValueId> writes) {
    lowered_.steps.push_back({std::move(made), std::move(reads), std::move(writes), node_});
  }

  void addFused(const Unit& unit) {
    FusedUnit made = emitFused(fusion_, unit);
    const bool isReduction = maker_.runsPartsTogether() && isReductionToOne(made);
    const auto isOpen = [&](ValueId read) {
      const auto& writes = reductions_.unit.writes;
      return std::find(writes.begin(), writes.end(), read) != writes.end();
    };
    if (!isReduction || std::any_of(made.reads.begin(), made.reads.end(), isOpen)) flushReductions();
    if (!isReduction) return addFused(std::move(made), "fused", unit.space);
    FusedUnit& all = reductions_.unit;
    for (FusedSpec& part : made.parts) {
      renumber(part, static_cast<uint32_t>(all.reads.size()), static_cast<uint32_t>(all.writes.size()));
      all.parts.push_back(std::move(part));
    }
    all.reads.insert(all.reads.end(), made.reads.begin(), made.reads.end());
    all.writes.insert(all.writes.end(), made.writes.begin(), made.writes.end());
    reductions_.space = unit.space;
    reductions_.node = node_;
  }

  static bool isReductionToOne(const FusedUnit& unit) {
    return std::all_of(unit.parts.begin(), unit.parts.end(), [](const FusedSpec& part) {
      return part.stores.empty() && !part.reduces.empty() &&
             std::all_of(part.reduced.begin(), part.reduced.end(), [](bool reduced) { return reduced; });
    });
  }

  /// The part's buffers as those from `reads` and `writes` on.
  static void renumber(FusedSpec& part, uint32_t reads, uint32_t writes) {
    for (FusedSpec::Value& value : part.values) {
      value.read += reads;
      if (value.first >= 0) value.first += static_cast<int>(reads);
    }
    for (FusedSpec::Store& store : part.stores) store.write += writes;
    for (FusedSpec::Reduce& reduce : part.reduces) reduce.write += writes;
  }

  /// Makes one kernel of the reductions that are open.
  void flushReductions() {
    if (reductions_.unit.parts.empty()) return;
    const Reductions open = std::move(reductions_);
    reductions_ = {};
    const size_t count = open.unit.parts.size();
    const int64_t at = std::exchange(node_, open.node);
    addFused(open.unit, count == 1 ? "fused" : "reductions",
             count == 1 ? open.space : Dims{static_cast<int64_t>(count)});
    node_ = at;
  }

  void addFused(FusedUnit unit, const char* label, const Dims& space) {
    MadeKernel made = kernels_.fused(std::move(unit.parts));
    made.label = std::string(label) + " " + name(program_.type(unit.writes[0]).dtype) + " " + dims(space);
    constexpr size_t kMostLabel = 120;
    if (made.detail.size() <= kMostLabel) made.label += ": " + made.detail;
    push(std::move(made), std::move(unit.reads), std::move(unit.writes));
  }

  Layout layoutOf(ValueId value) const {
    const Source& source = fusion_.sources[value];
    return *viewed(source.steps, fusion_.layouts[source.base]);
  }

  /// A dense copy of a read; one for all who want the same.
  ValueId copied(ValueId base, const Layout& layout) {
    std::vector<int64_t> key = {static_cast<int64_t>(base), layout.offset};
    key.insert(key.end(), layout.shape.begin(), layout.shape.end());
    key.insert(key.end(), layout.strides.begin(), layout.strides.end());
    const auto [entry, fresh] =
        copies_.try_emplace(std::move(key), static_cast<ValueId>(lowered_.values.size()));
    if (!fresh) return entry->second;
    lowered_.values.push_back({layout.dtype, layout.shape});
    FusedSpec spec;
    spec.space = layout.shape;
    FusedSpec::Value value;
    value.kind = FusedSpec::Value::Kind::load;
    value.lane = laneOf(layout.dtype);
    value.layout = layout;
    spec.values = {value};
    spec.stores = {{0, 0, Layout::dense({layout.dtype, layout.shape})}};
    std::vector<FusedSpec> parts;
    parts.push_back(std::move(spec));
    MadeKernel made = kernels_.fused(std::move(parts));
    made.detail.clear();
    made.label = std::string("copy ") + name(layout.dtype) + " " + dims(layout.shape);
    push(std::move(made), {base}, {entry->second});
    return entry->second;
  }

  /// The value that holds what `value` is, dense.
  ValueId inMemory(ValueId value) {
    const Source& source = fusion_.sources[value];
    const Layout layout = layoutOf(value);
    if (layout.isDense() && layout.elements() == program_.type(source.base).elements()) return source.base;
    return copied(source.base, layout);
  }

  void addLibrary(const Node& node, const std::optional<SumUnit>& sum) {
    const KernelEntry* entry = maker_.library(node.op);
    if (!entry)
      throw ProgramError(std::string(info(node.op).name) + ": " + maker_.device() +
                         " has no kernel for this op");
    auto [request, reads] = requestOf(node, *entry);
    std::vector<ValueId> writes = node.results;
    if (sum) {
      request.operands.push_back(Layout::dense(request.results[0]));
      reads.push_back(sum->residual);
      writes[0] = sum->result;
      if (sum->cast >= 0) {
        const ValueId narrow = fusion_.node(sum->cast).results[0];
        request.results.push_back(program_.type(narrow));
        request.targets.push_back(Layout::dense(program_.type(narrow)));
        writes.push_back(narrow);
      }
    }
    if (!open_.requests.empty() && !(open_.entry == entry && entry->joins(open_.requests, request))) flush();
    open_.entry = entry;
    open_.requests.push_back(std::move(request));
    open_.reads.insert(open_.reads.end(), reads.begin(), reads.end());
    open_.writes.insert(open_.writes.end(), writes.begin(), writes.end());
    open_.node = node_;
    if (!entry->joins) flush();
  }

  struct Request {
    KernelRequest request;
    std::vector<ValueId> reads;
  };
  Request requestOf(const Node& node, const KernelEntry& entry) {
    Request made{{node, {}, {}}, {}};
    auto& [request, reads] = made;
    for (size_t k = 0; k < node.operands.size(); k++) {
      const ValueId base = fusion_.sources[node.operands[k]].base;
      Layout layout = layoutOf(node.operands[k]);
      if (layout.isDense() || (entry.accepts && entry.accepts(node, k, layout))) {
        reads.push_back(base);
      } else {
        reads.push_back(copied(base, layout));
        layout = Layout::dense({layout.dtype, layout.shape});
      }
      request.operands.push_back(std::move(layout));
    }
    for (ValueId result : node.results) {
      request.results.push_back(program_.type(result));
      request.targets.push_back(fusion_.layouts[result]);
    }
    return made;
  }

  /// Whether the node needs what requests that are still open give.
  bool readsOpen(const Node& node) const {
    return std::any_of(node.operands.begin(), node.operands.end(), [&](ValueId operand) {
      return std::find(open_.writes.begin(), open_.writes.end(), fusion_.sources[operand].base) !=
             open_.writes.end();
    });
  }

  /// Makes one kernel of the open requests.
  void flush() {
    if (open_.requests.empty()) return;
    const Open open = std::move(open_);
    open_ = {};
    const Node& node = open.requests.back().node;
    MadeKernel made = kernels_.library(*open.entry, open.requests);
    if (made.label.empty()) made.label = info(node.op).name;
    std::vector<const Layout*> operands, targets;
    for (const KernelRequest& request : open.requests) {
      for (const Layout& layout : request.operands) operands.push_back(&layout);
      for (const Layout& layout : request.targets) targets.push_back(&layout);
    }
    // Written over in place, an operand that lies otherwise would lose elements that have yet to be read.
    std::erase_if(made.inPlace,
                  [&](const auto& pair) { return !liesAs(*operands[pair.second], *targets[pair.first]); });
    const bool isDone = node.op == Op::collective_done;
    const auto bucket = made.communicates ? started_.find(node.results[0]) : started_.end();
    const int64_t at = std::exchange(node_, open.node);
    push(std::move(made), open.reads, open.writes);
    node_ = at;
    Step& step = lowered_.steps.back();
    if (isDone) step.transfer = Transfer::done;
    if (bucket == started_.end()) return;
    step.transfer = Transfer::start;
    step.bucket = bucket->second;
    step.made.label += ", started";
  }

  void addMatmul(const Node& node, const MatmulUnit& unit) {
    Product product = productOf(node, unit);
    push(kernels_.matmul(product.spec), std::move(product.reads), {unit.result});
  }

  struct Product {
    MatmulSpec spec;
    std::vector<ValueId> reads;
  };
  Product productOf(const Node& node, const MatmulUnit& unit) {
    Product made;
    MatmulSpec& spec = made.spec;
    spec.lhsContract = node.ints(attr::dot_general::lhs_contract);
    spec.rhsContract = node.ints(attr::dot_general::rhs_contract);
    spec.lhsBatch = node.ints(attr::dot_general::lhs_batch);
    spec.rhsBatch = node.ints(attr::dot_general::rhs_batch);
    spec.a = layoutOf(node.operands[0]);
    spec.b = layoutOf(node.operands[1]);
    spec.out = {program_.type(unit.result).dtype, program_.type(node.results[0]).shape};
    spec.activation = unit.activation;
    spec.residual = unit.residual.has_value();
    std::vector<ValueId>& reads = made.reads;
    reads = {fusion_.sources[node.operands[0]].base, fusion_.sources[node.operands[1]].base};
    if (unit.bias) {
      spec.bias = biasLayout(*unit.bias, spec.out.shape.back());
      reads.push_back(fusion_.sources[*unit.bias].base);
    }
    Layout* layouts[] = {&spec.a, &spec.b, spec.bias ? &*spec.bias : nullptr};
    for (size_t k = 0; k < reads.size(); k++) {
      if (maker_.matmulAccepts(spec, k)) continue;
      reads[k] = copied(reads[k], *layouts[k]);
      *layouts[k] = Layout::dense({layouts[k]->dtype, layouts[k]->shape});
    }
    if (unit.residual) reads.push_back(*unit.residual);
    return made;
  }

  /// A norm, its cast and the matmuls that take its rows.
  void addNorm(const Unit& unit) {
    const Node& node = fusion_.node(unit.nodes[0]);
    const int32_t cast = fusion_.norms[static_cast<size_t>(unit.nodes[0])].cast;
    auto [request, reads] = requestOf(node, *maker_.library(node.op));
    const auto isReadBesides = [&](ValueId value) {
      const auto& uses = fusion_.uses[value];
      return std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
        return use.node < 0 || (use.node != cast && std::find(unit.nodes.begin(), unit.nodes.end(),
                                                              use.node) == unit.nodes.end());
      });
    };
    NormMatmulSpec spec{std::move(request), program_.type(node.results[0]).dtype, false, false, {}};
    std::vector<ValueId> writes;
    spec.keepsNorm = isReadBesides(node.results[0]);
    if (spec.keepsNorm) writes.push_back(node.results[0]);
    if (cast >= 0) {
      const ValueId narrow = fusion_.node(cast).results[0];
      spec.dtype = program_.type(narrow).dtype;
      spec.keepsCast = isReadBesides(narrow);
      if (spec.keepsCast) writes.push_back(narrow);
    }
    for (size_t i = 1; i < unit.nodes.size(); i++) {
      const MatmulUnit& matmul = fusion_.matmuls[static_cast<size_t>(unit.nodes[i])];
      Product product = productOf(fusion_.node(unit.nodes[i]), matmul);
      spec.products.push_back(std::move(product.spec));
      reads.insert(reads.end(), product.reads.begin() + 1, product.reads.end());
      writes.push_back(matmul.result);
    }
    push(kernels_.normMatmul(spec), std::move(reads), std::move(writes));
  }

  /// The bias as the vector along the last dim that it is, whatever dims of size 1 it has besides.
  Layout biasLayout(ValueId value, int64_t length) const {
    const Layout layout = layoutOf(value);
    return {layout.dtype, {length}, {layout.strides.back()}, layout.offset};
  }

  /// Library nodes that one kernel is to carry out.
  struct Open {
    const KernelEntry* entry = nullptr;
    std::vector<KernelRequest> requests;
    std::vector<ValueId> reads, writes;
    int64_t node = -1;
  };

  /// Fused reductions that one kernel is to carry out.
  struct Reductions {
    FusedUnit unit;
    Dims space;
    int64_t node = -1;
  };

  const Program& program_;
  const KernelMaker& maker_;
  KernelCache kernels_;
  Fusion fusion_;
  Lowered lowered_;
  Open open_;
  Reductions reductions_;
  int64_t node_ = -1;
  std::map<std::vector<int64_t>, ValueId> copies_;
  std::map<ValueId, int64_t> started_;  // results of collectives that are only started: their buckets
};

}  // namespace

Lowered lower(const Program& program, bool fuse, const KernelMaker& maker) {
  const std::optional<Program> absorbed =
      fuse && maker.attentionTurns() ? absorbRopes(program) : std::nullopt;
  return Lowering(absorbed ? *absorbed : program, fuse, maker).run();
}

Lowered lower(const Program& program, const KernelMaker& maker) {
  return lower(program, isFused("LAZULI_FUSE"), maker);
}

std::string describe(const Lowered& lowered) {
  std::string text;
  const auto list = [&](const std::vector<ValueId>& values) {
    std::string names;
    for (ValueId value : values) {
      const TensorType& type = lowered.values[value];
      names += names.empty() ? "%" : ", %";
      names += std::to_string(value) + " " + name(type.dtype) + format(type.shape);
    }
    return names;
  };
  for (const Step& step : lowered.steps) {
    const bool told = step.made.label.find(step.made.detail) != std::string::npos;
    text += step.made.label + "  (" + list(step.reads) + ") -> (" + list(step.writes) + ")";
    if (!told) text += "  " + step.made.detail;
    text += "\n";
  }
  return text;
}

}  // namespace lazuli
