#pragma once

#include <functional>

#include "kernels/fused.h"
#include "kernels/matmul.h"
#include "views.h"

namespace lazuli {

/// How a node is carried out.
enum class Role : uint8_t {
  none,  // a view, or dead
  constant,
  fused,     // in a fused kernel: elementwise, source, reduction, pad, or a reshape that needs a copy
  absorbed,  // in the epilogue of a matmul, the cast of a norm, or what a library kernel adds
  matmul,
  concat,
  library,
};

/// Who reads a value, through views; node -1: the program's outputs.
struct Use {
  int32_t node;
  uint32_t operand;
};

/// A value as a read of another one that lies in memory or is computed.
struct Source {
  ValueId base;
  ViewSteps steps;
};

/// A dot_general and what its kernel does besides.
struct MatmulUnit {
  ValueId result = 0;  // of the last node absorbed
  std::optional<ValueId> bias, residual;
  Activation activation = Activation::none;
};

/// Who takes the rows of an rms_norm or layer_norm as they are made (kernels/norm_matmul.h).
struct NormUnit {
  int32_t cast = -1;             // the node that narrows them, absorbed; -1: none
  std::vector<int32_t> matmuls;  // that may, in program order; groupUnits decides
};

/// What a library kernel adds to its first result (KernelEntry::addsResidual).
struct SumUnit {
  ValueId residual;
  ValueId result;     // of the add, absorbed
  int32_t cast = -1;  // the node that narrows the sum, absorbed; -1: none
};

/// The program with the ropes that only attention reads, and those that turn its cotangents back, done by the
/// kernels of attention (kernels/attention.h says how its nodes tell them); none where there are none such.
std::optional<Program> absorbRopes(const Program& program);

/// What fusion decides about a program, one pass after another: findMatmuls, findNorms, findSums,
/// findInlined, then groupUnits.
struct Fusion {
  Fusion(const Program& program, bool fuse, const KernelMaker& maker);

  const Program& program;
  const bool fuse;
  std::vector<Layout> layouts;  // by value: how it lies in its buffer, dense but for some libraries' results
  std::vector<Source> sources;  // by value
  std::vector<Role> roles;      // by node
  std::vector<std::vector<Use>> uses;        // by value: of those that are no view of another one
  std::vector<MatmulUnit> matmuls;           // by node, of role matmul
  std::vector<NormUnit> norms;               // by node
  std::vector<std::optional<SumUnit>> sums;  // by node, of role library
  std::vector<bool> inlined;                 // by value: fused readers compute it for themselves
  std::vector<bool> stored;                  // by value: must lie in memory

  const Node& node(int32_t index) const { return program.nodes[static_cast<size_t>(index)]; }
  const Node& producer(ValueId value) const { return node(program.values[value].node); }
  bool isComputed(ValueId value) const { return program.values[value].node >= 0; }
  Role roleOf(ValueId value) const {
    return isComputed(value) ? roles[static_cast<size_t>(program.values[value].node)] : Role::none;
  }
  /// The shape that a fused node is evaluated over.
  const Dims& space(const Node& node) const;
  /// The views from an operand's base to the node's space.
  ViewSteps stepsOf(const Node& node, uint32_t operand) const;
  /// Whether the elements of `base` are read one by one in order.
  bool isLinear(ValueId base, const ViewSteps& steps) const;
};

/// Whether a variable (kernel.h) leaves a fusion on.
bool isFused(const char* variable);

bool isReduction(Op op);
/// A pad reads its operand with bounds, a random source its key and where it starts: all from memory.
bool readsMemory(Op op);
/// The numbers that a source's values are made from, as if they lay in memory: along one dim for iota,
/// row-major in the whole of which they are a part for random values.
Layout elementNumbers(const Program& program, const Node& node);
/// The one element of a full or constant node, if that is what the value is.
bool isScalarConstant(const Fusion& fusion, ValueId value);

/// The one cast of a float32 value to a half type that is needed in memory; -1 where there is none.
int32_t narrowCastOf(const Fusion& fusion, ValueId value);

/// By value, how it lies in its buffer: a result of a library kernel in the order in which its readers see it
/// through views, where they would have to copy it otherwise; or as the result that its one reader may write
/// over it.
std::vector<Layout> chooseLayouts(const Program& program, const std::vector<bool>& live,
                                  const KernelMaker& maker);

void findMatmuls(Fusion& fusion);
void findNorms(Fusion& fusion, const KernelMaker& maker);
void findSums(Fusion& fusion, const KernelMaker& maker);
void findInlined(Fusion& fusion);

/// One step to be: fused nodes that share a kernel, a norm with matmuls, or one node of another role.
struct Unit {
  Role role;
  std::vector<int32_t> nodes;  // in program order
  /// Fused: the finest factors of the iteration space, into which every member's shape divides.
  Dims space;
  std::vector<bool> reduced;  // by dim of space
};

/// Groups the fused nodes and orders all units so that each comes after what it reads.
std::vector<Unit> groupUnits(const Fusion& fusion);

/// Where a fused read ends: at a value in memory, or at another unit's.
void eachLeaf(const Fusion& fusion, const Node& node,
              const std::function<void(ValueId, const ViewSteps&)>& visit);

/// A unit's kernels with the values they read and write.
struct FusedUnit {
  std::vector<FusedSpec> parts;
  std::vector<ValueId> reads, writes;
};
FusedUnit emitFused(const Fusion& fusion, const Unit& unit);
FusedUnit emitConcat(const Fusion& fusion, const Unit& unit);

}  // namespace lazuli
