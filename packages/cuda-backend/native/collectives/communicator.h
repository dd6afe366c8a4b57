#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "types.h"

namespace lazuli {

/// The devices that take part in a collective, by their numbers and in the order of the members.
struct Group {
  std::vector<int> devices;
  size_t self = 0;  // this device's place among them
  size_t size() const { return devices.size(); }
};

/// The sizes of a mesh's axes, which come first in its attribute (docs/ir.md).
std::span<const int64_t> meshSizes(std::span<const int64_t> mesh);

/// The group of `device`: the devices that differ from it only along `axes` (docs/ir.md).
Group groupOf(std::span<const int64_t> mesh, std::span<const int64_t> axes, int device);

/// Bytes in their order, laid out in blocks that start `stride` bytes apart.
struct Spread {
  size_t block, stride;

  size_t at(size_t position) const { return position / block * stride + position % block; }
  /// Bytes that follow without a gap.
  size_t left(size_t position) const { return block - position % block; }
};

/// What every member takes of every member m: `bytes` from m's memory at (its own place) * fromStep on, which
/// it puts at m * toStep of its own. An all_gather takes the whole (fromStep 0), an all_to_all a part.
struct Exchange {
  size_t bytes;
  Spread from, to;
  size_t fromStep, toStep;
};

enum class ReduceKind : uint8_t { sum, prod, max, min };  // as on the wire

/// Elements are combined in the order of the members, the half types in float32 and rounded once: the same
/// bits in every member and by every transport.
struct Reduction {
  DType dtype;
  ReduceKind kind;
};

/// A collective under way. `label` names it in errors.
struct Meeting {
  const Group& group;
  const std::string& label;
};

/// How one device moves bytes to and from the others. Every device of a mesh makes the same calls in the same
/// order, each for its own group; the k-th call on a group meets the k-th of its other members. Calls come
/// from one thread at a time, return when the memory may be used again, and throw CollectiveError where
/// another device failed, or did not come in time: then others may be at that memory until the run has ended
/// on all devices. Groups have two members or more.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int device() const = 0;

  /// `from` and `to` are apart.
  virtual void exchange(const Meeting& meeting, const std::byte* from, std::byte* to,
                        const Exchange& exchange) = 0;
  /// As an exchange whose parts are not put one after the other but combined, dense, in `to`.
  virtual void reduceScatter(const Meeting& meeting, const std::byte* from, std::byte* to,
                             const Exchange& exchange, Reduction reduction) = 0;
  /// `to` may be `from`.
  virtual void allReduce(const Meeting& meeting, const std::byte* from, std::byte* to, size_t elements,
                         Reduction reduction) = 0;
  /// `source` is the member whose bytes this one gets, or -1: then `to` stays as it is. `targets` get this
  /// one's. `from` and `to` are apart.
  virtual void permute(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes,
                       int64_t source, std::span<const int64_t> targets) = 0;

  /// This device's run failed for a reason of its own: other processes that wait for it are told.
  virtual void fail(const std::string&) {}
  /// From any thread: what another process said that the job failed with; "" where none has.
  virtual std::string notice() { return ""; }
  /// From any thread: what waits is to give up.
  virtual void close() {}
  /// From any thread: the run has failed, and what waits on another thread is to give up. Where devices share
  /// a process, their mesh tells them.
  virtual void interrupt() {}

  /// From any thread: whether the device has nothing to do but to wait for the collective under way. Else it
  /// computes, and who waits here is to leave it the processor.
  void setAwaited(bool isAwaited) { isAwaited_.store(isAwaited, std::memory_order_relaxed); }
  bool isAwaited() const { return isAwaited_.load(std::memory_order_relaxed); }

  /// Memory for what a call gives and gets, which outlives a run that fails. The next one asked for may be
  /// the same.
  std::byte* packing(size_t bytes);

 private:
  std::atomic<bool> isAwaited_{true};
  std::unique_ptr<std::byte[]> packing_;
  size_t packingBytes_ = 0;
};

/// Moves `bytes` bytes from one layout to another, on the device's threads.
void copySpread(const std::byte* from, Spread fromSpread, std::byte* to, Spread toSpread, size_t bytes);

/// As copySpread, from and to positions in the middle.
void copyRange(const std::byte* from, Spread fromSpread, size_t fromStart, std::byte* to, Spread toSpread,
               size_t toStart, size_t bytes);

/// to[i] = members[0][i] combined with members[1][i] ... for `elements` elements, on the device's threads.
/// Every member is laid out as `spread`, `to` is dense and may be one of the members where they are dense.
void reduceMembers(std::span<const std::byte* const> members, Spread spread, std::byte* to, size_t elements,
                   Reduction reduction);

}  // namespace lazuli
