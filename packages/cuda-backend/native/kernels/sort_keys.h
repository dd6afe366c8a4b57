#pragma once

#include <algorithm>
#include <cstdint>

#include "types.h"

namespace lazuli {

/// Unsigned keys that order as the values do: NaN last and all alike, -0 as 0.
template <class Bits>
Bits floatKey(Bits bits, Bits infinity) {
  constexpr Bits sign = Bits(1) << (sizeof(Bits) * 8 - 1);
  const Bits magnitude = bits & static_cast<Bits>(~sign);
  if (magnitude > infinity) return static_cast<Bits>(~Bits(0));
  if (magnitude == 0) return sign;
  return static_cast<Bits>(bits & sign ? ~bits : bits | sign);
}

template <DType dtype>
struct SortKey;
template <>
struct SortKey<DType::f32> {
  using Bits = uint32_t;
  static Bits of(Bits bits) { return floatKey<Bits>(bits, 0x7f800000u); }
};
template <>
struct SortKey<DType::f64> {
  using Bits = uint64_t;
  static Bits of(Bits bits) { return floatKey<Bits>(bits, 0x7ff0000000000000u); }
};
template <>
struct SortKey<DType::bf16> {
  using Bits = uint16_t;
  static Bits of(Bits bits) { return floatKey<Bits>(bits, 0x7f80u); }
};
template <>
struct SortKey<DType::f16> {
  using Bits = uint16_t;
  static Bits of(Bits bits) { return floatKey<Bits>(bits, 0x7c00u); }
};
template <>
struct SortKey<DType::i32> {
  using Bits = uint32_t;
  static Bits of(Bits bits) { return bits ^ 0x80000000u; }
};
template <>
struct SortKey<DType::i64> {
  using Bits = uint64_t;
  static Bits of(Bits bits) { return bits ^ 0x8000000000000000u; }
};
template <>
struct SortKey<DType::u8> {
  using Bits = uint8_t;
  static Bits of(Bits bits) { return bits; }
};

/// A key above its index in one word, where they fit: distinct, so that any sort of them is stable.
struct PackedItem {
  uint64_t word;

  PackedItem() = default;
  PackedItem(uint64_t key, uint32_t index) : word(key << 32 | index) {}
  uint32_t index() const { return static_cast<uint32_t>(word); }
  unsigned digit(int place) const { return word >> (32 + 8 * place) & 255u; }
  bool operator<(const PackedItem& other) const { return word < other.word; }
};
struct WideItem {
  uint64_t key;
  uint32_t at;

  WideItem() = default;
  WideItem(uint64_t key, uint32_t index) : key(key), at(index) {}
  uint32_t index() const { return at; }
  unsigned digit(int place) const { return key >> (8 * place) & 255u; }
  bool operator<(const WideItem& other) const { return key != other.key ? key < other.key : at < other.at; }
};

/// Sorts `items`, whose indices ascend, by keys of `digits` bytes; `spare` is room for as many. Returns which
/// of the two holds the result. From the least digit up, each by counting (LSD radix sort); short lines by
/// comparison.
template <class Item>
Item* sortItems(Item* items, Item* spare, int64_t n, int digits) {
  if (n < 512) {
    std::sort(items, items + n);
    return items;
  }
  for (int place = 0; place < digits; ++place) {
    int64_t starts[256] = {};
    for (int64_t i = 0; i < n; ++i) ++starts[items[i].digit(place)];
    if (starts[items[0].digit(place)] == n) continue;
    int64_t start = 0;
    for (int64_t& count : starts) {
      const int64_t next = start + count;
      count = start;
      start = next;
    }
    for (int64_t i = 0; i < n; ++i) spare[starts[items[i].digit(place)]++] = items[i];
    std::swap(items, spare);
  }
  return items;
}

}  // namespace lazuli
