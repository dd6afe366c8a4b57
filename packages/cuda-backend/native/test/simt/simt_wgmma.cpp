#include "simt_wgmma.h"

#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <vector>

#include "engine.h"
#include "half.h"
#include "simt_bulk.h"

namespace lazuli::simt {
namespace {

constexpr int kMostColumns = 256;

/// One lane's part of a product.
struct Product {
  float* d;
  int n;
  uint64_t a, b;
  uint32_t registers[4];
  bool inRegisters, leftRows, rightRows, adds, bfloat16;
  int line;

  bool isLike(const Product& other) const {
    return n == other.n && a == other.a && b == other.b && inRegisters == other.inRegisters &&
           leftRows == other.leftRows && rightRows == other.rightRows && adds == other.adds &&
           bfloat16 == other.bfloat16;
  }
};
struct WarpProduct {
  Product lanes[32];
};

// A warpgroup's products are its four warps', each with 16 rows of its own.
struct WarpState {
  bool fenced = false;
  std::vector<WarpProduct> open;
  std::deque<std::vector<WarpProduct>> groups;
  /// What accumulators hold that are not to be touched, by their first register of each lane.
  std::map<float*, std::vector<float>> values;
};
using Block = std::vector<WarpState>;

WarpState& mine() {
  void*& state = blockState(2, [](void* block) { delete static_cast<Block*>(block); });
  if (!state) state = new Block((here.blockSize.x + 31) / 32);
  return (*static_cast<Block*>(state))[warp()];
}

/// 9.7.15.5.1.2.2, the matrix descriptor.
struct Matrix {
  uint32_t start, leading, stride;
  unsigned swizzle;  // bytes of a row
  int line;

  Matrix(uint64_t bits, int line)
      : start(static_cast<uint32_t>(bits & 0x3fff) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4),
        line(line) {
    constexpr unsigned kModes[] = {16, 128, 64, 32};
    swizzle = kModes[bits >> 62];
    if (bits >> 49 & 7) fault("wgmma (line %d): a matrix with a base offset, which is not emulated", line);
  }

  /// Where eight elements lie side by side: of rows (along M or N) `row`, `k`.. K-major, else `row`.., k.
  /// 9.7.15.5.1.2 and its canonical layouts: in units of 16 bytes, W of which are a swizzled row,
  ///   K-major   ((8, m), (1, 2)) : ((W, stride), (-, 1)), not swizzled ((1, stride), (-, leading))
  ///   MN-major  ((W, m), (8, k)) : ((1, leading), (W, stride)), not swizzled ((-, stride), (1, leading))
  /// and then the address is swizzled, as it is for bulk copies.
  const unsigned char* units(int row, int k, bool byRows) const {
    const uint32_t width = swizzle / 16;
    uint32_t at = start;
    if (!byRows) {
      const uint32_t unit = static_cast<uint32_t>(k) / 8;
      at += static_cast<uint32_t>(row) % 8 * swizzle + static_cast<uint32_t>(row) / 8 * stride +
            unit * (width > 1 ? 16 : leading);
    } else {
      const uint32_t unit = static_cast<uint32_t>(row) / 8;
      at += static_cast<uint32_t>(k) % 8 * swizzle;
      at += width > 1 ? unit % width * 16 + unit / width * leading + static_cast<uint32_t>(k) / 8 * stride
                      : unit * stride + static_cast<uint32_t>(k) / 8 * leading;
    }
    return asyncChunk(swizzled(at, swizzle), "wgmma", line);
  }

  /// Rows `first`.. + count of 16 elements along K each, as floats.
  template <class Put>
  void read(int first, int count, bool byRows, bool bfloat16, const Put& put) const {
    uint16_t unit[8];
    if (!byRows) {
      for (int row = 0; row < count; ++row)
        for (int k = 0; k < 16; k += 8) {
          std::memcpy(unit, units(first + row, k, false), 16);
          for (int i = 0; i < 8; ++i) put(row, k + i, decodeHalf(unit[i], bfloat16));
        }
      return;
    }
    for (int row = 0; row < count; row += 8)
      for (int k = 0; k < 16; ++k) {
        std::memcpy(unit, units(first + row, k, true), 16);
        for (int i = 0; i < 8; ++i) put(row + i, k, decodeHalf(unit[i], bfloat16));
      }
  }
};

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("avx2", "default")))
#endif
void multiply(const float (&a)[16][16], const float (&b)[16][kMostColumns], double (&sums)[16][kMostColumns], int n) {
  for (int row = 0; row < 16; ++row) {
    double* sum = sums[row];
    for (int column = 0; column < n; ++column) sum[column] = 0;
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < n; ++column) sum[column] += static_cast<double>(a[row][k]) * b[k][column];
  }
}

