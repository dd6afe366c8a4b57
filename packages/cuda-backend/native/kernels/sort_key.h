#pragma once

// Unsigned keys that order as the values do. Shared with the device compilers: nothing of the C++ library.

namespace lazuli {

/// NaN last and all alike, -0 as 0.
template <class B, B infinity>
struct FloatSortKey {
  using Bits = B;
  static constexpr Bits of(Bits bits) {
    constexpr Bits sign = static_cast<Bits>(Bits(1) << (sizeof(Bits) * 8 - 1));
    const Bits magnitude = bits & static_cast<Bits>(~sign);
    if (magnitude > infinity) return static_cast<Bits>(~Bits(0));
    if (magnitude == 0) return sign;
    return static_cast<Bits>(bits & sign ? ~bits : bits | sign);
  }
};
/// Of integers; `sign`: of the bit that makes them negative, 0 where none does.
template <class B, B sign>
struct IntegerSortKey {
  using Bits = B;
  static constexpr Bits of(Bits bits) { return bits ^ sign; }
};

using F32SortKey = FloatSortKey<uint32_t, 0x7f800000u>;
using F64SortKey = FloatSortKey<uint64_t, 0x7ff0000000000000u>;
using BF16SortKey = FloatSortKey<uint16_t, 0x7f80u>;
using F16SortKey = FloatSortKey<uint16_t, 0x7c00u>;
using I32SortKey = IntegerSortKey<uint32_t, 0x80000000u>;
using I64SortKey = IntegerSortKey<uint64_t, 0x8000000000000000u>;
using U8SortKey = IntegerSortKey<uint8_t, 0u>;

}  // namespace lazuli
