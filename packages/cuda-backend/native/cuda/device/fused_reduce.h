#pragma once

// Reductions of printed fused kernels (cuda/fused_reductions.cpp): what one output has seen, joined in an
// order that the shape alone decides.

#include "fused.h"

namespace lazuli::fused {

template <class T>
LAZULI_DEVICE T lowest() {
  if constexpr (kIsFloat<T>) return -static_cast<T>(kInfinity);
  if constexpr (T(-1) > T(0)) return T(0);
  return static_cast<T>(uint64_t{1} << (sizeof(T) * 8 - 1));
}
template <class T>
LAZULI_DEVICE T highest() {
  if constexpr (kIsFloat<T>) return static_cast<T>(kInfinity);
  if constexpr (T(-1) > T(0)) return static_cast<T>(-1);
  return static_cast<T>((uint64_t{1} << (sizeof(T) * 8 - 1)) - 1);
}

struct Sum {
  static constexpr bool kWide = true;
  template <class T>
  static LAZULI_DEVICE T first() {
    return T(0);
  }
  template <class T>
  static LAZULI_DEVICE T of(T a, T x) {
    return add(a, x);
  }
};
struct Prod {
  static constexpr bool kWide = true;
  template <class T>
  static LAZULI_DEVICE T first() {
    return T(1);
  }
  template <class T>
  static LAZULI_DEVICE T of(T a, T x) {
    return mul(a, x);
  }
};
struct Max {
  static constexpr bool kWide = false;
  template <class T>
  static LAZULI_DEVICE T first() {
    return lowest<T>();
  }
  template <class T>
  static LAZULI_DEVICE bool better(T x, T a) {
    return (x > a) | ((x != x) & (a == a));
  }
  template <class T>
  static LAZULI_DEVICE T of(T a, T x) {
    return (x > a) | (x != x) ? x : a;
  }
};
struct Min {
  static constexpr bool kWide = false;
  template <class T>
  static LAZULI_DEVICE T first() {
    return highest<T>();
  }
  template <class T>
  static LAZULI_DEVICE bool better(T x, T a) {
    return (x < a) | ((x != x) & (a == a));
  }
  template <class T>
  static LAZULI_DEVICE T of(T a, T x) {
    return (x < a) | (x != x) ? x : a;
  }
};

/// What another lane of the warp has, `mask` away.
template <class T>
LAZULI_DEVICE T fromLane(T x, int mask) {
  if constexpr (sizeof(T) == 8) {
    const uint64_t bits = __builtin_bit_cast(uint64_t, x);
    const uint32_t low = __shfl_xor_sync(0xffffffffu, static_cast<uint32_t>(bits), mask);
    const uint32_t high = __shfl_xor_sync(0xffffffffu, static_cast<uint32_t>(bits >> 32), mask);
    return __builtin_bit_cast(T, static_cast<uint64_t>(high) << 32 | low);
  } else if constexpr (sizeof(T) == 4) {
    return __builtin_bit_cast(T, __shfl_xor_sync(0xffffffffu, __builtin_bit_cast(uint32_t, x), mask));
  } else {
    return static_cast<T>(__shfl_xor_sync(0xffffffffu, static_cast<uint32_t>(x), mask));
  }
}

template <class Kind, class T>
struct Plain {
  using Value = T;
  T value;

  static LAZULI_DEVICE Plain none() { return {Kind::template first<T>()}; }
  LAZULI_DEVICE void take(T x, int32_t) { value = Kind::of(value, x); }
  LAZULI_DEVICE void join(const Plain& other) { value = Kind::of(value, other.value); }
  LAZULI_DEVICE Plain away(int mask) const { return {fromLane(value, mask)}; }
  template <class L>
  LAZULI_DEVICE L result() const {
    return static_cast<L>(value);
  }
};

/// The first place of the best value; -1: nothing seen.
template <class Kind, class T>
struct Arg {
  using Value = T;
  T value;
  int32_t index;

  static LAZULI_DEVICE Arg none() { return {Kind::template first<T>(), -1}; }
  LAZULI_DEVICE void take(T x, int32_t at) {
    const bool better = (index < 0) | Kind::better(x, value);
    value = better ? x : value;
    index = better ? at : index;
  }
  LAZULI_DEVICE void join(const Arg& other) {
    const bool same = !Kind::better(other.value, value) & !Kind::better(value, other.value);
    const bool before = (index < 0) | Kind::better(other.value, value) | (same & (other.index < index));
    const bool better = (other.index >= 0) & before;
    value = better ? other.value : value;
    index = better ? other.index : index;
  }
  LAZULI_DEVICE Arg away(int mask) const { return {fromLane(value, mask), fromLane(index, mask)}; }
  template <class L>
  LAZULI_DEVICE L result() const {
    return index;
  }
};

/// What many of them are joined in: sums and products of float32 in float64.
template <class State>
struct Wide {
  using Type = State;
  static LAZULI_DEVICE Type of(State x) { return x; }
};
template <class Kind>
struct WidePlain {
  using Type = Plain<Kind, double>;
  static LAZULI_DEVICE Type of(Plain<Kind, float> x) { return {static_cast<double>(x.value)}; }
};
template <>
struct Wide<Plain<Sum, float>> : WidePlain<Sum> {};
template <>
struct Wide<Plain<Prod, float>> : WidePlain<Prod> {};

/// Of `lanes` neighbouring threads (a power of two, at most a warp): every one of them gets the result.
template <int lanes, class State>
LAZULI_DEVICE State joinLanes(State state) {
#pragma unroll
  for (int mask = lanes / 2; mask > 0; mask /= 2) state.join(state.away(mask));
  return state;
}

/// Of the block's threads, whole warps: the first warp gets the result. `shared` has a place a warp.
template <int threads, class State>
LAZULI_DEVICE State joinBlock(State state, State* shared) {
  constexpr int kWarps = threads / 32;
  state = joinLanes<32>(state);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = state;
  __syncthreads();
  state = threadIdx.x < kWarps ? shared[threadIdx.x] : State::none();
  return threadIdx.x < 32 ? joinLanes<32>(state) : state;
}

/// Joins the rows of threads, `rows` of `columns` states each, into shared[0 .. columns - 1].
template <int threads, int rows, int columns, class State>
LAZULI_DEVICE void joinRows(State* shared) {
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < columns; c += threads) {
    State state = shared[c];
    for (int row = 1; row < rows; row++) state.join(shared[row * columns + c]);
    shared[c] = state;
  }
}

/// The second pass over what pieces of a reduction left, [piece][output]: 32 outputs a block of 256 threads,
/// the pieces in 8 strides; `block`: which one of them.
template <class State, class Lane, class T, class Index>
LAZULI_DEVICE void joinPieces(const State* partial, int pieces, Index outputs, T* to, uint32_t block) {
  LAZULI_SHARED State shared[8 * 32];
  const int lane = static_cast<int>(threadIdx.x) % 32, row = static_cast<int>(threadIdx.x) / 32;
  const Index output = static_cast<Index>(block) * 32 + lane;
  State state = State::none();
  if (output < outputs) {
#pragma unroll 4
    for (int piece = row; piece < pieces; piece += 8)
      state.join(partial[static_cast<Index>(piece) * outputs + output]);
  }
  shared[row * 32 + lane] = state;
  __syncthreads();
  if (row == 0 && output < outputs) {
    for (int other = 1; other < 8; other++) state.join(shared[other * 32 + lane]);
    to[output] = Memory<T>::of(state.template result<Lane>());
  }
  __syncthreads();
}

}  // namespace lazuli::fused
