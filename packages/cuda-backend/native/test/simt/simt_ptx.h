#pragma once

// What device/ptx.h does in the emulator, after the PTX ISA.

#include <stdint.h>

namespace lazuli::simt {

void loadMatrices(uint32_t (&to)[4], const void* row, bool transposed, int line);
void multiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool bfloat16, int line);

// Copies happen as late as they may, when they are waited for: a missing wait shows. With
// LAZULI_SIMT_ORDER=reverse they happen at once, so that one into memory that is still read shows.
void copyAsync(void* shared, const void* global, bool there);
void commitCopies();
void waitCopies(int groups);

}  // namespace lazuli::simt
