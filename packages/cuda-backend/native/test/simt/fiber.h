#pragma once

#include <cstddef>

namespace lazuli::simt {

/// A stack and the place on it where its function waits. Switching to it goes on there.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Makes it ready to call `entry`, which must not return. What it did before is forgotten.
  void prepare(void (*entry)());
  /// From the host's own stack: runs it until it leaves.
  void enter();
  /// From the fiber: back to where enter() was called. `forever`: it will not be entered again as it is.
  void leave(bool forever);
  /// The first thing `entry` calls.
  void entered();

  char* bottom() const { return stack_; }
  char* top() const { return stack_ + kBytes; }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kBytes = 512 * 1024;
#else
  static constexpr size_t kBytes = 128 * 1024;
#endif
  struct Context;
  char* stack_;
  Context* context_;
};

}  // namespace lazuli::simt
