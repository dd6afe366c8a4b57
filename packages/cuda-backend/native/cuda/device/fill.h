#pragma once

namespace lazuli::cuda {
struct FillArgs {
  unsigned long long* to;
  unsigned long long pairs;
  unsigned pattern;
};
}  // namespace lazuli::cuda
