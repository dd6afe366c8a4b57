#pragma once

// The bias of scores, in units of log2. Included inside `namespace lazuli::LAZULI_ISA`, after
// attention_vector.h.

/// A bool of a mask. As a vector: what it adds, 0 or -inf.
template <class T>
struct Flag {
  unsigned char seen;
};

// Widened by steps, each twice as wide: in one GCC converts them lane by lane.
LAZULI_INLINE F32 load(const Flag<float>* p) {
  typedef unsigned char Bytes __attribute__((vector_size(kVectorBytes / 4)));
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  const U32 seen = __builtin_convertvector(__builtin_convertvector(bytes, U16), U32);
  return seen != 0u ? F32{} : splat(-__builtin_inff());
}
LAZULI_INLINE F64 load(const Flag<double>* p) {
  typedef unsigned char Bytes __attribute__((vector_size(kVectorBytes / 8)));
  typedef unsigned short Shorts __attribute__((vector_size(kVectorBytes / 4)));
  typedef unsigned Words __attribute__((vector_size(kVectorBytes / 2)));
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  const Words words = __builtin_convertvector(__builtin_convertvector(bytes, Shorts), Words);
  const U64 seen = __builtin_convertvector(words, U64);
  return seen != 0u ? F64{} : splat(-__builtin_inf());
}

/// Calls f with a null pointer of the type a bias lies in; float64 stands beside float64 alone.
template <class T, class F>
LAZULI_INLINE void withBiasType(DType dtype, F&& f) {
  if (dtype == DType::boolean) return f(static_cast<const Flag<T>*>(nullptr));
  if constexpr (sizeof(T) == sizeof(double)) {
    f(static_cast<const double*>(nullptr));
  } else {
    switch (dtype) {
      case DType::bf16:
        return f(static_cast<const Bf16*>(nullptr));
      case DType::f16:
        return f(static_cast<const Half*>(nullptr));
      default:
        return f(static_cast<const float*>(nullptr));
    }
  }
}

/// In units of log2. A finite bias stays finite: of keys that all have the least float none is hidden.
template <class T>
LAZULI_INLINE Vec<T> biasUnits(Vec<T> x) {
  const T least = sizeof(T) == sizeof(double) ? T(-__DBL_MAX__) : T(-__FLT_MAX__);
  const Vec<T> scaled = x * T(kLog2E);
  return x < least ? x : scaled < least ? splat(least) : scaled;
}
template <class T, bool whole = false, class B>
LAZULI_INLINE Vec<T> loadBias(const B* p, int64_t count) {
  return biasUnits<T>(whole ? load(p) : loadPart<T>(p, count));
}
template <class T, bool whole = false>
LAZULI_INLINE Vec<T> loadBias(const Flag<T>* p, int64_t count) {
  return whole ? load(p) : loadPart<T>(p, count);
}

/// Whether a mask of bools hides all of these keys from all of these queries: such a block is passed over.
inline bool hidesAll(const AttentionBias& bias, int64_t queries, int64_t keys) {
  if (!bias.data || bias.dtype != DType::boolean) return false;
  const int64_t rows = bias.row == 0 ? 1 : queries, cols = bias.col == 0 ? 1 : keys;
  for (int64_t i = 0; i < rows; i++) {
    const auto* row = reinterpret_cast<const unsigned char*>(bias.data) + i * bias.row;
    unsigned char any = 0;
    for (int64_t j = 0; j < cols; j++) any |= row[j];
    if (any) return false;
  }
  return true;
}

/// To a square of scores [key][query], of which `queries` and `keys` are there; all of them where it is
/// whole.
template <class T, bool whole, class B>
LAZULI_INLINE void addSquare(T* scores, const B* from, int64_t row, int64_t queries, int64_t keys) {
  constexpr int n = Simd<T>::width;
  Vec<T> square[n];
  LAZULI_UNROLL
  for (int i = 0; i < n; i++)
    square[i] = whole || i < queries ? loadBias<T, whole>(from + i * row, keys) : Vec<T>{};
  transposeSquare<T>(square);
  LAZULI_UNROLL
  for (int i = 0; i < n; i++)
    if (whole || i < keys) store(scores + i * kBlock, load(scores + i * kBlock) + square[i]);
}

