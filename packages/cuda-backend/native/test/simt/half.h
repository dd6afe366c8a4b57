#pragma once

// The numbers that bfloat16's or float16's bits stand for.

#include <stdint.h>
#include <string.h>

namespace lazuli::simt {

inline float decodeHalf(uint32_t bits, bool bfloat16) {
  uint32_t word = bits << 16;
  if (!bfloat16) {
    const uint32_t magnitude = (bits & 0x7fffu) << 13;
    float value;
    memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;
    memcpy(&word, &value, 4);
    if (magnitude >= 0x0f800000u) word = magnitude | 0x7f800000u;
    word |= (bits & 0x8000u) << 16;
  }
  float value;
  memcpy(&value, &word, 4);
  return value;
}

}  // namespace lazuli::simt
