#include "simt_bulk.h"

#include <cstring>
#include <map>
#include <vector>

#include "engine.h"
#include "tensor_map.h"

namespace lazuli::simt {
namespace {

constexpr size_t kSharedMost = 227 * 1024;

struct Barrier {
  unsigned arrivals = 0, pending = 0;  // of threads, a phase's and those that it lacks
  int64_t bytes = 0;                   // announced and not there
  unsigned phase = 0;

  // 9.7.13.15.5: a phase ends when nothing is pending, neither threads nor bytes.
  void advance() {
    if (pending || bytes) return;
    ++phase;
    pending = arrivals;
  }
};

struct Box {
  uint32_t to;
  TensorMap map;
  uint64_t* barrier;
  int64_t at[5];
};

struct Block {
  std::map<uint64_t*, Barrier> barriers;
  std::vector<Box> boxes;            // that are on their way
  std::vector<unsigned char> async;  // shared memory as the asynchronous proxy sees it

  Block() : async(kSharedMost, 0xff) {}

  Barrier& of(uint64_t* barrier) {
    const auto found = barriers.find(barrier);
    if (found == barriers.end()) fault("an mbarrier that was not initialised");
    return found->second;
  }
};

Block& block() {
  void*& state = blockState(1, [](void* block) { delete static_cast<Block*>(block); });
  if (!state) state = new Block;
  return *static_cast<Block*>(state);
}

unsigned char* memoryAt(uint32_t address) { return here.shared + (address - kSharedStart); }

void write(Block& block, uint32_t address, const void* data, size_t bytes) {
  std::memcpy(memoryAt(address), data, bytes);
  std::memcpy(block.async.data() + (address - kSharedStart), data, bytes);
}

/// 5.5.2 to 5.5.5: the box's elements follow one another, the first dim's first; those outside of the tensor
/// are zero; the 16-byte units are permuted by the swizzling mode.
void load(Block& block, const Box& box) {
  const TensorMap& map = box.map;
  const size_t inner = size_t{map.box[0]} * map.elementBytes;
  size_t rows = 1;
  for (int d = 1; d < map.rank; ++d) rows *= map.box[d];
  std::vector<unsigned char> line(inner);
  for (size_t row = 0; row < rows; ++row) {
    const char* from = map.address;
    bool inside = true;
    size_t rest = row;
    for (int d = 1; d < map.rank; ++d) {
      const int64_t at = box.at[d] + static_cast<int64_t>(rest % map.box[d]);
      rest /= map.box[d];
      inside &= at >= 0 && at < static_cast<int64_t>(map.sizes[d]);
      from += at * static_cast<int64_t>(map.strides[d]);
    }
    for (int i = 0; i < map.box[0]; ++i) {
      const int64_t at = box.at[0] + i;
      unsigned char* to = line.data() + i * map.elementBytes;
      if (inside && at >= 0 && at < static_cast<int64_t>(map.sizes[0]))
        std::memcpy(to, from + at * map.elementBytes, map.elementBytes);
      else
        std::memset(to, 0, map.elementBytes);
    }
    for (size_t i = 0; i < inner; i += 16)
      write(block, swizzled(box.to + static_cast<uint32_t>(row * inner + i), map.swizzleBytes),
            line.data() + i, 16);
  }
  Barrier& barrier = block.of(box.barrier);
  barrier.bytes -= static_cast<int64_t>(rows * inner);
  barrier.advance();
}

void loadAll(Block& block, uint64_t* barrier) {
  for (size_t i = 0; i < block.boxes.size();) {
    if (block.boxes[i].barrier != barrier) {
      ++i;
      continue;
    }
    const Box box = block.boxes[i];
    block.boxes.erase(block.boxes.begin() + static_cast<ptrdiff_t>(i));
    load(block, box);
  }
}

struct Wait {
  uint64_t* barrier;
  unsigned parity;
};

}  // namespace

uint32_t sharedAddress(const void* shared) {
  const ptrdiff_t offset = static_cast<const unsigned char*>(shared) - here.shared;
  if (offset < 0 || offset >= static_cast<ptrdiff_t>(kSharedMost))
    fault("an address outside of shared memory");
  return kSharedStart + static_cast<uint32_t>(offset);
}

// 5.5.6: in every 128 bytes the number of a 16-byte unit is combined, bit by bit, with that of the 128 bytes:
// with as many of its low bits as a row of 32, 64 or 128 bytes has units.
uint32_t swizzled(uint32_t address, unsigned bytes) {
  const uint32_t units = bytes / 16 - 1;
  return address ^ ((address >> 7 & units) << 4);
}

void initBarrier(uint64_t* barrier, unsigned arrivals) {
  if (arrivals == 0 || arrivals >= 1u << 20) fault("mbarrier.init with %u arrivals", arrivals);
  *barrier = arrivals;  // for what it overwrites
  block().barriers[barrier] = {arrivals, arrivals, 0, 0};
}

void arrive(uint64_t* barrier, unsigned bytes) {
  Barrier& at = block().of(barrier);
  at.bytes += bytes;
  if (at.pending == 0) fault("more arrivals at an mbarrier than it was made for");
  --at.pending;
  at.advance();
}

void waitFor(uint64_t* barrier, unsigned parity, int line) {
  block().of(barrier);
  Wait wait{barrier, parity};
  waitUntil(
      [](void* state) {
        const Wait& wait = *static_cast<Wait*>(state);
        loadAll(block(), wait.barrier);
        return (block().of(wait.barrier).phase & 1) != wait.parity;
      },
      &wait, "mbarrier.try_wait", line);
}

void loadBox(void* shared, const void* map, uint64_t* barrier, const int* at, int rank) {
  Box box{sharedAddress(shared), {}, barrier, {}};
  std::memcpy(&box.map, map, sizeof box.map);
  if (box.map.rank != rank) fault("a bulk copy of %d dims with a map of %d", rank, box.map.rank);
  // 9.7.9.27.1.2; and a swizzled box would begin inside of a pattern, which is not emulated.
  const unsigned aligned = box.map.swizzleBytes > 16 ? 8u * box.map.swizzleBytes : 128u;
  if (box.to % aligned) fault("a bulk copy to an address that is not a multiple of %u", aligned);
  if (reinterpret_cast<uintptr_t>(map) % 64) fault("a tensor map that is not aligned to 64 bytes");
  for (int d = 0; d < rank; ++d) box.at[d] = at[d];
  block().boxes.push_back(box);
  if (isReversed()) loadAll(block(), barrier);
}

void publishStores() { std::memcpy(block().async.data(), here.shared, here.sharedBytes); }

const unsigned char* asyncChunk(uint32_t address, const char* what, int line) {
  if (address < kSharedStart || address + 16 > kSharedStart + here.sharedBytes)
    fault("%s (line %d) reads outside of shared memory", what, line);
  return block().async.data() + (address - kSharedStart);
}

}  // namespace lazuli::simt
