#pragma once

// The functions of a warp, after the PTX ISA's definitions (shfl.sync, vote.sync, redux.sync, match.sync).

#include <stdint.h>
#include <string.h>

#include "engine.h"

namespace lazuli::simt {

struct Shuffle {
  uint64_t value, result;
  unsigned source, mask;
};
inline void shuffleTogether(void* const lanes[32]) {
  for (int i = 0; i < 32; ++i) {
    if (!lanes[i]) continue;
    Shuffle& mine = *static_cast<Shuffle*>(lanes[i]);
    const Shuffle* source = static_cast<const Shuffle*>(lanes[mine.source]);
    mine.result = source ? source->value : 0xfff8dead7ff8deadull;  // undefined there
  }
}
template <class T>
inline T shuffleFrom(unsigned mask, T value, unsigned source, const char* what, int line) {
  static_assert(sizeof(T) <= 8);
  Shuffle mine{0, 0, source, mask};
  memcpy(&mine.value, &value, sizeof value);
  warpTogether(mask, shuffleTogether, &mine, what, line);
  T result;
  memcpy(&result, &mine.result, sizeof result);
  return result;
}
// The first and last lane of the running lane's segment.
inline unsigned segmentStart(int width) { return lane() & ~static_cast<unsigned>(width - 1); }
inline unsigned segmentEnd(int width) { return segmentStart(width) + static_cast<unsigned>(width) - 1; }

struct Vote {
  uint32_t value, result;
};
inline void ballotTogether(void* const lanes[32]) {
  uint32_t result = 0;
  for (int i = 0; i < 32; ++i)
    if (lanes[i] && static_cast<Vote*>(lanes[i])->value) result |= 1u << i;
  for (int i = 0; i < 32; ++i)
    if (lanes[i]) static_cast<Vote*>(lanes[i])->result = result;
}
template <class Combine>
inline void reduceTogether(void* const lanes[32]) {
  bool any = false;
  uint32_t result = 0;
  for (int i = 0; i < 32; ++i) {
    if (!lanes[i]) continue;
    const uint32_t value = static_cast<Vote*>(lanes[i])->value;
    result = any ? Combine::of(result, value) : value;
    any = true;
  }
  for (int i = 0; i < 32; ++i)
    if (lanes[i]) static_cast<Vote*>(lanes[i])->result = result;
}
inline void nothingTogether(void* const*) {}
struct MatchAny {
  uint64_t value;
  uint32_t result;
};
inline void matchTogether(void* const lanes[32]) {
  for (int i = 0; i < 32; ++i) {
    if (!lanes[i]) continue;
    MatchAny& mine = *static_cast<MatchAny*>(lanes[i]);
    for (int j = 0; j < 32; ++j)
      if (lanes[j] && static_cast<MatchAny*>(lanes[j])->value == mine.value) mine.result |= 1u << j;
  }
}

}  // namespace lazuli::simt

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
  using namespace lazuli::simt;
  const unsigned from =
      segmentStart(width) | (static_cast<unsigned>(source) & static_cast<unsigned>(width - 1));
  return shuffleFrom(mask, value, from, "__shfl_sync", line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
  using namespace lazuli::simt;
  const bool inside = lane() >= segmentStart(width) + delta;
  return shuffleFrom(mask, value, inside ? lane() - delta : lane(), "__shfl_up_sync", line);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          int line = __builtin_LINE()) {
  using namespace lazuli::simt;
  const bool inside = lane() + delta <= segmentEnd(width);
  return shuffleFrom(mask, value, inside ? lane() + delta : lane(), "__shfl_down_sync", line);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, int line = __builtin_LINE()) {
  using namespace lazuli::simt;
  const unsigned from = lane() ^ static_cast<unsigned>(lanes);
  return shuffleFrom(mask, value, from <= segmentEnd(width) ? from : lane(), "__shfl_xor_sync", line);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  // A block's last warp may have fewer lanes.
  const unsigned lanes = lazuli::simt::here.blockSize.x - lazuli::simt::warp() * 32;
  if (mask == 0xffffffffu && lanes < 32) mask = (1u << lanes) - 1;
  lazuli::simt::warpTogether(mask, lazuli::simt::nothingTogether, nullptr, "__syncwarp", line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  lazuli::simt::Vote vote{predicate != 0, 0};
  lazuli::simt::warpTogether(mask, lazuli::simt::ballotTogether, &vote, "a vote", line);
  return vote.result;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) == mask;
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, int line = __builtin_LINE()) {
  lazuli::simt::MatchAny mine{0, 0};
  memcpy(&mine.value, &value, sizeof value);
  lazuli::simt::warpTogether(mask, lazuli::simt::matchTogether, &mine, "__match_any_sync", line);
  return mine.result;
}

#define LAZULI_SIMT_REDUCE(name, T, expression)                                                        \
  namespace lazuli::simt {                                                                             \
  struct Combine##name {                                                                               \
    static uint32_t of(uint32_t left, uint32_t right) {                                                \
      const T a = static_cast<T>(left), b = static_cast<T>(right);                                     \
      return static_cast<uint32_t>(expression);                                                        \
    }                                                                                                  \
  };                                                                                                   \
  }                                                                                                    \
  inline T name(unsigned mask, T value, int line = __builtin_LINE()) {                                 \
    lazuli::simt::Vote mine{static_cast<uint32_t>(value), 0};                                          \
    lazuli::simt::warpTogether(mask, lazuli::simt::reduceTogether<lazuli::simt::Combine##name>, &mine, \
                               "a warp's reduction", line);                                            \
    return static_cast<T>(mine.result);                                                                \
  }
LAZULI_SIMT_REDUCE(__reduce_add_sync, unsigned, a + b)
LAZULI_SIMT_REDUCE(__reduce_and_sync, unsigned, a& b)
LAZULI_SIMT_REDUCE(__reduce_or_sync, unsigned, a | b)
LAZULI_SIMT_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef LAZULI_SIMT_REDUCE
#define LAZULI_SIMT_REDUCE_ORDER(name, less)                                                              \
  namespace lazuli::simt {                                                                                \
  template <class T>                                                                                      \
  struct Combine##name {                                                                                  \
    static uint32_t of(uint32_t left, uint32_t right) {                                                   \
      const T a = static_cast<T>(left), b = static_cast<T>(right);                                        \
      return static_cast<uint32_t>(less ? a : b);                                                         \
    }                                                                                                     \
  };                                                                                                      \
  }                                                                                                       \
  template <class T>                                                                                      \
  inline T name(unsigned mask, T value, int line = __builtin_LINE()) {                                    \
    static_assert(sizeof(T) == 4);                                                                        \
    lazuli::simt::Vote mine{static_cast<uint32_t>(value), 0};                                             \
    lazuli::simt::warpTogether(mask, lazuli::simt::reduceTogether<lazuli::simt::Combine##name<T>>, &mine, \
                               "a warp's reduction", line);                                               \
    return static_cast<T>(mine.result);                                                                   \
  }
LAZULI_SIMT_REDUCE_ORDER(__reduce_min_sync, a < b)
LAZULI_SIMT_REDUCE_ORDER(__reduce_max_sync, a > b)
#undef LAZULI_SIMT_REDUCE_ORDER
