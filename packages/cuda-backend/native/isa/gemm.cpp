#include "kernels/gemm.h"

// A blocked product after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008):
// panels of b (kDepth x kCols) and of a (kRows x kDepth) are packed into the order in which the register tile
// reads them.

namespace lazuli::LAZULI_ISA {

#include "kernels/gemm_epilogue.h"

namespace {

constexpr int64_t kDepth =
    320;                        // a panel of b, 32 columns of float32, is 40 KiB: about the first-level cache
constexpr int64_t kRows = 192;  // a's panels: in the second
constexpr int64_t kCols = 1024;
constexpr int64_t kBlockRows = 4 * kRows;  // of a block: b's panels are packed again for each

/// Lines of a panel of a: whole vectors, so that rows are packed by transposing squares, and whole tiles.
template <class T>
constexpr int64_t kPanelRows = kTileRows > Simd<T>::width ? kTileRows : Simd<T>::width;

/// K in equal pieces of about kDepth.
int64_t depth(int64_t k) {
  const int64_t pieces = (k + kDepth - 1) / kDepth;
  return pieces < 2 ? (k < 1 ? 1 : k) : roundUp((k + pieces - 1) / pieces, 8);
}

/// Panels of `unit` lines: to[panel][p][line] = from[line * lineStride + p * depthStride], zeros past
/// `lines`.
template <class T, class S>
void pack(T* to, int64_t unit, const S* from, int64_t lineStride, int64_t depthStride, int64_t lines,
          int64_t k) {
  constexpr int64_t width = Simd<T>::width;
  for (int64_t first = 0; first < lines; first += unit, to += unit * k) {
    const int64_t count = least(unit, lines - first);
    const S* panel = from + first * lineStride;
    if (lineStride == 1 && unit % width == 0) {
      for (int64_t p = 0; p < k; p++)
        for (int64_t j = 0; j < unit; j += width)
          store(to + p * unit + j,
                j < count ? loadPart<T>(panel + p * depthStride + j, count - j) : Vec<T>{});
    } else if (depthStride == 1 && unit % width == 0) {
      packTransposed<T>(to, unit, panel, lineStride, count, k, unit, T(1));
    } else {
      for (int64_t p = 0; p < k; p++)
        for (int64_t i = 0; i < unit; i++) {
          S one[width] = {};
          if (i < count) one[0] = panel[i * lineStride + p * depthStride];
          to[p * unit + i] = load(one)[0];
        }
    }
  }
}

template <class T, class Out>
struct Target {
  Out* c;
  int64_t cRow;
  T* partial;  // sums over the K done so far; c itself where it has their type
  int64_t partialRow;
  const Out* bias;
  Activation activation;
  const Out* residual;
  bool residualFirst;  // nothing lies between the sum and the residual, so the sum starts from it
};

/// One register tile of `rows` x `cols` (up to kTileRows x kTileCols), for one piece of K.
template <class T, class Out>
LAZULI_INLINE void tile(int64_t k, const T* a, const T* b, const Target<T, Out>& to, int64_t row, int64_t col,
                        int64_t rows, int64_t cols, bool first, bool last) {
  constexpr int64_t width = Simd<T>::width;
  Vec<T> acc[kTileRows][kTileVectors] = {};
  accumulateTile<T, kTileRows, kTileVectors, true>(acc, k, a, kPanelRows<T>, b, kTileCols<T>);
  for (int64_t i = 0; i < rows; i++) {
    LAZULI_UNROLL
    for (int64_t j = 0; j < kTileVectors; j++) {
      const int64_t at = col + j * width, count = cols - j * width;
      if (count <= 0) break;
      Vec<T> sum = acc[i][j];
      T* partial = to.partial + (row + i) * to.partialRow + at;
      const int64_t c = (row + i) * to.cRow + at;
      if (!first) sum += loadPart<T>(partial, count);
      if (first && to.residualFirst) sum += loadPart<T>(to.residual + c, count);
      if (!last)
        storePart<T>(partial, sum, count);
      else
        finish<T, Out>(sum, to.c + c, count, to.bias ? to.bias + at : nullptr, to.activation,
                       to.residual && !to.residualFirst ? to.residual + c : nullptr);
    }
  }
}

/// The common tile: whole, nothing to do but to store or add.
template <class T>
LAZULI_INLINE void plainTile(int64_t k, const T* a, const T* b, T* c, int64_t cRow, bool first) {
  constexpr int64_t width = Simd<T>::width;
  Vec<T> acc[kTileRows][kTileVectors] = {};
  accumulateTile<T, kTileRows, kTileVectors, true>(acc, k, a, kPanelRows<T>, b, kTileCols<T>);
  LAZULI_UNROLL
  for (int64_t i = 0; i < kTileRows; i++) LAZULI_UNROLL
  for (int64_t j = 0; j < kTileVectors; j++) {
    T* at = c + i * cRow + j * width;
    store(at, first ? acc[i][j] : acc[i][j] + load(at));
  }
}

template <class T, class Out>
constexpr bool kSameType = false;
template <class T>
constexpr bool kSameType<T, T> = true;

template <class T>
size_t floatScratch(int64_t m, int64_t n, int64_t k, bool partials) {
  const int64_t a = roundUp(least(m, kRows), kPanelRows<T>) * depth(k);
  const int64_t b = roundUp(least(n, kCols), kTileCols<T>) * depth(k);
  const int64_t partial = partials && k > kDepth ? m * n : 0;
  return static_cast<size_t>(roundUp(a, 64) + roundUp(b, 64) + partial) * sizeof(T);
}

template <class T, class In, class Out>
void runFloat(const GemmBlock& g) {
  constexpr int64_t tileCols = kTileCols<T>;
  const int64_t step = depth(g.k);
  T* aPacked = reinterpret_cast<T*>(g.scratch);
  T* bPacked = aPacked + roundUp(roundUp(least(g.m, kRows), kPanelRows<T>) * step, 64);
  Target<T, Out> to{static_cast<Out*>(g.c),
                    g.cRow,
                    nullptr,
                    g.cRow,
                    static_cast<const Out*>(g.epilogue.bias),
                    g.epilogue.activation,
                    static_cast<const Out*>(g.epilogue.residual),
                    false};
  to.residualFirst = kSameType<T, Out> && to.residual && to.activation == Activation::none;
  // Sums cannot wait in c where c has another type, or holds the residual that is added last.
  const bool inC = kSameType<T, Out> && (!to.residual || to.residualFirst);
  to.partial =
      inC ? reinterpret_cast<T*>(to.c) : bPacked + roundUp(roundUp(least(g.n, kCols), tileCols) * step, 64);
  if (!inC) to.partialRow = g.n;
  const bool plainEnd = inC && !to.bias && to.activation == Activation::none;
  const In* a = static_cast<const In*>(g.a);
  const In* b = static_cast<const In*>(g.b);

  for (int64_t n0 = 0; n0 < g.n; n0 += kCols) {
    const int64_t nCount = least(kCols, g.n - n0);
    for (int64_t k0 = 0; k0 == 0 || k0 < g.k; k0 += step) {
      const int64_t kCount = least(step, g.k - k0);
      const bool first = k0 == 0, last = k0 + kCount >= g.k;
      pack<T>(bPacked, tileCols, b + k0 * g.bRow + n0 * g.bCol, g.bCol, g.bRow, nCount, kCount);
      for (int64_t m0 = 0; m0 < g.m; m0 += kRows) {
        const int64_t mCount = least(kRows, g.m - m0);
        pack<T>(aPacked, kPanelRows<T>, a + m0 * g.aRow + k0 * g.aCol, g.aRow, g.aCol, mCount, kCount);
        for (int64_t j = 0; j < nCount; j += tileCols) {
          const T* bPanel = bPacked + j * kCount;
          for (int64_t i = 0; i < mCount; i += kTileRows) {
            const T* aPanel = aPacked + i / kPanelRows<T> * kPanelRows<T> * kCount + i % kPanelRows<T>;
            const int64_t rows = mCount - i, cols = nCount - j;
            if (rows >= kTileRows && cols >= tileCols && inC && (plainEnd || !last) &&
                !(first && to.residual))
              plainTile<T>(kCount, aPanel, bPanel, to.partial + (m0 + i) * g.cRow + n0 + j, g.cRow, first);
            else
              tile<T, Out>(kCount, aPanel, bPanel, to, m0 + i, n0 + j, least(rows, kTileRows),
                           least(cols, tileCols), first, last);
          }
        }
      }
    }
  }
}

/// Integers: rows of c summed at a time, in unsigned arithmetic, which wraps. Bools (0 or 1): whether any
/// product is 1.
template <class T, class Unsigned, bool any = false>
void runInteger(const GemmBlock& g) {
  const T* a = static_cast<const T*>(g.a);
  const T* b = static_cast<const T*>(g.b);
  Unsigned* c = static_cast<Unsigned*>(g.c);
  for (int64_t i = 0; i < g.m; i++) {
    Unsigned* row = c + i * g.cRow;
    for (int64_t j = 0; j < g.n; j++) row[j] = 0;
    for (int64_t p = 0; p < g.k; p++) {
      const Unsigned x = static_cast<Unsigned>(a[i * g.aRow + p * g.aCol]);
      const T* bRow = b + p * g.bRow;
      const auto add = [&](int64_t j, T y) {
        const Unsigned product = static_cast<Unsigned>(x * static_cast<Unsigned>(y));
        row[j] = static_cast<Unsigned>(any ? row[j] | product : row[j] + product);
      };
      if (g.bCol == 1)
        for (int64_t j = 0; j < g.n; j++) add(j, bRow[j]);
      else
        for (int64_t j = 0; j < g.n; j++) add(j, bRow[j * g.bCol]);
    }
  }
}

size_t scratchBytes(const GemmProblem& p, int64_t m, int64_t n) {
  if (!isFloating(p.types.in)) return 0;
  if (gemmIsSkinny(p.types, p.wholeRows, p.bRow, p.bCol)) return gemmSkinnyScratch(p.types, m, n, p.k);
  const bool partials = p.types.in == DType::bf16 || p.types.in == DType::f16 || p.lateResidual;
  return p.types.in == DType::f64 ? floatScratch<double>(m, n, p.k, partials)
                                  : floatScratch<float>(m, n, p.k, partials);
}

void run(GemmTypes types, const GemmBlock& block) {
  if (isFloating(types.in) && gemmIsSkinny(types, block.wholeRows, block.bRow, block.bCol))
    return gemmSkinny(types, block);
  const bool wide = types.out == DType::f32;
  switch (types.in) {
    case DType::f32:
      return runFloat<float, float, float>(block);
    case DType::f64:
      return runFloat<double, double, double>(block);
    case DType::bf16:
      return wide ? runFloat<float, Bf16, float>(block) : runFloat<float, Bf16, Bf16>(block);
    case DType::f16:
      return wide ? runFloat<float, Half, float>(block) : runFloat<float, Half, Half>(block);
    case DType::i32:
      return runInteger<int32_t, uint32_t>(block);
    case DType::i64:
      return runInteger<int64_t, uint64_t>(block);
    case DType::u8:
      return runInteger<uint8_t, uint8_t>(block);
    case DType::boolean:
      return runInteger<uint8_t, uint8_t, true>(block);
  }
}

}  // namespace

const GemmTable& gemm() {
  static constexpr GemmTable table{kTileRows, kTileCols<float>, kBlockRows, kCols, scratchBytes, run};
  return table;
}

}  // namespace lazuli::LAZULI_ISA
