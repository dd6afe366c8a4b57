#pragma once

// Runs a CUDA kernel on the host: every thread of a block is a fiber with a stack of its own, the blocks
// follow one another. A thread runs until it waits for others (a barrier, a function of its warp) or ends, so
// between two waits nothing moves under it: what is found is wrong layouts, missing waits and diverged
// threads, never a race that shows only in one order of the threads (LAZULI_SIMT_ORDER=reverse gives a second
// one).

#include <stddef.h>
#include <stdint.h>

namespace lazuli::simt {

struct Index {
  unsigned x, y, z;
};

/// The running thread's place. `warpSize` and the like are constants of simt.h.
struct Here {
  Index thread, block, blockSize, grid;
  unsigned char* shared;  // dynamic
  size_t sharedBytes;
};
extern Here here;

struct Kernel {
  const char* name;
  size_t argsBytes;
  unsigned threads;  // at most, of a block
  void (*run)(const void* args);
  void (*touchShared)();  // makes the host's thread have the library's thread_local variables
};

/// LAZULI_KERNEL makes one a kernel, when the library that holds the kernel is loaded.
struct Registered {
  explicit Registered(const Kernel& kernel);
};

/// Ends the launch with an error: does not return to the kernel.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// What the lanes of `mask` do at once: each gives a pointer to what it has, the last that comes calls
/// `together` with them all (null for a lane that is not in the mask), then all go on.
void warpTogether(unsigned mask, void (*together)(void* const lanes[32]), void* mine, const char* what,
                  int line);

/// Of `threads` threads of the block, at one of the 16 barriers. `waits`: bar.sync, else bar.arrive. Returns
/// the sum of `value` over the threads.
int blockBarrier(unsigned id, unsigned threads, bool waits, int value, const char* what, int line);

/// Until `ready(state)`, which is asked when every other thread waits.
void waitUntil(bool (*ready)(void* state), void* state, const char* what, int line);

/// Something that lasts as long as the running block, null at first; `release` is called with it at the end.
/// `which` of kBlockStates there are.
void*& blockState(unsigned which, void (*release)(void*));
inline constexpr unsigned kBlockStates = 3;

/// LAZULI_SIMT_ORDER=reverse
bool isReversed();

/// The lane, and the warp, of the running thread.
inline unsigned lane() { return here.thread.x & 31; }
inline unsigned warp() { return here.thread.x >> 5; }

}  // namespace lazuli::simt
