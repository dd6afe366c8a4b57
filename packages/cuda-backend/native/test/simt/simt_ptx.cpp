#include "simt_ptx.h"

#include <cstring>
#include <deque>
#include <vector>

#include "engine.h"
#include "half.h"

namespace lazuli::simt {
namespace {

struct MatrixLoad {
  uint32_t* to;
  const uint16_t* row;
  bool transposed;
};

void loadTogether(void* const lanes[32]) {
  uint16_t matrices[4][8][8];
  for (int i = 0; i < 32; ++i)
    std::memcpy(matrices[i / 8][i % 8], static_cast<const MatrixLoad*>(lanes[i])->row, 16);
  for (int i = 0; i < 32; ++i) {
    const MatrixLoad& load = *static_cast<const MatrixLoad*>(lanes[i]);
    for (int m = 0; m < 4; ++m) {
      const int row = i / 4, column = i % 4 * 2;
      const uint16_t low = load.transposed ? matrices[m][column][row] : matrices[m][row][column];
      const uint16_t high = load.transposed ? matrices[m][column + 1][row] : matrices[m][row][column + 1];
      load.to[m] = low | static_cast<uint32_t>(high) << 16;
    }
  }
}

struct Product {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
  bool bfloat16;
};

// Rows, in a form that the compiler makes vectors of.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("avx2", "default")))
#endif
void multiply(const float (&a)[16][16], const float (&b)[16][8], double (&sums)[16][8]) {
  for (int row = 0; row < 16; ++row) {
    double sum[8] = {};
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 8; ++n) sum[n] += static_cast<double>(a[row][k]) * b[k][n];
    std::memcpy(sums[row], sum, sizeof sum);
  }
}

// The GPU sums the products of an element in more than float's precision, then rounds.
void multiplyTogether(void* const lanes[32]) {
  float a[16][16], b[16][8];
  double sums[16][8];
  for (int i = 0; i < 32; ++i) {
    const Product& lane = *static_cast<const Product*>(lanes[i]);
    const int g = i / 4, t = i % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      for (int r = 0; r < 4; ++r)
        a[g + r % 2 * 8][t + r / 2 * 8 + half] = decodeHalf(lane.a[r] >> half * 16 & 0xffff, lane.bfloat16);
      for (int r = 0; r < 2; ++r)
        b[t + r * 8 + half][g] = decodeHalf(lane.b[r] >> half * 16 & 0xffff, lane.bfloat16);
    }
  }
  multiply(a, b, sums);
  for (int i = 0; i < 32; ++i) {
    float* d = static_cast<const Product*>(lanes[i])->d;
    for (int r = 0; r < 4; ++r) d[r] = static_cast<float>(d[r] + sums[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2]);
  }
}

struct Copy {
  void* to;
  const void* from;
  bool there;

  void run() const {
    if (there)
      std::memcpy(to, from, 16);
    else
      std::memset(to, 0, 16);
  }
};
struct ThreadCopies {
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

ThreadCopies& copies() {
  using All = std::vector<ThreadCopies>;
  void*& state = blockState(0, [](void* all) { delete static_cast<All*>(all); });
  if (!state) state = new All(here.blockSize.x);
  return (*static_cast<All*>(state))[here.thread.x];
}

}  // namespace

void loadMatrices(uint32_t (&to)[4], const void* row, bool transposed, int line) {
  if (reinterpret_cast<uintptr_t>(row) % 16)
    fault("ldmatrix (line %d): a row is not aligned to 16 bytes", line);
  MatrixLoad mine{to, static_cast<const uint16_t*>(row), transposed};
  warpTogether(0xffffffffu, loadTogether, &mine, "ldmatrix", line);
}

void multiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool bfloat16, int line) {
  Product mine{d, a, {b0, b1}, bfloat16};
  warpTogether(0xffffffffu, multiplyTogether, &mine, "mma", line);
}

void copyAsync(void* shared, const void* global, bool there) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16)
    fault("cp.async: an address is not aligned to 16 bytes");
  const Copy copy{shared, global, there};
  if (isReversed())
    copy.run();
  else
    copies().open.push_back(copy);
}
void commitCopies() {
  ThreadCopies& mine = copies();
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
void waitCopies(int groups) {
  ThreadCopies& mine = copies();
  while (mine.groups.size() > static_cast<size_t>(groups)) {
    for (const Copy& copy : mine.groups.front()) copy.run();
    mine.groups.pop_front();
  }
}

}  // namespace lazuli::simt
