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


def words(key: list[int], stream: int, index: np.ndarray) -> list[np.ndarray]:
    """The upper 24 bits of the four words of each element's block of four elements."""
    low, high = ((word ^ (word >> 32)) & 0xFFFFFFFF for word in (value & 0xFFFFFFFFFFFFFFFF for value in key))
    block = index // np.uint64(4)
    filled = np.full_like(block, 1)
    counter = [block & MASK, block >> SHIFT, filled * np.uint64(stream & 0xFFFFFFFF), filled * np.uint64(stream >> 32)]
    return [word >> np.uint64(8) for word in philox(counter, (low, high))]


def uniform(key: list[int], stream: int, index: np.ndarray) -> np.ndarray:
    """By element number, uint64 of any shape."""
    return np.choose((index % np.uint64(4)).astype(np.int64), words(key, stream, index)) * 2.0**-24


def normal(key: list[int], stream: int, index: np.ndarray) -> np.ndarray:
    """Box-Muller: words 0 and 1 give elements 0 and 1 of a block, words 2 and 3 the others."""
    first, second, third, fourth = words(key, stream, index)
    place = index % np.uint64(4)
    radius = np.sqrt(-2 * np.log((np.where(place < 2, first, third) + 1.0) * 2.0**-24))
    angle = 2 * np.pi * np.where(place < 2, second, fourth) * 2.0**-24
    return radius * np.where(place % np.uint64(2) == 0, np.cos(angle), np.sin(angle))
