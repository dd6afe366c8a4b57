#include "isa/tile_parts.h"

namespace lazuli::LAZULI_ISA {
namespace {

// The wide type: sums and products of floats accumulate in float64 from one tile to the next.
template <class T>
struct Wide {
  using Type = T;
};
template <>
struct Wide<float> {
  using Type = double;
};

template <class T>
inline T lowest() {
  if constexpr (kIsFloat<T>) return -static_cast<T>(__builtin_inf());
  if constexpr (T(-1) > T(0)) return T(0);
  return static_cast<T>(uint64_t{1} << (sizeof(T) * 8 - 1));
}
template <class T>
inline T highest() {
  if constexpr (kIsFloat<T>) return static_cast<T>(__builtin_inf());
  if constexpr (T(-1) > T(0)) return static_cast<T>(-1);
  return static_cast<T>((uint64_t{1} << (sizeof(T) * 8 - 1)) - 1);
}

struct Sum {
  static constexpr bool wide = true;
  template <class T>
  static T first() {
    return T(0);
  }
  template <class T>
  static T of(T a, T x) {
    return add(a, x);
  }
};
struct Prod {
  static constexpr bool wide = true;
  template <class T>
  static T first() {
    return T(1);
  }
  template <class T>
  static T of(T a, T x) {
    return mul(a, x);
  }
};
struct Max {
  static constexpr bool wide = false;
  template <class T>
  static T first() {
    return lowest<T>();
  }
  template <class T>
  static bool better(T x, T a) {
    return (x > a) | ((x != x) & (a == a));
  }
  template <class T>
  static T of(T a, T x) {
    return (x > a) | (x != x) ? x : a;
  }
};
struct Min {
  static constexpr bool wide = false;
  template <class T>
  static T first() {
    return highest<T>();
  }
  template <class T>
  static bool better(T x, T a) {
    return (x < a) | ((x != x) & (a == a));
  }
  template <class T>
  static T of(T a, T x) {
    return (x < a) | (x != x) ? x : a;
  }
};

template <class Kind, class T, bool = Kind::wide>
struct Accumulator {
  using Type = typename Wide<T>::Type;
};
template <class Kind, class T>
struct Accumulator<Kind, T, false> {
  using Type = T;
};

template <class T>
inline T get(const RowState* state) {
  T value;
  __builtin_memcpy(&value, state->value, sizeof(T));
  return value;
}
template <class T>
inline void set(RowState* state, T value) {
  __builtin_memcpy(state->value, &value, sizeof(T));
}

/// One value of n, in as many independent lanes as fill four vectors, then pairwise.
template <class Kind, class T>
T reduceTile(const T* x, int64_t n) {
  constexpr int64_t kLanesAtOnce = 256 / sizeof(T);
  T lane[kLanesAtOnce];
  int64_t i = 0;
  int64_t width = kLanesAtOnce;
  if (n >= kLanesAtOnce) {
    for (int64_t j = 0; j < kLanesAtOnce; j++) lane[j] = x[j];
    for (i = kLanesAtOnce; i + kLanesAtOnce <= n; i += kLanesAtOnce)
      for (int64_t j = 0; j < kLanesAtOnce; j++) lane[j] = Kind::of(lane[j], x[i + j]);
    for (int64_t j = 0; i + j < n; j++) lane[j] = Kind::of(lane[j], x[i + j]);
  } else {
    for (int64_t j = 0; j < kLanesAtOnce; j++) lane[j] = j < n ? x[j] : Kind::template first<T>();
    while (width / 2 >= n && width > 1) width /= 2;
  }
  for (width /= 2; width > 0; width /= 2)
    for (int64_t j = 0; j < width; j++) lane[j] = Kind::of(lane[j], lane[j + width]);
  return lane[0];
}

template <class Kind, class T>
struct Plain {
  using A = typename Accumulator<Kind, T>::Type;

