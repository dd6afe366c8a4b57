#pragma once

// Random numbers as scalar bodies (docs/ir.md). Included inside a namespace (isa.h) after scalar.h.

/// Philox4x32-10 (Salmon et al., 2011) of one counter: four words. The CPU makes several counters' at once
/// (isa/tile_random.cpp).
struct RandomWords {
  uint32_t words[4];
};
LAZULI_SCALAR RandomWords philox(uint64_t counter, uint64_t stream, uint32_t k0, uint32_t k1) {
  uint32_t a = static_cast<uint32_t>(counter), b = static_cast<uint32_t>(counter >> 32);
  uint32_t c = static_cast<uint32_t>(stream), d = static_cast<uint32_t>(stream >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p = static_cast<uint64_t>(a) * 0xD2511F53u, q = static_cast<uint64_t>(c) * 0xCD9E8D57u;
    a = static_cast<uint32_t>(q >> 32) ^ b ^ k0;
    b = static_cast<uint32_t>(q);
    c = static_cast<uint32_t>(p >> 32) ^ d ^ k1;
    d = static_cast<uint32_t>(p);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}

/// In [0, 1).
LAZULI_SCALAR float uniformOf(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

/// sin (shift 0) or cos (1) of a whole turn times u, u in [0, 1).
LAZULI_SCALAR float ofTurns(float u, uint32_t shift) {
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

/// Box and Muller's: two normal values of two words.
struct NormalPair {
  float first, second;
};
LAZULI_SCALAR NormalPair normalOf(uint32_t word1, uint32_t word2) {
  const float u1 = static_cast<float>((word1 >> 8) + 1u) * 0x1p-24f;
  const float u2 = uniformOf(word2);
  const float radius = sqrt_(-2.0f * log_(u1));
  return {radius * ofTurns(u2, 1), radius * ofTurns(u2, 0)};
}
