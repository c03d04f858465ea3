"""Random numbers as functions of keys: no generator, so no state to save and no order to keep.

A sample's numbers depend on (seed, epoch, sample id) only, not on its batch, thread, session or
device: all is integer arithmetic. Source: splitmix64 (Steele et al. 2014); numpy promises raw
Philox streams for good, unlike `Generator.permutation`; Feistel networks over any range: Black &
Rogaway 2002, their rounds: Patarin 2004.
"""

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

STORED = 1 << 20  # numbers: up to here a list is made whole (100 ms, 8 MB), above it is computed
ROUNDS = 6  # 4 look random to whoever sees few numbers, 6 to whoever sees all


def permuted(positions: np.ndarray, n: int, seed: int, stream: int) -> np.ndarray:
    """(B,) int64: what stands at `positions` (B,) of 0..n-1, shuffled as (seed, stream) says."""
    if n <= STORED:
        return _shuffled(n, seed, stream)[positions]
    values = _feistel(torch.from_numpy(positions.astype(np.int64)), n, seed, stream)
    while (outside := values >= n).any():  # the square is a little larger than n: go on from there
        values[outside] = _feistel(values[outside], n, seed, stream)
    return values.numpy()


def sample_keys(seed: int, epoch: int, ids: Sequence[int] | np.ndarray) -> Tensor:
    """(B,) int64 keys, one for each sample id, new in each epoch."""
    epoch_key = _hash(_hash(torch.tensor(seed)) + epoch)
    return _hash(epoch_key ^ _hash(torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64))))


def integers(keys: Tensor, name: str, below: int, n: int = 1) -> Tensor:
    """(B, n) int64 in 0..below-1 for CPU keys (B,); another name draws independent numbers."""
    bits = _hash(_salts(name, n) ^ keys[:, None]) >> 40 & 0xFFFFFF
    return bits * below >> 24  # whole numbers: a float just under 1 times `below` could round up


def uniform(keys: Tensor, name: str, low: float, high: float, n: int = 1) -> Tensor:
    """(B, n) float32 between low and high."""
    return low + integers(keys, name, 1 << 24, n) / (1 << 24) * (high - low)


def noise(keys: Tensor, name: str, x: Tensor) -> Tensor:
    """Normal numbers in the shape of x (B, ...): each sample's own stretch of one fixed field.

    On one core the copy is 8 times as fast as `torch.randn`, 25 times as hashing every pixel.
    """
    n = x[0].numel()
    field = _field(n, x.device)
    start = integers(keys, name, len(field) - n + 1)[:, 0]
    return field.unfold(0, n, 1)[start.to(x.device)].view_as(x)


@lru_cache(maxsize=4)
def _shuffled(n: int, seed: int, stream: int) -> np.ndarray:
    """(n,) int64: the whole list; kept, as an epoch has many steps."""
    key = np.array([seed % 2**64, stream % 2**64], dtype=np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def _feistel(x: Tensor, n: int, seed: int, stream: int) -> Tensor:
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
def _salts(name: str, n: int) -> Tensor:
    return _hash(torch.arange(n) + (zlib.crc32(name.encode()) << 16))


def _hash(x: Tensor) -> Tensor:
    """splitmix64's mixing of int64 (torch has no uint64: constants less 2^64, shifts masked)."""
    x = x - 0x61C8864680B583EB
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & (1 << 33) - 1)


@lru_cache(maxsize=4)
def _field(n: int, device: torch.device) -> Tensor:
    """At least 2^20 and 2n normal numbers: sums of 8 bytes, whole numbers, so the same anywhere."""
    raw = np.random.Philox(key=0).random_raw(1 << 20)
    sums = raw.view(np.uint8).reshape(-1, 8).sum(axis=1, dtype=np.float32)
    normal = (sums - 1020) / np.float32(209.023)  # mean, standard deviation of the sum of 8 bytes
    return torch.from_numpy(np.tile(normal, 1 + 2 * n // len(normal))).to(device)
