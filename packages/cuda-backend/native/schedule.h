#pragma once

#include "kernel.h"

namespace lazuli {

/// Reorders the steps where that clearly lowers the memory a run needs, and only then: the program's order is
/// the base. Deterministic. `donated` is by input.
void schedule(Lowered& lowered, const std::vector<bool>& donated);

}  // namespace lazuli
