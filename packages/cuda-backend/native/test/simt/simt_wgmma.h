#pragma once

// Products of a warpgroup in the emulator, after the PTX ISA's section 9.7.15.

#include <stdint.h>

namespace lazuli::simt {

// A product happens when it is waited for. Until then its accumulators are NaNs, and its shared memory is not
// read: what is used too early or freed too early shows. (Its registers of A are copied.)

void wgmmaFence(int line);
void wgmmaCommit(int line);
void wgmmaWait(int groups, int line);
/// `leftRows`, `rightRows`: imm-trans-a and imm-trans-b.
void wgmmaShared(float* d, int n, uint64_t a, uint64_t b, bool leftRows, bool rightRows, bool adds,
                 bool bfloat16, int line);
void wgmmaRegisters(float* d, int n, const uint32_t (&a)[4], uint64_t b, bool rightRows, bool adds,
                    bool bfloat16, int line);

}  // namespace lazuli::simt