void compute(WarpState& state, const WarpProduct& product, unsigned warpOfGroup) {
  static float a[16][16], b[16][kMostColumns];
  static double sums[16][kMostColumns];
  const Product& first = product.lanes[0];
  if (first.inRegisters) {
    // 9.7.15.5.1.1.1, register fragments of A: as mma.m16n8k16's, of the warp's rows.
    for (int i = 0; i < 32; ++i)
      for (int r = 0; r < 4; ++r)
        for (int half = 0; half < 2; ++half)
          a[i / 4 + r % 2 * 8][i % 4 * 2 + r / 2 * 8 + half] =
              decodeHalf(static_cast<uint16_t>(product.lanes[i].registers[r] >> half * 16), first.bfloat16);
  } else {
    Matrix(first.a, first.line)
        .read(static_cast<int>(warpOfGroup) * 16, 16, first.leftRows, first.bfloat16,
              [&](int row, int k, float value) { a[row][k] = value; });
  }
  Matrix(first.b, first.line)
      .read(0, first.n, first.rightRows, first.bfloat16,
            [&](int column, int k, float value) { b[k][column] = value; });
  multiply(a, b, sums, first.n);
  // 9.7.15.5.1.1.2, the fragment of D: lane i has columns 8 j + 2 (i % 4) and the next, of rows i / 4 and
  // i / 4 + 8.
  for (int i = 0; i < 32; ++i) {
    std::vector<float>& values = state.values[product.lanes[i].d];
    for (int column = 0; column < first.n / 8; ++column)
      for (int r = 0; r < 4; ++r) {
        float& d = values[static_cast<size_t>(column * 4 + r)];
        const double sum = sums[i / 4 + r / 2 * 8][column * 8 + i % 4 * 2 + r % 2];
        d = static_cast<float>(first.adds ? d + sum : sum);
      }
  }
}

void issueTogether(void* const lanes[32]) {
  WarpState& state = mine();
  WarpProduct product;
  for (int i = 0; i < 32; ++i) product.lanes[i] = *static_cast<Product*>(lanes[i]);
  const Product& first = product.lanes[0];
  for (const Product& lane : product.lanes)
    if (!lane.isLike(first))
      fault("wgmma (line %d): the lanes of a warp ask for different products", first.line);
  // 9.7.15.6.1: before the first product, and after other uses of its registers.
  if (!state.fenced) fault("wgmma (line %d): no wgmma.fence since the last wgmma.wait_group", first.line);
  for (const Product& lane : product.lanes) {
    const size_t count = static_cast<size_t>(lane.n) / 2;
    std::vector<float>& values = state.values[lane.d];
    if (!values.empty()) {
      if (values.size() != count)
        fault("wgmma (line %d): accumulators in use by a product of another shape", lane.line);
      continue;
    }
    values.assign(lane.d, lane.d + count);
    std::fill_n(lane.d, count, std::nanf(""));
  }
  state.open.push_back(product);
}

void commitTogether(void* const*) {
  WarpState& state = mine();
  state.groups.push_back(std::move(state.open));
  state.open.clear();
}

void waitTogether(void* const lanes[32]) {
  WarpState& state = mine();
  const size_t groups = static_cast<size_t>(*static_cast<int*>(lanes[0]));
  if (!state.open.empty()) fault("wgmma.wait_group with products that are in no group yet");
  state.fenced = false;  // registers may be used from here on
  while (state.groups.size() > groups) {
    for (const WarpProduct& product : state.groups.front()) compute(state, product, warp() % 4);
    state.groups.pop_front();
  }
  std::map<float*, std::vector<float>> busy;
  for (const auto& group : state.groups)
    for (const WarpProduct& product : group)
      for (const Product& lane : product.lanes)
        if (const auto found = state.values.find(lane.d); found != state.values.end())
          busy.insert(state.values.extract(found));
  for (const auto& [d, values] : state.values) std::copy(values.begin(), values.end(), d);
  state.values = std::move(busy);
}

void fenceTogether(void* const*) { mine().fenced = true; }

void issue(Product product) {
  // A warpgroup is four warps, of which the first has a number that four divides (9.7.15.1).
  if (here.blockSize.x < (warp() / 4 + 1) * 128)
    fault("wgmma (line %d): not a whole warpgroup", product.line);
  if (product.n % 8 || product.n > kMostColumns)
    fault("wgmma (line %d): %d columns", product.line, product.n);
  warpTogether(0xffffffffu, issueTogether, &product, "wgmma", product.line);
}

}  // namespace

void wgmmaFence(int line) { warpTogether(0xffffffffu, fenceTogether, nullptr, "wgmma.fence", line); }
void wgmmaCommit(int line) { warpTogether(0xffffffffu, commitTogether, nullptr, "wgmma.commit_group", line); }
void wgmmaWait(int groups, int line) {
  warpTogether(0xffffffffu, waitTogether, &groups, "wgmma.wait_group", line);
}

void wgmmaShared(float* d, int n, uint64_t a, uint64_t b, bool leftRows, bool rightRows, bool adds,
                 bool bfloat16, int line) {
  issue({d, n, a, b, {}, false, leftRows, rightRows, adds, bfloat16, line});
}
void wgmmaRegisters(float* d, int n, const uint32_t (&a)[4], uint64_t b, bool rightRows, bool adds,
                    bool bfloat16, int line) {
  issue({d, n, 0, b, {a[0], a[1], a[2], a[3]}, true, false, rightRows, adds, bfloat16, line});
}

}  // namespace lazuli::simt