template <class T, class B>
__attribute__((noinline)) void addPartOfSquare(T* scores, const B* from, int64_t row, int64_t queries,
                                               int64_t keys) {
  addSquare<T, false>(scores, from, row, queries, keys);
}

/// To scores [key][query].
template <class T, class B>
void addBiasByKey(T* scores, const AttentionBias& bias, const B* from, int64_t queries, int64_t laneCount,
                  int64_t keys) {
  constexpr int64_t n = Simd<T>::width;
  if (bias.row != 0 && bias.col != 0) {
    for (int64_t q = 0; q < laneCount; q += n)
      for (int64_t j = 0; j < keys; j += n) {
        T* to = scores + j * kBlock + q;
        const B* square = from + q * bias.row + j;
        if (q + n <= queries && j + n <= keys)
          addSquare<T, true>(to, square, bias.row, n, n);
        else
          addPartOfSquare(to, square, bias.row, queries - q, keys - j);
      }
    return;
  }
  T line[kBlock] = {};  // by query, or by key
  if (bias.row != 0)
    for (int64_t i = 0; i < queries; i++) line[i] = loadBias<T>(from + i * bias.row, 1)[0];
  else
    for (int64_t j = 0; j < keys; j += n)
      store(line + j, bias.col != 0 ? loadBias<T>(from + j, keys - j) : splat(loadBias<T>(from, 1)[0]));
  for (int64_t j = 0; j < keys; j++)
    for (int64_t q = 0; q < laneCount; q += n) {
      T* at = scores + j * kBlock + q;
      store(at, load(at) + (bias.row != 0 ? load(line + q) : splat(line[j])));
    }
}

/// To scores [query][key], none of which is greater than its row's lse then but for rounding: of huge numbers
/// that is far too much.
template <class T, class B>
void addBiasByQuery(T* scores, const AttentionBias& bias, const B* from, int64_t queries, int64_t keys,
                    const T* lse) {
  constexpr int64_t n = Simd<T>::width;
  for (int64_t i = 0; i < queries; i++, from += bias.row) {
    const Vec<T> most = splat(lse[i]), own = splat(loadBias<T>(from, 1)[0]);
    for (int64_t j = 0; j < keys; j += n) {
      T* at = scores + i * kBlock + j;
      const Vec<T> score = load(at) + (bias.col != 0 ? loadBias<T>(from + j, keys - j) : own);
      store(at, score > most ? most : score);
    }
  }
}

template <class T>
LAZULI_INLINE T sumOf(const T* x, int64_t count) {
  constexpr int64_t n = Simd<T>::width;
  Vec<T> lanes{};
  int64_t j = 0;
  for (; j + n <= count; j += n) lanes += load(x + j);
  T sum = 0;
  for (int64_t lane = 0; lane < n; lane++) sum += lanes[lane];
  for (; j < count; j++) sum += x[j];
  return sum;
}

/// Adds a block's gradient of the scores, [query][key], where the bias has an element for it. `to` is at the
/// block's first query and key.
template <class T>
void addBiasGrad(T* to, const AttentionBiasGrad& grad, const T* dScores, int64_t queries, int64_t keys) {
  constexpr int64_t n = Simd<T>::width;
  if (grad.col == 0) {
    for (int64_t i = 0; i < queries; i++) to[i * grad.row] += sumOf(dScores + i * kBlock, keys);
    return;
  }
  for (int64_t i = 0; i < queries; i++)
    for (int64_t j = 0; j < keys; j += n) {
      T* at = to + i * grad.row + j;
      storePart<T>(at, loadPart<T>(at, keys - j) + load(dScores + i * kBlock + j), keys - j);
    }
}
