// Type rules of the collectives.
#include "collectives/communicator.h"
#include "program_check.h"

namespace lazuli {
namespace {

// Far more devices than there are, far fewer than what products overflow at.
constexpr int64_t kMostDevices = int64_t{1} << 24;

// `mesh` and `axes` come first in every schema.
const std::vector<int64_t>& mesh(const Node& node) { return node.ints(attr::axis_index::mesh); }

bool hasMesh(Op op) {
  switch (op) {
    case Op::all_reduce:
    case Op::all_gather:
    case Op::reduce_scatter:
    case Op::all_to_all:
    case Op::collective_permute:
    case Op::shard_slice:
    case Op::axis_index:
      return true;
    default:
      return false;
  }
}

/// Whether the op can be started and waited for apart.
bool isTransfer(Op op) { return hasMesh(op) && op != Op::shard_slice && op != Op::axis_index; }

int64_t meshDevices(const Node& node) {
  const std::span<const int64_t> sizes = meshSizes(mesh(node));
  return elements(Dims(sizes.begin(), sizes.end()));
}

/// What follows the sizes names every device once.
void checkOrder(const NodeCheck& check, std::span<const int64_t> order, int64_t devices) {
  check.require(static_cast<int64_t>(order.size()) == devices, "the mesh does not name every device");
  std::vector<bool> isNamed(order.size());
  for (int64_t device : order) {
    const bool isNew = device >= 0 && device < devices && !isNamed[static_cast<size_t>(device)];
    check.require(isNew, "the mesh names a device twice, or one that there is not");
    isNamed[static_cast<size_t>(device)] = true;
  }
}

/// Devices of the node's group.
int64_t groupSize(const NodeCheck& check) {
  const std::span<const int64_t> sizes = meshSizes(mesh(check.node));
  int64_t devices = 1, group = 1;
  for (int64_t size : sizes) {
    check.require(size >= 1 && size <= kMostDevices, "an axis of the mesh is of no size");
    devices *= size;
    check.require(devices <= kMostDevices, "the mesh is too large");
  }
  const std::span<const int64_t> all = mesh(check.node);
  if (all.size() > sizes.size()) checkOrder(check, all.subspan(sizes.size() + 1), devices);
  const std::vector<bool> named = check.dims(attr::axis_index::axes, sizes.size());
  for (size_t axis = 0; axis < sizes.size(); axis++) group *= named[axis] ? sizes[axis] : 1;
  return group;
}

void requireReduction(const NodeCheck& check) {
  // `kind` is in the same place in both schemas: sum, prod, max, min.
  const bool compares = check.node.integer(attr::all_reduce::kind) >= 2;
  check.require(compares || check[0].dtype != DType::boolean, "bool has no sum or product");
}

void divide(const NodeCheck& check, int64_t& size, int64_t parts) {
  check.require(size % parts == 0, "the dim is not divided by the group's devices");
  size /= parts;
}

/// What was declared may be larger than what decode allows a value to be only where this overflows.
void multiply(const NodeCheck& check, int64_t& size, int64_t parts) {
  check.require(!__builtin_mul_overflow(size, parts, &size), "the result is too large");
}

void checkPairs(const NodeCheck& check, int64_t group) {
  const std::vector<int64_t>& pairs = check.node.ints(attr::collective_permute::pairs);
  check.require(pairs.size() % 2 == 0, "pairs are not pairs");
  std::vector<bool> isTarget(static_cast<size_t>(group));
  for (size_t i = 0; i < pairs.size(); i++) {
    check.require(pairs[i] >= 0 && pairs[i] < group, "pairs name a member that there is not");
    if (i % 2 == 0) continue;
    check.require(!isTarget[static_cast<size_t>(pairs[i])], "pairs name a target twice");
    isTarget[static_cast<size_t>(pairs[i])] = true;
  }
}

}  // namespace

std::vector<TensorType> collectiveTypes(const NodeCheck& check) {
  if (check.node.op == Op::collective_done) return {check[0]};
  const int64_t group = groupSize(check);
  if (check.node.op == Op::axis_index) return {{DType::i32, {}}};
  TensorType type = check[0];
  const size_t rank = type.shape.size();
  switch (check.node.op) {
    case Op::all_reduce:
      requireReduction(check);
      break;
    case Op::all_gather:
      multiply(check, type.shape[check.dim(attr::all_gather::dim, rank)], group);
      break;
    case Op::reduce_scatter:
      requireReduction(check);
      divide(check, type.shape[check.dim(attr::reduce_scatter::dim, rank)], group);
      break;
    case Op::all_to_all:
      divide(check, type.shape[check.dim(attr::all_to_all::split_dim, rank)], group);
      multiply(check, type.shape[check.dim(attr::all_to_all::concat_dim, rank)], group);
      break;
    case Op::collective_permute:
      checkPairs(check, group);
      break;
    case Op::shard_slice: {
      const int64_t size = check.node.integer(attr::shard_slice::size);
      check.require(size >= 0 && size <= kMaxElements, "the size is out of range");
      type.shape[check.dim(attr::shard_slice::dim, rank)] = size;
      break;
    }
    default:
      check.fail("is not known to this device");
  }
  return {type};
}

void checkStarted(const Program& program) {
  std::vector<int64_t> doneOf(program.values.size(), -1);  // by value: the node that waits for it
  const auto fail = [](const Node& node, size_t position, const std::string& what) {
    throw ProgramError("[" + std::string(name(node.op)) + "] " + what, static_cast<int64_t>(position));
  };
  for (size_t n = 0; n < program.nodes.size(); n++) {
    const Node& node = program.nodes[n];
    if (node.op != Op::collective_done) continue;
    const int32_t maker = program.values[node.operands[0]].node;
    if (maker < 0 || !isTransfer(program.nodes[static_cast<size_t>(maker)].op))
      fail(node, n, "waits for no collective");
    if (program.nodes[static_cast<size_t>(maker)].operands[0] != node.operands[1])
      fail(node, n, "names a source that the collective does not read");
    doneOf[node.operands[0]] = static_cast<int64_t>(n);
  }
  for (size_t n = 0; n < program.nodes.size(); n++) {
    const Node& node = program.nodes[n];
    for (size_t k = 0; k < node.operands.size(); k++) {
      const int64_t done = doneOf[node.operands[k]];
      if (done >= 0 && (done != static_cast<int64_t>(n) || k != 0))
        fail(node, n, "reads a collective that is under way until node " + std::to_string(done));
    }
  }
  for (ValueId output : program.outputs) {
    if (doneOf[output] >= 0)
      throw ProgramError("an output is a collective that is under way until node " +
                         std::to_string(doneOf[output]));
  }
}

void checkMeshes(const Program& program, int64_t devices) {
  for (size_t n = 0; n < program.nodes.size(); n++) {
    const Node& node = program.nodes[n];
    if (!hasMesh(node.op) || meshDevices(node) == devices) continue;
    const std::span<const int64_t> sizes = meshSizes(mesh(node));
    throw ProgramError(
        "[" + std::string(name(node.op)) + "] is over a mesh " + format(Dims(sizes.begin(), sizes.end())) +
            " of " + std::to_string(meshDevices(node)) + " devices, but there are " + std::to_string(devices),
        static_cast<int64_t>(n));
  }
}

}  // namespace lazuli
