#include "isa/tile_parts.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/scalar_random.h"

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

struct Uniform {
  static void of(const uint32_t words[4][kLot], float* out) {
    for (int j = 0; j < kLot; j++)
      for (int w = 0; w < 4; w++) out[4 * j + w] = uniformOf(words[w][j]);
  }
};
struct Normal {
  static void of(const uint32_t words[4][kLot], float* out) {
    float values[4][kLot];
    for (int pair = 0; pair < 4; pair += 2) {
      for (int j = 0; j < kLot; j++) {
        const NormalPair made = normalOf(words[pair][j], words[pair + 1][j]);
        values[pair][j] = made.first;
        values[pair + 1][j] = made.second;
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
