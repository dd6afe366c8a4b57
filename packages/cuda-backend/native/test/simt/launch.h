#pragma once

// The emulator as its driver sees it.

#include <map>
#include <string>

#include "engine.h"

namespace lazuli::simt {

struct Grid {
  Index blocks;
  unsigned threads;
  size_t sharedBytes;  // dynamic
};

/// Runs a kernel to its end. Returns what went wrong, "" for nothing. One launch at a time in a process.
std::string launch(const Kernel& kernel, const Grid& grid, const void* args);

/// By name.
using Kernels = std::map<std::string, Kernel>;
/// Those that are linked into this library.
Kernels& builtinKernels();
/// Where kernels go that libraries register while they are loaded; builtinKernels() at first.
extern Kernels* registering;

}  // namespace lazuli::simt
