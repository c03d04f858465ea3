"""The tiers: which samples a named data set holds, read from `data_manifest.csv`.

`sha256` is of the list of sample ids (little-endian int64) of rendered tiers, of the archive of
others: a list that differs on some machine shows.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from evalib import rng

SUBSETS = ("train", "seen", "unseen_bg", "unseen_fg", "unseen_both")
# A sample is one number: id = (bg * N_FG + fg % N_FG) * N_PLACEMENTS + placement. The k-th hundred
# of backgrounds meets the k-th hundred of objects, so what is wide in one is wide in the other.
N_BG, N_FG, N_PLACEMENTS = 100, 100, 40  # of the built-in tiers; a placement is place * 2 + flip
FIRST_HELD_PLACEMENT = 36  # places 18 and 19 are never trained on
INDEX = np.dtype([("id", "<i8"), ("bg", "<i4"), ("fg", "<i4"), ("placement", "<i4")])
INSTALLED = Path(__file__).resolve().with_name("data_manifest.csv")  # where a wheel has it
MANIFEST = INSTALLED if INSTALLED.is_file() else INSTALLED.parents[1] / INSTALLED.name


@dataclass(frozen=True)
class Tier:
    """One row of the manifest; `seed` is the universe's: tiers of one seed share their scenes."""

    name: str
    source: str  # "rooms": rendered by evalib.rooms
    n_samples: int
    subsets: tuple[str, ...]  # where the samples are drawn from, in equal shares
    backgrounds: tuple[int, int]  # first and end of those it may hold
    seed: int
    bytes: int  # to download; 0: rendered on the spot
    sha256: str
    license: str
    note: str

    def __post_init__(self) -> None:
        if unknown := set(self.subsets) - set(SUBSETS):
            raise ValueError(
                f"tier {self.name!r} names the subsets {sorted(unknown)}; "
                f"use some of {', '.join(SUBSETS)}, separated by ';', in {MANIFEST.name}"
            )


def tiers(path: Path = MANIFEST) -> dict[str, Tier]:
    """Every tier by its name, in the order of the file. Raises ValueError: a row is no tier."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["tier"]: _tier(row) for row in csv.DictReader(file)}


def find(name: str) -> Tier:
    """The tier of this name. Raises ValueError, which lists the known names."""
    known = tiers()
    if name not in known:
        raise ValueError(f"no tier {name!r}; {MANIFEST.name} has {', '.join(known)}")
    return known[name]


def _tier(row: dict[str, str]) -> Tier:
    row["name"] = row.pop("tier")
    row["subsets"] = tuple(row["subsets"].split(";"))
    row["backgrounds"] = tuple(map(int, row["backgrounds"].split(":")))
    numbers = {name: int(row[name]) for name in ("n_samples", "seed", "bytes")}
    return Tier(**row | numbers)


def held_out(i: int | np.ndarray) -> bool | np.ndarray:
    """Whether background or object `i` never occurs in training: every fifth of them."""
    return i % 5 == 4


def index_of(ids: np.ndarray) -> np.ndarray:
    """(N,) records (id, bg, fg, placement) of sample ids (N,)."""
    index = np.empty(len(ids), INDEX)
    index["id"] = ids
    pair, index["placement"] = np.divmod(ids, N_PLACEMENTS)
    index["bg"], index["fg"] = np.divmod(pair, N_FG)
    index["fg"] += index["bg"] // N_BG * N_FG
    return index


def subset_of(index: np.ndarray) -> np.ndarray:
    """(N,) position in SUBSETS of each sample's subset: by background and object, then place."""
    held_bg, held_fg = held_out(index["bg"]), held_out(index["fg"])
    late = index["placement"] >= FIRST_HELD_PLACEMENT
    return np.where(held_bg | held_fg, 1 + held_bg + 2 * held_fg, late)


def sample_ids(tier: str, limit: int | None = None) -> np.ndarray:
    """(N,) int64: the first `limit` ids of the tier's fixed list, or all of it.

    All samples of its backgrounds are shuffled, and its subsets take turns to pick from there; no
    more is shuffled than that needs.
    Raises: ValueError: unknown tier, limit below 1, more samples than a subset has.
    """
    row = find(tier)
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; needed: 1 or more, or None for all of {tier}")
    n = min(limit or row.n_samples, row.n_samples)
    first, end = (bg * N_FG * N_PLACEMENTS for bg in row.backgrounds)
    key = (end - first, row.seed, crc32(row.name.encode()))
    if row.n_samples == end - first:  # every sample there is, as they come
        return first + rng.permuted(np.arange(n), *key)
    share = -(-n // len(row.subsets))  # rounded up
    n_shuffled = 0
    while n_shuffled < end - first:
        n_shuffled = min(max(1 << 14, 2 * n_shuffled), end - first)
        ids = first + rng.permuted(np.arange(n_shuffled), *key)
        subsets = subset_of(index_of(ids))
        parts = [ids[subsets == SUBSETS.index(name)][:share] for name in row.subsets]
        if min(map(len, parts)) == share:
            return np.stack(parts, axis=1).ravel()[:n]
    raise ValueError(f"{tier}: a subset has no {share} samples; lower n_samples in {MANIFEST.name}")
