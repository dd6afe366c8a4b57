#include "kernels/collective.h"

#include <algorithm>

#include "collectives/communicator.h"
#include "kernels/rows.h"
#include "parallel.h"

namespace lazuli {
namespace {

/// What the collective kernels have in common: the op's operand, dense, and its mesh.
struct Site {
  DType dtype = DType::i32;
  Dims shape;
  std::vector<int64_t> mesh, axes;
  std::string label;

  explicit Site(const KernelRequest& request)
      : mesh(request.node.ints(attr::axis_index::mesh)), axes(request.node.ints(attr::axis_index::axes)) {
    label = name(request.node.op);
    if (!request.operands.empty()) {
      dtype = request.operands[0].dtype;
      shape = request.operands[0].shape;
      label = lazuli::label(name(request.node.op), request.operands[0]);
    }
    label += " over " + std::to_string(size());
  }

  size_t size() const {
    size_t devices = 1;
    for (int64_t axis : axes) devices *= static_cast<size_t>(mesh[static_cast<size_t>(axis)]);
    return devices;
  }
  size_t itemBytes() const { return sizeBytes(dtype); }
  size_t bytes() const { return static_cast<size_t>(elements(shape)) * itemBytes(); }
  /// Bytes of one position along `dim`: a step there.
  size_t inner(size_t dim) const {
    return static_cast<size_t>(elements(Dims(shape.begin() + static_cast<ptrdiff_t>(dim) + 1, shape.end()))) *
           itemBytes();
  }
  size_t length(size_t dim) const { return static_cast<size_t>(shape[dim]); }
  Group group(const KernelArgs& args) const {
    return groupOf(mesh, axes, args.communicator ? args.communicator->device() : 0);
  }
};

/// A kernel that gives each device's run its group. A group of one gets a copy of the operand, or nothing to
/// do where that is in place.
template <class Run>
MadeKernel madeOf(const Site& site, Run run) {
  MadeKernel made;
  made.label = site.label;
  const size_t bytes = site.bytes();
  if (site.size() == 1 || bytes == 0) {
    made.kernel = kernelOf([bytes](const KernelArgs& args) {
      if (args.writes[0] != args.reads[0] && bytes > 0)
        args.mover->copy(args.writes[0], args.reads[0], bytes);
    });
    made.inPlace = {{0, 0}};
    return made;
  }
  made.communicates = true;
  made.kernel = kernelOf([site, run](const KernelArgs& args) {
    if (!args.communicator) throw CollectiveError(site.label + ": there are no other devices");
    const Group group = site.group(args);
    run(args, Meeting{group, site.label});
  });
  return made;
}

Reduction reductionOf(const KernelRequest& request) {
  return {request.operands[0].dtype, static_cast<ReduceKind>(request.node.integer(attr::all_reduce::kind))};
}

MadeKernel makeAllReduce(const KernelRequest& request) {
  const Site site(request);
  const Reduction reduction = reductionOf(request);
  const auto count = static_cast<size_t>(elements(site.shape));
  MadeKernel made = madeOf(site, [=](const KernelArgs& args, const Meeting& meeting) {
    args.communicator->allReduce(meeting, args.reads[0], args.writes[0], count, reduction);
  });
  made.inPlace = {{0, 0}};
  made.flops = static_cast<double>(count);
  return made;
}

/// x's part of one member: blocks of `bytes`, one for each index of the dims before.
Spread blocks(size_t bytes, size_t members) { return {bytes, bytes * members}; }

MadeKernel makeAllGather(const KernelRequest& request) {
  const Site site(request);
  const auto dim = static_cast<size_t>(request.node.integer(attr::all_gather::dim));
  const size_t block = site.length(dim) * site.inner(dim), bytes = site.bytes();
  const Exchange exchange{bytes, {bytes, bytes}, blocks(block, site.size()), 0, block};
  return madeOf(site, [=](const KernelArgs& args, const Meeting& meeting) {
    args.communicator->exchange(meeting, args.reads[0], args.writes[0], exchange);
  });
}

MadeKernel makeReduceScatter(const KernelRequest& request) {
  const Site site(request);
  const Reduction reduction = reductionOf(request);
  const auto dim = static_cast<size_t>(request.node.integer(attr::reduce_scatter::dim));
  const size_t block = site.length(dim) / site.size() * site.inner(dim), bytes = site.bytes() / site.size();
  const Exchange exchange{bytes, blocks(block, site.size()), {bytes, bytes}, block, 0};
  MadeKernel made = madeOf(site, [=](const KernelArgs& args, const Meeting& meeting) {
    args.communicator->reduceScatter(meeting, args.reads[0], args.writes[0], exchange, reduction);
  });
  made.flops = static_cast<double>(elements(site.shape));
  return made;
}

MadeKernel makeAllToAll(const KernelRequest& request) {
  const Site site(request);
  const auto split = static_cast<size_t>(request.node.integer(attr::all_to_all::split_dim));
  const auto concat = static_cast<size_t>(request.node.integer(attr::all_to_all::concat_dim));
  const size_t members = site.size(), bytes = site.bytes() / members;
  const size_t fromBlock = site.length(split) / members * site.inner(split);
  // The same part, as it lies in the result: what follows `concat` may have been split.
  const size_t inner = concat < split ? site.inner(concat) / members : site.inner(concat);
  const size_t length = concat == split ? site.length(concat) / members : site.length(concat);
  const size_t toBlock = length * inner;
  const Exchange exchange{bytes, blocks(fromBlock, members), blocks(toBlock, members), fromBlock, toBlock};
  return madeOf(site, [=](const KernelArgs& args, const Meeting& meeting) {
    args.communicator->exchange(meeting, args.reads[0], args.writes[0], exchange);
  });
}

MadeKernel makePermute(const KernelRequest& request) {
  const Site site(request);
  const std::vector<int64_t> pairs = request.node.ints(attr::collective_permute::pairs);
  const size_t bytes = site.bytes();
  MadeKernel made = madeOf(site, [=](const KernelArgs& args, const Meeting& meeting) {
    int64_t source = -1;
    std::vector<int64_t> targets;
    for (size_t i = 0; i < pairs.size(); i += 2) {
      if (static_cast<size_t>(pairs[i + 1]) == meeting.group.self) source = pairs[i];
      if (static_cast<size_t>(pairs[i]) == meeting.group.self) targets.push_back(pairs[i + 1]);
    }
    if (source < 0) args.mover->zero(args.writes[0], bytes);
    args.communicator->permute(meeting, args.reads[0], args.writes[0], bytes, source, targets);
  });
  if (site.size() == 1 && pairs.empty()) {  // the one member is no target
    made.kernel = kernelOf([bytes](const KernelArgs& args) {
      if (bytes > 0) args.mover->zero(args.writes[0], bytes);
    });
  }
  return made;
}

MadeKernel makeShardSlice(const KernelRequest& request) {
  const Site site(request);
  const auto dim = static_cast<size_t>(request.node.integer(attr::shard_slice::dim));
  const auto size = static_cast<size_t>(request.node.integer(attr::shard_slice::size));
  const size_t inner = site.inner(dim), length = site.length(dim);
  const auto outer = static_cast<size_t>(
      elements(Dims(site.shape.begin(), site.shape.begin() + static_cast<ptrdiff_t>(dim))));
  MadeKernel made;
  made.label = site.label;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    if (outer * size * inner == 0) return;
    const size_t self = site.group(args).self;
    const size_t start = self <= length / size ? std::min(length, self * size) : length;
    const size_t kept = std::min(size, length - start);
    const size_t width = size * inner;
    if (kept > 0) {
      args.mover->copyRows(args.writes[0], width, args.reads[0] + start * inner, length * inner, kept * inner,
                           outer);
    }
    if (kept < size) args.mover->zeroRows(args.writes[0] + kept * inner, width, width - kept * inner, outer);
  });
  return made;
}

