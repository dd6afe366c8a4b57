#pragma once

// Vector code is written once, in isa/*.cpp, and compiled once for each instruction set (CMakeLists.txt) with
// LAZULI_ISA naming the namespace. To keep the linker from merging a function compiled for AVX-512 into code
// that runs without it, isa/*.cpp use no templates or inline functions from outside their namespace: no std
// containers, raw pointers only, and shared bodies (kernels/scalar.h) are included inside `namespace
// lazuli::LAZULI_ISA`.

namespace lazuli {

enum class Isa { baseline, avx2, avx512 };

/// The best instruction set this processor and build have; LAZULI_ISA=baseline|avx2|avx512 lowers it.
Isa isa();
const char* name(Isa isa);

// Each isa/NAME.cpp defines `const Table& NAME()` in its namespace, where Table is a struct of function
// pointers.
#if defined(__x86_64__)
#define LAZULI_DECLARE_ISA(Table, name) \
  namespace baseline {                  \
  const Table& name();                  \
  }                                     \
  namespace avx2 {                      \
  const Table& name();                  \
  }                                     \
  namespace avx512 {                    \
  const Table& name();                  \
  }                                     \
  inline const Table& name() {          \
    switch (isa()) {                    \
      case Isa::avx512:                 \
        return avx512::name();          \
      case Isa::avx2:                   \
        return avx2::name();            \
      default:                          \
        return baseline::name();        \
    }                                   \
  }
#else
#define LAZULI_DECLARE_ISA(Table, name) \
  namespace baseline {                  \
  const Table& name();                  \
  }                                     \
  inline const Table& name() { return baseline::name(); }
#endif

}  // namespace lazuli
