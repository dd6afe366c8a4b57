#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace lazuli::cuda {

/// The fatbin of device/<source>.cu: machine code for sm_80 and sm_90a, and PTX for what comes after. Empty
/// where there is no such source. Written by CMake.
std::span<const std::byte> builtinImage(const char* source);

/// A header that sources compiled at run time may include, by the name that they include it by. The text ends
/// with a 0.
struct DeviceHeader {
  const char* name;
  std::string_view text;
};
std::span<const DeviceHeader> deviceHeaders();

}  // namespace lazuli::cuda
