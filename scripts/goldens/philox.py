"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) and the numbers docs/ir.md draws
from it, in NumPy."""

import numpy as np

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


def philox(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Four words, as uint64 arrays of values below 2^32, for each counter of four words."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        p0 = np.uint64(MULTIPLIERS[0]) * c0
        p1 = np.uint64(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (p1 >> SHIFT) ^ c1 ^ np.uint64(k0), p1 & MASK, (p0 >> SHIFT) ^ c3 ^ np.uint64(k1), p0 & MASK
        k0 = (k0 + WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + WEYL[1]) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


# Known answers of Random123's kat_vectors.
assert [int(w) for w in philox([0, 0, 0, 0], (0, 0))] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
assert [int(w) for w in philox([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], (0xA4093822, 0x299F31D0))] == [
    0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]  # fmt: skip


def words(key: list[int], stream: int, count: int) -> np.ndarray:
    """[ceil(count / 4), 4] words of 24 bits: of each word its upper 24."""
    low, high = ((word ^ (word >> 32)) & 0xFFFFFFFF for word in (value & 0xFFFFFFFFFFFFFFFF for value in key))
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    filled = np.full_like(block, 1)
    counter = [block & MASK, block >> SHIFT, filled * np.uint64(stream & 0xFFFFFFFF), filled * np.uint64(stream >> 32)]
    return np.stack(philox(counter, (low, high)), axis=1) >> np.uint64(8)


def uniform(key: list[int], stream: int, count: int) -> np.ndarray:
    return (words(key, stream, count).astype(np.float64) * 2.0**-24).reshape(-1)[:count]


def normal(key: list[int], stream: int, count: int) -> np.ndarray:
    """Box-Muller: words 0 and 1 give elements 0 and 1 of a block, words 2 and 3 the others."""
    pairs = words(key, stream, count).astype(np.float64).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log((pairs[:, 0] + 1) * 2.0**-24))
    angle = 2 * np.pi * pairs[:, 1] * 2.0**-24
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]
