"""Random numbers as functions of keys: no generator, so no state to save and no order to keep.

A sample's numbers depend on (seed, epoch, sample id) only, not on its batch, thread, session or
machine: all is integer arithmetic, in numpy, so that rooms are rendered without torch. Source:
splitmix64 (Steele et al. 2014); numpy promises raw Philox streams for good, unlike
`Generator.permutation`; Feistel networks over any range: Black & Rogaway 2002, their rounds:
Patarin 2004.
"""

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

STORED = 1 << 20  # numbers: up to here a list is made whole (100 ms, 8 MB), above it is computed
ROUNDS = 6  # 4 look random to whoever sees few numbers, 6 to whoever sees all


def permuted(positions: np.ndarray, n: int, seed: int, stream: int) -> np.ndarray:
    """(B,) int64: what stands at `positions` (B,) of 0..n-1, shuffled as (seed, stream) says."""
    if n <= STORED:
        return _shuffled(n, seed, stream)[positions]
    values = _feistel(positions.astype(np.int64), n, seed, stream)
    while (outside := values >= n).any():  # the square is a little larger than n: go on from there
        values[outside] = _feistel(values[outside], n, seed, stream)
    return values


def sample_keys(seed: int, epoch: int, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """(B,) int64 keys, one for each sample id, new in each epoch."""
    epoch_key = _hash(_hash(np.array([seed])) + epoch)
    return _hash(epoch_key ^ _hash(np.asarray(ids, np.int64)))


def integers(keys: np.ndarray, name: str, below: int, n: int = 1) -> np.ndarray:
    """(B, n) int64 in 0..below-1 for keys (B,); another name draws independent numbers."""
    bits = _hash(_salts(name, n) ^ keys[:, None]) >> 40 & 0xFFFFFF
    return bits * below >> 24  # whole numbers: a float just under 1 times `below` could round up


def uniform(keys: np.ndarray, name: str, low: float, high: float, n: int = 1) -> np.ndarray:
    """(B, n) float32 between low and high."""
    share = integers(keys, name, 1 << 24, n).astype(np.float32) / (1 << 24)
    return np.float32(low) + share * np.float32(high - low)


@lru_cache(maxsize=4)
def _shuffled(n: int, seed: int, stream: int) -> np.ndarray:
    """(n,) int64: the whole list; kept, as an epoch has many steps."""
    key = np.array([seed % 2**64, stream % 2**64], dtype=np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def _feistel(x: np.ndarray, n: int, seed: int, stream: int) -> np.ndarray:
    """Shuffle the numbers of the smallest square that holds n, each by itself.

    A number is a row and a column; in turns, one is moved on by a hash of the other. Each round can
    be undone, so no two numbers become one.
    """
    side = math.isqrt(n - 1) + 1
    row, column = x // side, x % side
    for key in sample_keys(seed, stream, range(ROUNDS)):
        row, column = column, (row + _hash(column ^ key) % side) % side
    return row * side + column


@lru_cache(maxsize=256)
def _salts(name: str, n: int) -> np.ndarray:
    return _hash(np.arange(n) + (zlib.crc32(name.encode()) << 16))


def _hash(x: np.ndarray) -> np.ndarray:
    """splitmix64's mixing of int64 (B,); not of 0-d, as numpy warns of numbers that wrap round."""
    x = x.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.int64)
