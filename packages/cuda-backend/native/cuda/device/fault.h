#pragma once

// What a kernel tells of data that it cannot work with. Shared by the host and every device compiler.

namespace lazuli::cuda {

/// The first fault of a run, in the stream's memory; `set` is 0 while there is none. A kernel that sees a bad
/// index sets it (device/simt.h: fault()) and goes on without touching memory out of range.
struct Fault {
  unsigned int set;
  unsigned int step;   // of the run: whose kernel it was
  long long value;     // the bad index
  long long limit;     // what it must be below
  long long position;  // of the index in its tensor
};

}  // namespace lazuli::cuda
