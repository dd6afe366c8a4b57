#pragma once

// What device/ptx_sm90.h does in the emulator besides products: mbarriers, bulk copies, and what of shared
// memory the asynchronous proxy sees. After the PTX ISA, whose sections stand in simt_bulk.cpp.

#include <stddef.h>
#include <stdint.h>

namespace lazuli::simt {

void initBarrier(uint64_t* barrier, unsigned arrivals);
/// Arrives, after `bytes` more were announced.
void arrive(uint64_t* barrier, unsigned bytes);
void waitFor(uint64_t* barrier, unsigned parity, int line);

// Copies happen as late as they may, when one waits for their barrier; with LAZULI_SIMT_ORDER=reverse at
// once.
void loadBox(void* shared, const void* map, uint64_t* barrier, const int* at, int rank);

/// In the window of shared memory: a block's dynamic memory starts at kSharedStart.
inline constexpr uint32_t kSharedStart = 1024;
uint32_t sharedAddress(const void* shared);
/// Where swizzling by rows of 32, 64 or 128 bytes puts a byte; 16: nowhere else.
uint32_t swizzled(uint32_t address, unsigned bytes);

// What a thread stores is seen by products and bulk copies only after this.
void publishStores();
/// 16 bytes of shared memory as products see them; 0xff where nothing was copied or published.
const unsigned char* asyncChunk(uint32_t address, const char* what, int line);

}  // namespace lazuli::simt