  static void init(RowState* state) { set<A>(state, Kind::template first<A>()); }
  static void row(RowState* state, const void* tile, int64_t n, int64_t) {
    const T value = reduceTile<Kind, T>(static_cast<const T*>(tile), n);
    set<A>(state, Kind::template of<A>(get<A>(state), static_cast<A>(value)));
  }
  static void combine(RowState* into, const RowState* from) {
    set<A>(into, Kind::template of<A>(get<A>(into), get<A>(from)));
  }
  static void finish(void* out, const RowState* states, int64_t stride, int64_t n) {
    T* r = static_cast<T*>(out);
    for (int64_t i = 0; i < n; i++) r[i] = static_cast<T>(get<A>(states + i * stride));
  }
  static void columnInit(void* lane, int32_t*, int64_t n) {
    T* a = static_cast<T*>(lane);
    for (int64_t i = 0; i < n; i++) a[i] = Kind::template first<T>();
  }
  static void column(void* lane, int32_t*, const void* tile, int64_t n, int32_t) {
    T* a = static_cast<T*>(lane);
    const T* x = static_cast<const T*>(tile);
    LAZULI_TILE_LOOP a[i] = Kind::of(a[i], x[i]);
  }
  static void flush(RowState* states, const void* lane, const int32_t*, int64_t n) {
    const T* a = static_cast<const T*>(lane);
    for (int64_t i = 0; i < n; i++)
      set<A>(states + i, Kind::template of<A>(get<A>(states + i), static_cast<A>(a[i])));
  }
};

/// The first place of the best value.
template <class Kind, class T>
struct Arg {
  static void init(RowState* state) {
    set<T>(state, Kind::template first<T>());
    state->index = -1;
  }
  static void keep(RowState* state, T value, int64_t index) {
    if (state->index >= 0 && !Kind::better(value, get<T>(state))) return;
    set<T>(state, value);
    state->index = index;
  }
  static void row(RowState* state, const void* tile, int64_t n, int64_t firstIndex) {
    const T* x = static_cast<const T*>(tile);
    const T best = reduceTile<Kind, T>(x, n);
    if (state->index >= 0 && !Kind::better(best, get<T>(state))) return;
    int64_t i = 0;
    if (best == best) {
      while (x[i] != best) i++;
    } else {
      while (x[i] == x[i]) i++;
    }
    set<T>(state, best);
    state->index = firstIndex + i;
  }
  static void combine(RowState* into, const RowState* from) {
    if (from->index >= 0) keep(into, get<T>(from), from->index);
  }
  static void finish(void* out, const RowState* states, int64_t stride, int64_t n) {
    int32_t* r = static_cast<int32_t*>(out);
    for (int64_t i = 0; i < n; i++) r[i] = static_cast<int32_t>(states[i * stride].index);
  }
  static void columnInit(void* lane, int32_t* index, int64_t n) {
    T* a = static_cast<T*>(lane);
    for (int64_t i = 0; i < n; i++) {
      a[i] = Kind::template first<T>();
      index[i] = -1;
    }
  }
  static void column(void* lane, int32_t* index, const void* tile, int64_t n, int32_t position) {
    T* a = static_cast<T*>(lane);
    const T* x = static_cast<const T*>(tile);
    LAZULI_TILE_LOOP {
      const bool take = (index[i] < 0) | Kind::better(x[i], a[i]);
      a[i] = take ? x[i] : a[i];
      index[i] = take ? position : index[i];
    }
  }
  static void flush(RowState* states, const void* lane, const int32_t* index, int64_t n) {
    const T* a = static_cast<const T*>(lane);
    for (int64_t i = 0; i < n; i++)
      if (index[i] >= 0) keep(states + i, a[i], index[i]);
  }
};

template <class R>
constexpr ReduceTable tableOf() {
  return {R::init, R::row, R::combine, R::finish, R::columnInit, R::column, R::flush};
}
template <class T>
void fillLane(TileTable& table) {
  const int lane = laneIndex(T());
  table.reduce[static_cast<int>(ReduceKind::sum)][lane] = tableOf<Plain<Sum, T>>();
  table.reduce[static_cast<int>(ReduceKind::prod)][lane] = tableOf<Plain<Prod, T>>();
  table.reduce[static_cast<int>(ReduceKind::max)][lane] = tableOf<Plain<Max, T>>();
  table.reduce[static_cast<int>(ReduceKind::min)][lane] = tableOf<Plain<Min, T>>();
  table.reduce[static_cast<int>(ReduceKind::argmax)][lane] = tableOf<Arg<Max, T>>();
  table.reduce[static_cast<int>(ReduceKind::argmin)][lane] = tableOf<Arg<Min, T>>();
}

}  // namespace

void fillReduce(TileTable& table) {
  fillLane<float>(table);
  fillLane<double>(table);
  fillLane<int32_t>(table);
  fillLane<int64_t>(table);
  fillLane<uint8_t>(table);
}

}  // namespace lazuli::LAZULI_ISA
