#pragma once

#include <chrono>

namespace lazuli {

/// Microseconds since it was made, steady.
class Clock {
 public:
  double us() const {
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace lazuli
