#include "isa/tile_parts.h"

namespace lazuli::LAZULI_ISA {
namespace {

constexpr int kLot = 16;  // counters at a time: four random words each

typedef uint32_t Words __attribute__((vector_size(4 * kLot)));
typedef uint64_t Pairs __attribute__((vector_size(4 * kLot)));

struct Product {
  Words high, low;
};
inline Product multiply(Words x, uint32_t by) {
  const Pairs lowHalf = Pairs{} + 0xffffffffu, pairs = (Pairs)x;
  const Pairs even = (pairs & lowHalf) * by, odd = (pairs >> 32) * by;
  return {(Words)((even >> 32) | (odd & ~lowHalf)), (Words)((even & lowHalf) | (odd << 32))};
}

// Philox4x32-10 (Salmon et al., 2011): words[w][j] of counter first + j.
void philox(uint64_t first, const RandomKey& key, uint32_t words[4][kLot]) {
  uint32_t k0 = key.words[0], k1 = key.words[1];
  for (int j = 0; j < kLot; j++) {
    const uint64_t counter = first + static_cast<uint64_t>(j);
    words[0][j] = static_cast<uint32_t>(counter);
    words[1][j] = static_cast<uint32_t>(counter >> 32);
  }
  Words a, b, c = Words{} + static_cast<uint32_t>(key.stream),
              d = Words{} + static_cast<uint32_t>(key.stream >> 32);
  __builtin_memcpy(&a, words[0], sizeof a);
  __builtin_memcpy(&b, words[1], sizeof b);
  for (int round = 0; round < 10; round++) {
    const Product p = multiply(a, 0xD2511F53u), q = multiply(c, 0xCD9E8D57u);
    a = q.high ^ b ^ k0;
    b = q.low;
    c = p.high ^ d ^ k1;
    d = p.low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const Words results[4] = {a, b, c, d};
  __builtin_memcpy(words, results, sizeof results);
}

/// sin or cos of a whole turn times u, u in [0, 1).
inline float ofTurns(float u, uint32_t shift) {
  const float quarters = u * 4.0f;
  const float rounded = quarters + kRoundToInteger;
  const float r = (quarters - (rounded - kRoundToInteger)) * 0x1.921fb6p+0f;
  const uint32_t quadrant = bitsOf(rounded) + shift;
  const float r2 = r * r;
  const float sine = r + r * r2 * ((-0x1.994cfap-13f * r2 + 0x1.11075cp-7f) * r2 - 0x1.555546p-3f);
  const float cosine =
      1.0f - 0.5f * r2 + r2 * r2 * ((0x1.9a00cep-16f * r2 - 0x1.6c0c86p-10f) * r2 + 0x1.55554ap-5f);
  return floatOf(bitsOf(quadrant & 1u ? cosine : sine) ^ (quadrant & 2u) << 30);
}

struct Uniform {
  static void of(const uint32_t words[4][kLot], float* out) {
    for (int j = 0; j < kLot; j++)
      for (int w = 0; w < 4; w++) out[4 * j + w] = static_cast<float>(words[w][j] >> 8) * 0x1p-24f;
  }
};
struct Normal {
  static void of(const uint32_t words[4][kLot], float* out) {
    float values[4][kLot];
    for (int pair = 0; pair < 4; pair += 2) {
      for (int j = 0; j < kLot; j++) {
        const float u1 = static_cast<float>((words[pair][j] >> 8) + 1u) * 0x1p-24f;
        const float u2 = static_cast<float>(words[pair + 1][j] >> 8) * 0x1p-24f;
        const float radius = sqrt_(-2.0f * log_(u1));
        values[pair][j] = radius * ofTurns(u2, 1);
        values[pair + 1][j] = radius * ofTurns(u2, 0);
      }
    }
    for (int j = 0; j < kLot; j++)
      for (int w = 0; w < 4; w++) out[4 * j + w] = values[w][j];
  }
};

template <class Distribution>
void randomTile(void* out, int64_t first, int64_t step, int64_t n, const RandomKey& key) {
  float* r = static_cast<float*>(out);
  uint32_t words[4][kLot];
  float lot[4 * kLot];
  uint64_t base = 0;
  bool any = false;
  for (int64_t i = 0; i < n;) {
    const uint64_t element = key.first + static_cast<uint64_t>(first + i * step);
    if (!any || element - base >= 4 * kLot) {
      base = element & ~uint64_t{3};
      any = true;
      philox(base / 4, key, words);
      Distribution::of(words, lot);
    }
    if (step == 1) {
      const int64_t from = static_cast<int64_t>(element - base);
      const int64_t count = 4 * kLot - from < n - i ? 4 * kLot - from : n - i;
      __builtin_memcpy(r + i, lot + from, static_cast<size_t>(count) * sizeof(float));
      i += count;
    } else {
      r[i++] = lot[element - base];
    }
  }
}

}  // namespace

void fillRandom(TileTable& table) {
  table.uniform = randomTile<Uniform>;
  table.normal = randomTile<Normal>;
}

}  // namespace lazuli::LAZULI_ISA
