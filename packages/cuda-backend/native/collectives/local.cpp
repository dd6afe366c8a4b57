#include "collectives/local.h"

#include <cstring>
#include <thread>

#include "parallel.h"

namespace lazuli {
namespace {

constexpr size_t kSmallBytes = 4096;  // reduced by every member for itself: one meeting less
constexpr size_t kLine = 64;

RunFailure closedFailure() { return {"the device was closed", -1, RunFailure::Kind::run}; }

}  // namespace

LocalMesh::LocalMesh(int devices, std::chrono::milliseconds timeout)
    : devices_(devices),
      timeout_(timeout),
      // Where there are fewer processors than devices, the one that is waited for may need this one.
      patience_(devices <= static_cast<int>(std::thread::hardware_concurrency()) ? 20 : 0) {}

LocalMesh::~LocalMesh() = default;

LocalMesh::Place& LocalMesh::place(const std::vector<int>& devices) {
  std::lock_guard lock(mutex_);
  std::unique_ptr<Place>& place = places_[devices];
  if (!place) {
    place = std::make_unique<Place>();
    place->devices = devices;
    place->posts.resize(devices.size());
  }
  return *place;
}

bool LocalMesh::fail(RunFailure failure) {
  std::lock_guard lock(mutex_);
  if (failed_) return false;
  failure_ = std::move(failure);
  failed_ = true;
  for (auto& [devices, place] : places_) {
    { std::lock_guard waiting(place->mutex); }  // who is about to wait has seen it, or waits now
    place->changed.notify_all();
  }
  return true;
}

void LocalMesh::close() {
  closed_ = true;
  fail(closedFailure());
}

/// Says what the run failed with: its outcome, whatever this device adds.
void LocalMesh::giveUp() {
  std::lock_guard lock(mutex_);
  throw CollectiveError(failure_->error);
}

std::string LocalMesh::missing(const Place& place, const Meeting& meeting) const {
  const uint64_t mine = place.posts[meeting.group.self].arrivals;
  std::string names;
  int count = 0;
  for (size_t m = 0; m < place.posts.size(); m++) {
    if (place.posts[m].arrivals >= mine) continue;
    names += (count++ > 0 ? ", " : "") + std::to_string(place.devices[m]);
  }
  const double seconds = static_cast<double>(timeout_.count()) / 1000;
  char text[32];
  std::snprintf(text, sizeof(text), "%g", seconds);
  return (count > 1 ? "devices " : "device ") + names + " did not reach " + meeting.label + " within " +
         text + " s";
}

void LocalMesh::meet(Place& place, const Meeting& meeting) {
  uint64_t round;
  {
    std::lock_guard lock(place.mutex);
    if (failed_)
      round = UINT64_MAX;
    else {
      round = place.rounds;
      place.posts[meeting.group.self].arrivals++;
      if (++place.arrived == place.devices.size()) {
        place.arrived = 0;
        place.rounds++;
      }
    }
  }
  if (round == UINT64_MAX) giveUp();
  if (place.rounds != round) {
    place.changed.notify_all();
    return;
  }
  awaitRound(place, round, meeting);
}

void LocalMesh::awaitRound(Place& place, uint64_t round, const Meeting& meeting) {
  const auto over = [&] { return place.rounds != round || failed_; };
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < patience_) {
    if (over()) break;
  }
  std::unique_lock lock(place.mutex);
  const bool came = place.changed.wait_until(lock, start + timeout_, over);
  if (place.rounds != round) return;
  std::string error = came ? "" : missing(place, meeting);
  lock.unlock();
  if (!came) {
    fail({error, -1, RunFailure::Kind::collective});
    throw CollectiveError(error);
  }
  giveUp();
}

void LocalMesh::reset() {
  for (auto& [devices, place] : places_) {
    std::lock_guard lock(place->mutex);
    place->arrived = 0;
    for (Post& post : place->posts) post.arrivals = 0;
  }
  failed_ = closed_.load();
  if (closed_)
    failure_ = closedFailure();
  else
    failure_.reset();
}

