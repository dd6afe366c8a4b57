#include "isa/tile_parts.h"

namespace lazuli::LAZULI_ISA {
namespace {

constexpr int kLot = 16;  // counters at a time: four random words each

// Philox4x32-10 (Salmon et al., 2011): words[w][j] of counter first + j.
void philox(uint64_t first, const RandomKey& key, uint32_t words[4][kLot]) {
  uint32_t k0 = key.words[0], k1 = key.words[1];
  for (int j = 0; j < kLot; j++) {
    const uint64_t counter = first + static_cast<uint64_t>(j);
    words[0][j] = static_cast<uint32_t>(counter);
    words[1][j] = static_cast<uint32_t>(counter >> 32);
    words[2][j] = static_cast<uint32_t>(key.stream);
    words[3][j] = static_cast<uint32_t>(key.stream >> 32);
  }
  for (int round = 0; round < 10; round++) {
    for (int j = 0; j < kLot; j++) {
      const uint64_t a = uint64_t{0xD2511F53u} * words[0][j], b = uint64_t{0xCD9E8D57u} * words[2][j];
      words[0][j] = static_cast<uint32_t>(b >> 32) ^ words[1][j] ^ k0;
      words[2][j] = static_cast<uint32_t>(a >> 32) ^ words[3][j] ^ k1;
      words[1][j] = static_cast<uint32_t>(b);
      words[3][j] = static_cast<uint32_t>(a);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
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
    const uint64_t element = static_cast<uint64_t>(first + i * step);
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
