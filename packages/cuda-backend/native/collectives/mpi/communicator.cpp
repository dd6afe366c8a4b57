#include "collectives/mpi/communicator.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>

namespace lazuli {
namespace {

using std::chrono::steady_clock;

constexpr size_t kStagingBytes = size_t{1} << 23;
constexpr size_t kLine = 64;
constexpr size_t kSmallBytes = 4096;  // reduced by every rank for itself: one message less on the way
constexpr Spread kDense{SIZE_MAX, SIZE_MAX};

// A rank that waits lets others have the processor from the first, as there may be fewer than ranks. A large
// message moves only while MPI is called: sleep comes late, and is short. Beside computation it comes at
// once.
constexpr std::chrono::microseconds kYields{2000}, kSleep{50};

size_t roundDown(size_t bytes) { return std::max(kLine, bytes / kLine * kLine); }

}  // namespace

void MpiCommunicator::breakDown(const std::string& error, bool isOwn) {
  {
    std::lock_guard lock(mutex_);
    job_.fail(error, isOwn);
  }
  throw CollectiveError(error);
}

void MpiCommunicator::fail(const std::string& error) {
  std::lock_guard lock(mutex_);
  job_.fail(error, true);
}

std::string MpiCommunicator::notice() {
  std::lock_guard lock(mutex_);
  if (!job_.failure().empty()) return job_.failure();
  char text[1024];
  const int told = job_.api().notice(text, sizeof(text));
  if (told == 0) return "";
  job_.fail(told > 0 ? text : job_.api().error(), false);
  return job_.failure();
}

/// Calls a function of MPI's, whose error ends the job.
template <class Function>
int MpiCommunicator::call(const std::string& label, Function function) {
  std::string error;
  {
    std::lock_guard lock(mutex_);
    const int result = function(job_.api());
    if (result >= 0) return result;
    error = job_.api().error();
  }
  breakDown(label.empty() ? error : label + ": " + error);
}

void MpiCommunicator::send(const std::byte* data, size_t bytes, int rank) {
  call("", [&](const LazuliMpiApi& api) { return api.send(data, bytes, rank); });
}

void MpiCommunicator::receive(std::byte* data, size_t bytes, int rank) {
  call("", [&](const LazuliMpiApi& api) { return api.receive(data, bytes, rank); });
}

void MpiCommunicator::checkPeers(const std::string& label, steady_clock::time_point start) {
  char text[1024];
  const int told = call(label, [&](const LazuliMpiApi& api) { return api.notice(text, sizeof(text)); });
  if (told > 0) breakDown(text, false);
  const std::string self = "device " + std::to_string(job_.rank()) + ": ";
  if (closed_) breakDown(self + "the device was closed");
  if (isInterrupted_) throw CollectiveError(self + "the run failed");  // which tells the others of its reason
  if (steady_clock::now() - start < timeout_) return;
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%g", static_cast<double>(timeout_.count()) / 1000);
  const int missing = call(label, [](const LazuliMpiApi& api) { return api.waitsFor(); });
  breakDown(label + ": rank " + std::to_string(missing) + " did not answer within " + seconds + " s");
}

void MpiCommunicator::finish(const std::string& label) {
  const auto start = steady_clock::now();
  while (true) {
    for (int i = 0; i < 16; i++) {
      if (call(label, [](const LazuliMpiApi& api) { return api.poll(); }) == 0) return;
    }
    checkPeers(label, start);
    if (isAwaited() && steady_clock::now() - start < kYields)
      sched_yield();
    else
      std::this_thread::sleep_for(kSleep);
  }
}

std::byte* MpiCommunicator::staging(size_t bytes) {
  if (!job_.failure().empty()) throw CollectiveError(job_.failure());
  if (!refusal_.empty()) throw CollectiveError(refusal_);
  if (staging_.size() < bytes) staging_.resize(bytes);
  return staging_.data();
}

void MpiCommunicator::exchange(const Meeting& meeting, const std::byte* from, std::byte* to,
                               const Exchange& exchange) {
  const Group& group = meeting.group;
  const size_t members = group.size(), self = group.self, bytes = exchange.bytes;
  const bool packs = exchange.from.block < bytes, unpacks = exchange.to.block < bytes;
  const size_t segment = packs || unpacks ? std::min(bytes, roundDown(kStagingBytes / (2 * members))) : bytes;
  std::byte* out = staging((packs ? members * segment : 0) + (unpacks ? members * segment : 0));
  std::byte* in = out + (packs ? members * segment : 0);
  copySpread(from + self * exchange.fromStep, exchange.from, to + self * exchange.toStep, exchange.to, bytes);
  for (size_t at = 0; at < bytes; at += segment) {
    const size_t length = std::min(segment, bytes - at);
    for (size_t m = 0; m < members; m++) {
      if (m == self) continue;
      std::byte* place = unpacks ? in + m * segment : to + m * exchange.toStep + at;
      receive(place, length, group.devices[m]);
    }
    for (size_t i = 1; i < members; i++) {
      const size_t m = (self + i) % members;  // not everyone to the same one
      const std::byte* part = from + m * exchange.fromStep;
      if (packs) {
        copyRange(part, exchange.from, at, out + m * segment, kDense, 0, length);
        send(out + m * segment, length, group.devices[m]);
      } else {
        send(part + at, length, group.devices[m]);
      }
    }
    finish(meeting.label);
    for (size_t m = 0; unpacks && m < members; m++) {
      if (m != self)
        copyRange(in + m * segment, kDense, 0, to + m * exchange.toStep, exchange.to, at, length);
    }
  }
}

void MpiCommunicator::reduceScatter(const Meeting& meeting, const std::byte* from, std::byte* to,
                                    const Exchange& exchange, Reduction reduction) {
  const Group& group = meeting.group;
  const size_t members = group.size(), self = group.self, bytes = exchange.bytes;
  const size_t segment = std::min(bytes, roundDown(kStagingBytes / (2 * members)));
  std::byte* out = staging(2 * members * segment);
  std::byte* in = out + members * segment;
  std::vector<const std::byte*> parts(members);
  for (size_t at = 0; at < bytes; at += segment) {
    const size_t length = std::min(segment, bytes - at);
    for (size_t m = 0; m < members; m++) {
      parts[m] = in + m * segment;
      if (m != self) receive(in + m * segment, length, group.devices[m]);
    }
    for (size_t i = 0; i < members; i++) {
      const size_t m = (self + i) % members;
      std::byte* packed = m == self ? in + m * segment : out + m * segment;
      copyRange(from + m * exchange.fromStep, exchange.from, at, packed, kDense, 0, length);
      if (m != self) send(packed, length, group.devices[m]);
    }
    finish(meeting.label);
    reduceMembers(parts, kDense, to + at, length / sizeBytes(reduction.dtype), reduction);
  }
}

void MpiCommunicator::allReduce(const Meeting& meeting, const std::byte* from, std::byte* to, size_t elements,
                                Reduction reduction) {
  const size_t size = sizeBytes(reduction.dtype), bytes = elements * size;
  if (bytes <= kSmallBytes) return reduceWhole(meeting, from, to, bytes, reduction);
  // What the others send of one segment fills the staging.
  const size_t members = meeting.group.size();
  const size_t segment = roundDown(kStagingBytes / members) * members;
  for (size_t at = 0; at < bytes; at += segment)
    reducePart(meeting, from + at, to + at, std::min(segment, bytes - at) / size, reduction);
}

void MpiCommunicator::reduceWhole(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes,
                                  Reduction reduction) {
  const Group& group = meeting.group;
  std::byte* in = staging(group.size() * kSmallBytes);
  std::vector<const std::byte*> parts(group.size());
  for (size_t m = 0; m < group.size(); m++) {
    parts[m] = m == group.self ? from : in + m * kSmallBytes;
    if (m != group.self) receive(in + m * kSmallBytes, bytes, group.devices[m]);
  }
  for (int rank : group.devices)
    if (rank != device()) send(from, bytes, rank);
  finish(meeting.label);
  reduceMembers(parts, kDense, to, bytes / sizeBytes(reduction.dtype), reduction);
}

/// Each reduces a part and gives it to the others.
void MpiCommunicator::reducePart(const Meeting& meeting, const std::byte* from, std::byte* to,
                                 size_t elements, Reduction reduction) {
  const Group& group = meeting.group;
  const size_t members = group.size(), self = group.self, size = sizeBytes(reduction.dtype);
  const size_t bytes = elements * size;
  const size_t part = ((bytes + members - 1) / members + kLine - 1) / kLine * kLine;
  const auto begin = [&](size_t m) { return std::min(bytes, m * part); };
  const auto length = [&](size_t m) { return begin(m + 1) - begin(m); };
  const auto others = [&](auto&& body) {
    for (size_t i = 1; i < members; i++) body((self + i) % members);
  };
  std::byte* in = staging(members * part);
  std::vector<const std::byte*> parts(members);
  parts[self] = from + begin(self);
  others([&](size_t m) {
    parts[m] = in + m * part;
    receive(in + m * part, length(self), group.devices[m]);
  });
  others([&](size_t m) { send(from + begin(m), length(m), group.devices[m]); });
  finish(meeting.label);
  if (length(self) > 0) reduceMembers(parts, kDense, to + begin(self), length(self) / size, reduction);
  others([&](size_t m) { receive(to + begin(m), length(m), group.devices[m]); });
  others([&](size_t m) { send(to + begin(self), length(self), group.devices[m]); });
  finish(meeting.label);
}

void MpiCommunicator::permute(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes,
                              int64_t source, std::span<const int64_t> targets) {
  const Group& group = meeting.group;
  const auto self = static_cast<int64_t>(group.self);
  staging(0);
  if (source == self) std::memcpy(to, from, bytes);
  if (source >= 0 && source != self) receive(to, bytes, group.devices[static_cast<size_t>(source)]);
  for (int64_t target : targets)
    if (target != self) send(from, bytes, group.devices[static_cast<size_t>(target)]);
  finish(meeting.label);
}

std::vector<std::vector<std::byte>> MpiCommunicator::gather(std::span<const std::byte> bytes) {
  const auto ranks = static_cast<size_t>(job_.size()), self = static_cast<size_t>(job_.rank());
  const std::string label = "exchange";
  staging(0);
  std::vector<uint64_t> sizes(ranks);
  sizes[self] = bytes.size();
  const auto each = [&](auto&& body) {
    for (size_t r = 0; r < ranks; r++)
      if (r != self) body(r, static_cast<int>(r));
    finish(label);
  };
  const auto sizeAt = [&](size_t r) { return reinterpret_cast<std::byte*>(&sizes[r]); };
  each([&](size_t r, int rank) {
    receive(sizeAt(r), sizeof(uint64_t), rank);
    send(sizeAt(self), sizeof(uint64_t), rank);
  });
  std::vector<std::vector<std::byte>> all(ranks);
  for (size_t r = 0; r < ranks; r++) all[r].resize(sizes[r]);
  all[self].assign(bytes.begin(), bytes.end());
  each([&](size_t r, int rank) {
    receive(all[r].data(), sizes[r], rank);
    send(all[self].data(), sizes[self], rank);
  });
  return all;
}

}  // namespace lazuli