MadeKernel makeAxisIndex(const KernelRequest& request) {
  const Site site(request);
  MadeKernel made;
  made.label = site.label;
  made.kernel = kernelOf([site](const KernelArgs& args) {
    args.mover->setWord(args.writes[0], static_cast<uint32_t>(site.group(args).self));
  });
  return made;
}

/// The first operand, in its own memory where nothing reads it later: of collective_done where the collective
/// put it, of a barrier where it was.
MadeKernel makeSame(const KernelRequest& request) {
  MadeKernel made;
  made.label = label(info(request.node.op).name, request.operands[0]);
  made.kernel = kernelOf([bytes = request.results[0].bytes()](const KernelArgs& args) {
    if (args.writes[0] != args.reads[0] && bytes > 0) args.mover->copy(args.writes[0], args.reads[0], bytes);
  });
  made.inPlace = {{0, 0}};
  return made;
}

}  // namespace

const KernelEntry allReduceEntry = {makeAllReduce}, allGatherEntry = {makeAllGather},
                  reduceScatterEntry = {makeReduceScatter}, allToAllEntry = {makeAllToAll},
                  collectivePermuteEntry = {makePermute}, shardSliceEntry = {makeShardSlice},
                  axisIndexEntry = {makeAxisIndex}, collectiveDoneEntry = {makeSame},
                  barrierEntry = {makeSame};

}  // namespace lazuli
