#pragma once

// What the stand-in for NVRTC compiles to, and cuLibraryLoadData takes: this head, then a shared object's
// bytes.

#include <cstdint>

namespace lazuli::simt {

struct ImageHead {
  char magic[8];
  uint64_t bytes;
};
inline constexpr char kImageMagic[8] = {'s', 'i', 'm', 't', 'e', 'l', 'f', '\0'};

}  // namespace lazuli::simt
