"""The tiers: which samples a named data set holds, read from `data_manifest.csv`.

One row a tier, so that a number in a notebook always names its data. `bytes` is what has to be
downloaded (0: rendered on the spot); `sha256` is of the list of sample ids (little-endian int64)
for rendered tiers, of the archive for the others: a list that differs on some machine shows.
"""

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import numpy as np

from evalib import rng

SUBSETS = ("train", "seen", "unseen_bg", "unseen_fg", "unseen_both")
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
    bytes: int
    sha256: str
    license: str
    note: str

    def __post_init__(self) -> None:
        unknown = set(self.subsets) - set(SUBSETS)
        if unknown or not self.subsets:
            raise ValueError(
                f"tier {self.name!r} names the subsets {sorted(unknown) or 'none'}; "
                f"use some of {', '.join(SUBSETS)}, separated by ';', in {MANIFEST.name}"
            )
        if self.n_samples < 1:
            raise ValueError(
                f"tier {self.name!r} has n_samples={self.n_samples}; needed: 1 or more"
            )


def tiers(path: Path = MANIFEST) -> dict[str, Tier]:
    """Read every tier, in the order of the file.

    Raises:
        FileNotFoundError: there is no manifest at `path`.
        ValueError: a row is not a tier (unknown subset, no samples, not a number).
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}; it stands beside the folder `evalib`: copy it there"
        )
    with path.open(newline="", encoding="utf-8") as file:
        return {row["tier"]: _tier(row) for row in csv.DictReader(file)}


def find(name: str) -> Tier:
    """The tier of this name. Raises ValueError, which lists the known names."""
    known = tiers()
    if name not in known:
        raise ValueError(f"no tier {name!r}; {MANIFEST.name} has {', '.join(known)}")
    return known[name]


def _tier(row: dict[str, str]) -> Tier:
    numbers = {key: int(row[key]) for key in ("n_samples", "seed", "bytes")}
    words = {key: row[key] for key in ("source", "sha256", "license", "note")}
    subsets = tuple(filter(None, row["subsets"].split(";")))
    first, end = map(int, row["backgrounds"].split(":"))
    return Tier(name=row["tier"], subsets=subsets, backgrounds=(first, end), **numbers, **words)


def held_out(i: int | np.ndarray) -> bool | np.ndarray:
    """Whether background or object `i` never occurs in training: every fifth of them."""
    return i % 5 == 4


def index_of(ids: np.ndarray) -> np.ndarray:
    """(N,) records (id, bg, fg, placement); id = (bg * N_FG + fg) * N_PLACEMENTS + placement."""
    index = np.empty(len(ids), INDEX)
    index["id"] = ids
    pair, index["placement"] = np.divmod(ids, N_PLACEMENTS)
    index["bg"], index["fg"] = np.divmod(pair, N_FG)
    return index


def subset_of(index: np.ndarray) -> np.ndarray:
    """(N,) position in SUBSETS of each sample's subset: by background and object, then place."""
    held_bg, held_fg = held_out(index["bg"]), held_out(index["fg"])
    late = index["placement"] >= FIRST_HELD_PLACEMENT
    return np.where(held_bg | held_fg, 1 + held_bg + 2 * held_fg, late)


def sample_ids(tier: str, limit: int | None = None) -> np.ndarray:
    """The tier's fixed list of sample ids, shuffled; subsets take turns, unless all is taken whole.

    Returns: (N,) int64; `limit` takes the first ones, so a smaller list is a prefix of a larger.
    Raises: ValueError: unknown tier, limit below 1, shares that the subsets cannot give.
    """
    row = find(tier)
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; needed: 1 or more, or None for all of {tier}")
    return _ids(row)[:limit].copy()


@lru_cache(maxsize=8)
def _ids(row: Tier) -> np.ndarray:
    first, end = (bg * N_FG * N_PLACEMENTS for bg in row.backgrounds)
    order = first + rng.permutation(end - first, row.seed, crc32(row.name.encode()))
    subsets = subset_of(index_of(order))
    wanted = [SUBSETS.index(name) for name in row.subsets]
    whole = order[np.isin(subsets, wanted)]
    if row.n_samples == len(whole):
        return whole
    share, rest = divmod(row.n_samples, len(wanted))
    parts = [order[subsets == number][:share] for number in wanted]
    if rest or min(map(len, parts)) < share:
        raise ValueError(
            f"{row.name}: {row.n_samples} samples are no equal shares of {', '.join(row.subsets)}; "
            f"change n_samples in {MANIFEST.name}"
        )
    return np.stack(parts, axis=1).ravel()
