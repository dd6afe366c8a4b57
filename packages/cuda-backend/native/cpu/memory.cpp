#include "cpu/memory.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lazuli {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;
// From here on a block is mapped by itself, and goes back to the system when it is let go.
constexpr size_t kMapped = 2 * kHugePage;
// What may be kept for reuse: a quarter of what is in use, or this.
constexpr size_t kCacheFloor = size_t{256} << 20;

size_t roundUp(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

size_t capacityFor(size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  return bytes >= kMapped ? roundUp(bytes, kPage) : roundUp(std::max<size_t>(bytes, 1), kLine);
}

#if defined(__linux__)

// Off unless asked for: on virtual machines whose host takes free memory back, touching new huge pages first
// was measured at 2.8 ms a megabyte against 0.4 for small ones, and steady steps were the same within noise.
bool wantsHugePages() {
  static const bool wanted = [] {
    const char* value = std::getenv("LAZULI_HUGE_PAGES");
    return value && value[0] == '1';
  }();
  return wanted;
}

std::byte* mapAligned(size_t capacity) {
  // Mapped with room to align, and the rest cut off again.
  size_t room = capacity + kHugePage;
  void* mapped = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto start = reinterpret_cast<uintptr_t>(mapped);
  uintptr_t aligned = roundUp(start, kHugePage);
  size_t head = aligned - start, tail = room - head - capacity;
  if (head > 0) munmap(mapped, head);
  if (tail > 0) munmap(reinterpret_cast<void*>(aligned + capacity), tail);
  auto* data = reinterpret_cast<std::byte*>(aligned);
  if (wantsHugePages()) madvise(data, capacity, MADV_HUGEPAGE);
  return data;
}

#endif

std::byte* systemTake(size_t capacity) {
#if defined(__linux__)
  if (capacity >= kMapped) return mapAligned(capacity);
#endif
  return static_cast<std::byte*>(std::aligned_alloc(kLine, roundUp(capacity, kLine)));
}

void systemGive(std::byte* data, size_t capacity) noexcept {
#if defined(__linux__)
  if (capacity >= kMapped) {
    munmap(data, capacity);
    return;
  }
#endif
  (void)capacity;
  std::free(data);
}

}  // namespace

MemorySource systemMemory() { return {systemTake, systemGive}; }

Block::~Block() {
  if (memory_) memory_->give(data_, capacity_);
}

CpuMemory::~CpuMemory() {
  trimCache(0);
  if (arena_) source_.give(arena_, arenaBytes_);
}

std::byte* CpuMemory::fresh(size_t capacity) {
  if (limit_ > 0 && taken_ + arenaBytes_ + cached_ + capacity > limit_) {
    size_t used = taken_ + arenaBytes_ + capacity;
    trimCache(limit_ > used ? limit_ - used : 0);
  }
  std::byte* data = source_.take(capacity);
  if (!data && cached_ > 0) {
    trimCache(0);
    data = source_.take(capacity);
  }
  if (!data) throw std::bad_alloc();
  return data;
}

Block CpuMemory::take(size_t bytes) {
  size_t capacity = capacityFor(bytes);
  std::lock_guard lock(mutex_);
  // An eighth more than needed is still a fit.
  auto found = freeBySize_.lower_bound(capacity);
  if (found != freeBySize_.end() && found->first <= capacity + capacity / 8) {
    Free entry = *found->second;
    free_.erase(found->second);
    freeBySize_.erase(found);
    cached_ -= entry.capacity;
    taken_ += entry.capacity;
    return Block(this, entry.data, entry.capacity);
  }
  std::byte* data = fresh(capacity);
  taken_ += capacity;
  notePeak();
  return Block(this, data, capacity);
}

void CpuMemory::give(std::byte* data, size_t capacity) noexcept {
  std::lock_guard lock(mutex_);
  taken_ -= capacity;
  try {
    auto entry = free_.insert(free_.end(), Free{data, capacity});
    try {
      freeBySize_.emplace(capacity, entry);
    } catch (...) {
      free_.erase(entry);
      throw;
    }
    cached_ += capacity;
    trimCache(std::max(kCacheFloor, taken_ / 4));
  } catch (const std::bad_alloc&) {
    source_.give(data, capacity);
  }
}

void CpuMemory::evict(FreeList::iterator entry) {
  auto [from, to] = freeBySize_.equal_range(entry->capacity);
  freeBySize_.erase(std::find_if(from, to, [&](const auto& pair) { return pair.second == entry; }));
  source_.give(entry->data, entry->capacity);
  cached_ -= entry->capacity;
  free_.erase(entry);
}

void CpuMemory::trimCache(size_t bytes) {
  while (cached_ > bytes) evict(free_.begin());
}

void CpuMemory::notePeak() { peak_ = std::max(peak_, taken_ + cached_ + arenaBytes_); }

std::byte* CpuMemory::arena(size_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes <= arenaBytes_) return arena_;
  if (arena_) source_.give(arena_, arenaBytes_);
  arena_ = nullptr;
  arenaBytes_ = 0;
  size_t capacity = capacityFor(bytes);
  arena_ = fresh(capacity);
  arenaBytes_ = capacity;
  notePeak();
  return arena_;
}

void CpuMemory::trimArena(size_t bytes) {
  std::lock_guard lock(mutex_);
  if (!arena_ || arenaBytes_ <= capacityFor(bytes)) return;
  source_.give(arena_, arenaBytes_);
  arena_ = nullptr;
  arenaBytes_ = 0;
}

DeviceStats CpuMemory::stats() const {
  std::lock_guard lock(mutex_);
  DeviceStats stats;
  stats.cachedBytes = cached_;
  stats.arenaBytes = arenaBytes_;
  stats.peakBytes = peak_;
  return stats;
}

}  // namespace lazuli
