#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/sort_key.h"
#include "types.h"

namespace lazuli {

template <DType dtype>
struct SortKey;
template <>
struct SortKey<DType::f32> : F32SortKey {};
template <>
struct SortKey<DType::f64> : F64SortKey {};
template <>
struct SortKey<DType::bf16> : BF16SortKey {};
template <>
struct SortKey<DType::f16> : F16SortKey {};
template <>
struct SortKey<DType::i32> : I32SortKey {};
template <>
struct SortKey<DType::i64> : I64SortKey {};
template <>
struct SortKey<DType::u8> : U8SortKey {};

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
