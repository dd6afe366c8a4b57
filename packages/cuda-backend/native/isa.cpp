#include "isa.h"

#include <cstdlib>
#include <string_view>

namespace lazuli {
namespace {

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bf16");
  if (avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::baseline;
}

/// A name that is none of these lowers nothing.
Isa limit() {
  const char* text = std::getenv("LAZULI_ISA");
  std::string_view wanted = text ? text : "";
  if (wanted == "baseline") return Isa::baseline;
  if (wanted == "avx2") return Isa::avx2;
  return Isa::avx512;
}

}  // namespace

Isa isa() {
  static const Isa best = [] {
    Isa found = detect(), most = limit();
    return found < most ? found : most;
  }();
  return best;
}

const char* name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

}  // namespace lazuli
