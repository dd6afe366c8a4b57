#include "sort.h"
#include "walk.h"
// walk.h has the integers that it needs.
#include "kernels/sort_key.h"

namespace lazuli::cuda {

/// A key above its index, in one word: distinct, so that any sort of them is stable.
struct PackedItem {
  uint64_t word;

  static LAZULI_DEVICE PackedItem of(uint32_t key, uint32_t index) {
    return {static_cast<uint64_t>(key) << 32 | index};
  }
  static LAZULI_DEVICE PackedItem last() { return {~uint64_t{0}}; }
  LAZULI_DEVICE uint32_t index() const { return static_cast<uint32_t>(word); }
  LAZULI_DEVICE bool isBefore(const PackedItem& other) const { return word < other.word; }
};
struct alignas(16) WideItem {
  uint64_t key;
  uint32_t at;

  static LAZULI_DEVICE WideItem of(uint64_t key, uint32_t index) { return {key, index}; }
  static LAZULI_DEVICE WideItem last() { return {~uint64_t{0}, ~uint32_t{0}}; }
  LAZULI_DEVICE uint32_t index() const { return at; }
  LAZULI_DEVICE bool isBefore(const WideItem& other) const {
    return key != other.key ? key < other.key : at < other.at;
  }
};
template <int kBytes>
struct ItemOf {
  using Type = PackedItem;
};
template <>
struct ItemOf<8> {
  using Type = WideItem;
};

/// Where a line's results begin.
LAZULI_DEVICE int64_t resultOf(const SortArgs& args, int64_t line) {
  const Divided at = divide(line, args.inner);
  return at.quotient * args.k * args.inner + at.rest;
}

template <class Key>
LAZULI_DEVICE typename Key::Bits keyOf(const SortArgs& args, typename Key::Bits bits) {
  const auto key = Key::of(bits);
  return args.descending ? static_cast<typename Key::Bits>(~key) : key;
}

template <class Key>
LAZULI_DEVICE void leave(const SortArgs& args, int64_t line, int64_t i, uint32_t index) {
  using Bits = typename Key::Bits;
  const int64_t to = resultOf(args, line) + i * args.inner;
  static_cast<Bits*>(args.values)[to] =
      static_cast<const Bits*>(args.x)[offsetOf(args.at, line) + index * args.stride];
  args.indices[to] = static_cast<int>(index);
}

/// A bitonic sort of a block's lines in shared memory (Batcher, 1968).
template <class Key>
LAZULI_DEVICE void sortBlock(const SortArgs& args) {
  using Bits = typename Key::Bits;
  using Item = typename ItemOf<sizeof(Bits)>::Type;
  LAZULI_DYNAMIC_SHARED(shared);
  Item* items = reinterpret_cast<Item*>(shared);
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * args.blockLines;
  const int padded = args.padded, count = args.blockLines * padded;
  for (int i = thread; i < count; i += threads) {
    const int64_t line = first + i / padded;
    const int at = i & (padded - 1);
    items[i] = Item::last();
    if (line < args.lines && at < args.n) {
      const Bits bits = static_cast<const Bits*>(args.x)[offsetOf(args.at, line) + at * args.stride];
      items[i] = Item::of(keyOf<Key>(args, bits), static_cast<uint32_t>(at));
    }
  }
  for (int size = 2; size <= padded; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int pair = thread; pair < count / 2; pair += threads) {
        const int low = 2 * pair - (pair & (step - 1)), high = low + step;
        const bool descends = (low & (padded - 1) & size) != 0;
        const Item a = items[low], b = items[high];
        if (b.isBefore(a) != descends) {
          items[low] = b;
          items[high] = a;
        }
      }
    }
  }
  __syncthreads();
  const int k = static_cast<int>(args.k);
  for (int i = thread; i < args.blockLines * k; i += threads) {
    const int64_t line = first + i / k;
    if (line < args.lines) leave<Key>(args, line, i % k, items[i / k * padded + i % k].index());
  }
}

template <class Key>
LAZULI_DEVICE void sortKeys(const SortArgs& args) {
  using Bits = typename Key::Bits;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * static_cast<int>(blockDim.x) + threadIdx.x;
  if (i >= args.n) return;
  const Bits bits =
      static_cast<const Bits*>(args.x)[offsetOf(args.at, args.firstLine + blockIdx.y) + i * args.stride];
  const int64_t to = blockIdx.y * args.n + i;
  if constexpr (sizeof(Bits) == 8)
    static_cast<uint64_t*>(args.keys)[to] = keyOf<Key>(args, bits);
  else
    static_cast<uint32_t*>(args.keys)[to] = keyOf<Key>(args, bits);
  args.order[to] = static_cast<unsigned>(i);
}

template <class Key>
LAZULI_DEVICE void sortValues(const SortArgs& args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * static_cast<int>(blockDim.x) + threadIdx.x;
  if (i < args.k) leave<Key>(args, args.firstLine + blockIdx.y, i, args.order[blockIdx.y * args.n + i]);
}

#define LAZULI_SORT(suffix, Key)                                                              \
  LAZULI_KERNEL(lazuli_sort_block_##suffix, SortArgs, kSortThreads) { sortBlock<Key>(args); } \
  LAZULI_KERNEL(lazuli_sort_keys_##suffix, SortArgs, 256) { sortKeys<Key>(args); }            \
  LAZULI_KERNEL(lazuli_sort_values_##suffix, SortArgs, 256) { sortValues<Key>(args); }
LAZULI_SORT(f32, F32SortKey)
LAZULI_SORT(f64, F64SortKey)
LAZULI_SORT(bf16, BF16SortKey)
LAZULI_SORT(f16, F16SortKey)
LAZULI_SORT(i32, I32SortKey)
LAZULI_SORT(i64, I64SortKey)
LAZULI_SORT(u8, U8SortKey)

}  // namespace lazuli::cuda