std::optional<RunFailure> LocalMesh::endRun() {
  std::unique_lock lock(mutex_);
  const uint64_t run = runs_;
  if (++ending_ == devices_) {
    ending_ = 0;
    outcome_ = std::make_shared<const std::optional<RunFailure>>(std::move(failure_));
    if (failed_) reset();
    runs_++;
    ended_.notify_all();
  } else {
    // No limit: every device comes here, once its kernel returns or its collective fails.
    ended_.wait(lock, [&] { return runs_ != run; });
  }
  // The next run ends only when this device has come to its end too.
  return *outcome_;
}

/// One device's part in the mesh.
class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(LocalMesh& mesh, int device) : mesh_(mesh), device_(device) {}

  int device() const override { return device_; }

  void exchange(const Meeting& meeting, const std::byte* from, std::byte* to,
                const Exchange& exchange) override {
    Place& place = arrive(meeting, from, to);
    const size_t self = meeting.group.self;
    for (size_t i = 0; i < meeting.group.size(); i++) {
      const size_t m = (self + i) % meeting.group.size();  // not everyone at the same one's memory
      copySpread(place.posts[m].from + self * exchange.fromStep, exchange.from, to + m * exchange.toStep,
                 exchange.to, exchange.bytes);
    }
    mesh_.meet(place, meeting);
  }

  void reduceScatter(const Meeting& meeting, const std::byte* from, std::byte* to, const Exchange& exchange,
                     Reduction reduction) override {
    Place& place = arrive(meeting, from, to);
    collect(place, meeting.group.self * exchange.fromStep);
    reduceMembers(members_, exchange.from, to, exchange.bytes / sizeBytes(reduction.dtype), reduction);
    mesh_.meet(place, meeting);
  }

  void allReduce(const Meeting& meeting, const std::byte* from, std::byte* to, size_t elements,
                 Reduction reduction) override {
    const size_t size = sizeBytes(reduction.dtype), bytes = elements * size, count = meeting.group.size();
    Place& place = arrive(meeting, from, to);
    if (bytes <= kSmallBytes) {
      alignas(kLine) std::byte result[kSmallBytes];
      collect(place, 0);
      reduceMembers(members_, {bytes, bytes}, result, elements, reduction);
      mesh_.meet(place, meeting);
      std::memcpy(to, result, bytes);
      return;
    }
    // Each reduces a part, of whole cache lines, and gets the others' from where they were made.
    const size_t part = ((bytes + count - 1) / count + kLine - 1) / kLine * kLine;
    const auto begin = [&](size_t m) { return std::min(bytes, m * part); };
    const auto length = [&](size_t m) { return begin(m + 1) - begin(m); };
    const size_t self = meeting.group.self;
    collect(place, begin(self));
    if (length(self) > 0) {
      reduceMembers(members_, {length(self), length(self)}, to + begin(self), length(self) / size, reduction);
    }
    mesh_.meet(place, meeting);
    for (size_t i = 1; i < count; i++) {
      const size_t m = (self + i) % count;
      if (length(m) == 0) continue;
      const Spread dense{length(m), length(m)};
      copySpread(place.posts[m].to + begin(m), dense, to + begin(m), dense, length(m));
    }
    mesh_.meet(place, meeting);
  }

  void permute(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes, int64_t source,
               std::span<const int64_t>) override {
    Place& place = arrive(meeting, from, to);
    if (source >= 0)
      copySpread(place.posts[static_cast<size_t>(source)].from, {bytes, bytes}, to, {bytes, bytes}, bytes);
    mesh_.meet(place, meeting);
  }

 private:
  using Place = LocalMesh::Place;

  Place& arrive(const Meeting& meeting, const std::byte* from, std::byte* to) {
    Place*& known = places_[meeting.group.devices];
    if (!known) known = &mesh_.place(meeting.group.devices);
    LocalMesh::Post& post = known->posts[meeting.group.self];
    post.from = from;
    post.to = to;
    mesh_.meet(*known, meeting);
    return *known;
  }

  void collect(const Place& place, size_t offset) {
    members_.clear();
    for (const LocalMesh::Post& post : place.posts) members_.push_back(post.from + offset);
  }

  LocalMesh& mesh_;
  const int device_;
  std::map<std::vector<int>, Place*> places_;
  std::vector<const std::byte*> members_;
};

std::unique_ptr<Communicator> LocalMesh::communicator(int device) {
  return std::make_unique<LocalCommunicator>(*this, device);
}

}  // namespace lazuli
