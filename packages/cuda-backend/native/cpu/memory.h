#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <mutex>

#include "device.h"

namespace lazuli {

class CpuMemory;

/// Where a CpuMemory has its memory from. Capacities are multiples of 64 bytes.
struct MemorySource {
  std::byte* (*take)(size_t capacity);  // aligned to 64 bytes; null where there is none left
  void (*give)(std::byte* data, size_t capacity) noexcept;
};
/// The system's memory. Large pieces are mapped, aligned to huge pages (LAZULI_HUGE_PAGES=1 asks for them).
MemorySource systemMemory();

/// Owns one block of a CpuMemory, and gives it back for reuse.
class Block {
 public:
  Block() = default;
  Block(Block&& other) noexcept { swap(other); }
  Block& operator=(Block&& other) noexcept {
    Block(std::move(other)).swap(*this);
    return *this;
  }
  ~Block();
  std::byte* data() const { return data_; }

 private:
  friend class CpuMemory;
  Block(CpuMemory* memory, std::byte* data, size_t capacity)
      : memory_(memory), data_(data), capacity_(capacity) {}
  void swap(Block& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
  }
  CpuMemory* memory_ = nullptr;
  std::byte* data_ = nullptr;
  size_t capacity_ = 0;
};

/// A device's memory: blocks for buffers, and one arena that every executable uses in turn. Freed blocks are
/// kept for the next of their size, and the arena from run to run, because memory fresh from the system costs
/// a page fault every few kilobytes, and from a GPU a wait for all its work. Any thread may take and give
/// back; the arena is the executor's.
class CpuMemory {
 public:
  explicit CpuMemory(size_t limitBytes, MemorySource source = systemMemory())
      : limit_(limitBytes), source_(source) {}
  ~CpuMemory();
  CpuMemory(const CpuMemory&) = delete;
  CpuMemory& operator=(const CpuMemory&) = delete;

  /// Aligned to 64 bytes, never null, undefined content. Throws std::bad_alloc.
  Block take(size_t bytes);

  /// The arena, grown to `bytes` where it is smaller: its content is lost then. Null while it has no bytes.
  std::byte* arena(size_t bytes);
  /// Lets the arena go where it is larger than `bytes`; the next run makes it anew.
  void trimArena(size_t bytes);

  /// All but liveBytes, which is the ledger's to know.
  DeviceStats stats() const;

 private:
  friend class Block;
  struct Free {
    std::byte* data;
    size_t capacity;
  };
  using FreeList = std::list<Free>;

  void give(std::byte* data, size_t capacity) noexcept;
  std::byte* fresh(size_t capacity);
  void evict(FreeList::iterator entry);
  /// Frees the blocks kept longest until at most `bytes` are kept.
  void trimCache(size_t bytes);
  void notePeak();

  mutable std::mutex mutex_;
  size_t limit_;
  const MemorySource source_;
  FreeList free_;  // longest kept first
  std::multimap<size_t, FreeList::iterator> freeBySize_;
  size_t taken_ = 0, cached_ = 0, peak_ = 0;
  std::byte* arena_ = nullptr;
  size_t arenaBytes_ = 0;
};

}  // namespace lazuli
