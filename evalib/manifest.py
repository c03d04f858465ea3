"""The tiers: which samples a named data set holds, read from `data_manifest.csv`, and from a file
of one's own that EVALIB_MANIFEST names (of its columns tier, source, address and layout are enough;
what a field of it says is told beside `Tier`).

`sha256` is of the list of sample ids (little-endian int64) of rendered tiers, of the archive of
others: a list that differs on some machine shows.
"""

import csv
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from zlib import crc32

import numpy as np

from evalib import rng

SUBSETS = ("train", "seen", "unseen_bg", "unseen_fg", "unseen_both")
# A sample is one number: id = (bg * N_FG + fg % N_FG) * N_PLACEMENTS + placement. The k-th hundred
# of backgrounds meets the k-th hundred of objects, so what is wide in one is wide in the other.
N_BG, N_FG, N_PLACEMENTS = 100, 100, 40  # of the built-in tiers; a placement is place * 2 + flip
SOURCES = ("rooms", "photos", "folder", "url", "drive")  # who has the pictures of a tier
FIRST_HELD_PLACEMENT = 36  # places 18 and 19 are never trained on
INDEX = np.dtype([("id", "<i8"), ("bg", "<i4"), ("fg", "<i4"), ("placement", "<i4")])
INSTALLED = Path(__file__).resolve().with_name("data_manifest.csv")  # where a wheel has it
MANIFEST = INSTALLED if INSTALLED.is_file() else INSTALLED.parents[1] / INSTALLED.name


@dataclass(frozen=True)
class Tier:
    """One row of a manifest; `seed` is the universe's: tiers of one seed share their scenes."""

    name: str
    source: str  # one of SOURCES
    address: str = ""  # a folder, a zip, a link or drive:ID; of photos, the folder of bg/ and fg/
    layout: str = ""  # of an archive, as `sources.layouts` has them; "": found out
    depth: str = ""  # near_dark, near_bright, none; teacher, perhaps :MODEL; "": as its layout says
    scale: float = 10.0  # metres at the far end of an archive's depth
    n_samples: int = 0  # 0: all there are
    subsets: tuple[str, ...] = SUBSETS  # where rooms are drawn from, in equal shares
    backgrounds: tuple[int, int] = (0, N_BG)  # first and end of the rooms it may hold
    n_fg: int = N_FG  # objects that each background meets, and
    n_bg: int = N_BG  # how many backgrounds meet the same
    seed: int = 0
    bytes: int = 0  # to download; 0: not known, or nothing
    sha256: str = ""
    license: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):  # it becomes a folder's
            raise ValueError(
                f"tier {self.name!r}; needed: a name of letters, digits, '_', '.', '-'"
            )
        if self.source not in SOURCES:
            raise ValueError(
                f"tier {self.name!r} has the source {self.source!r}; "
                f"needed: one of {', '.join(SOURCES)}"
            )
        if self.source != "rooms" and not self.address:
            raise ValueError(f"tier {self.name!r} has no address; needed: where its pictures are")
        if unknown := set(self.subsets) - set(SUBSETS):
            raise ValueError(
                f"tier {self.name!r} names the subsets {sorted(unknown)}; "
                f"use some of {', '.join(SUBSETS)}, separated by ';', in its manifest"
            )

    @property
    def is_rendered(self) -> bool:
        """Whether its samples can be made while training, by any process."""
        return self.source in ("rooms", "photos") and not self.depth.startswith("teacher")

    @property
    def per_background(self) -> int:
        """Samples that a background has."""
        return self.n_fg * N_PLACEMENTS

    def index_of(self, ids: np.ndarray) -> np.ndarray:
        """(N,) records (id, bg, fg, placement) of sample ids (N,)."""
        return index_of(ids, self.n_fg, self.n_bg)


def tiers(path: Path = MANIFEST) -> dict[str, Tier]:
    """Every tier of a file by its name, in order. Raises ValueError: a row is no tier."""
    with path.open(newline="", encoding="utf-8-sig") as file:  # as spreadsheets save it
        rows = list(csv.DictReader(file))
    found = {}
    for number, row in enumerate(rows, 2):  # the first line names the columns
        try:
            tier = _tier(row)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if tier.name in found:
            raise ValueError(f"{path}, line {number}: a second tier {tier.name!r}; rename it")
        found[tier.name] = tier
    return found


def find(name: str) -> Tier:
    """The tier of this name. Raises ValueError, which lists all names; OSError, as `known`."""
    found = known()
    if name not in found:
        raise ValueError(f"no tier {name!r}; there are {', '.join(found)}")
    return found[name]


def known() -> dict[str, Tier]:
    """All tiers, one's own with evalib's. Raises ValueError: a row is no tier; OSError: the file
    that EVALIB_MANIFEST names cannot be read."""
    found = tiers()
    if own := os.environ.get("EVALIB_MANIFEST"):
        added = tiers(Path(own).expanduser())
        if twice := sorted(found.keys() & added.keys()):
            raise ValueError(f"{own} names tiers as evalib does: {', '.join(twice)}; rename them")
        found |= added
    return found


def _tier(row: dict[str, str]) -> Tier:
    """An empty field has its default; a column that is not known is left alone."""
    if None in row:
        raise ValueError("more fields than columns; put what has commas in it in double quotes")
    values = {name: value.strip() for name, value in row.items() if value}
    for name in ("tier", "source"):
        if name not in values:
            raise ValueError(f"nothing in the column {name!r}; needed: tier,source,address,layout")
    values["name"] = values.pop("tier")
    for name, kind in {"n_samples": int, "seed": int, "bytes": int, "scale": float}.items():
        if name in values:
            values[name] = kind(values[name])
    if "subsets" in values:
        values["subsets"] = tuple(values["subsets"].split(";"))
    if "backgrounds" in values:
        first, end = values["backgrounds"].split(":")
        values["backgrounds"] = (int(first), int(end))
    columns = {field.name for field in fields(Tier)}
    return Tier(**{name: value for name, value in values.items() if name in columns})


def held_out(i: int | np.ndarray) -> bool | np.ndarray:
    """Whether background or object `i` never occurs in training: every fifth of them; -1, one that
    nobody knows, may."""
    return (i % 5 == 4) & (i >= 0)


def index_of(ids: np.ndarray, n_fg: int = N_FG, n_bg: int = N_BG) -> np.ndarray:
    """(N,) records (id, bg, fg, placement) of sample ids (N,), of which each `n_bg` backgrounds
    meet `n_fg` objects of their own."""
    index = np.empty(len(ids), INDEX)
    index["id"] = ids
    pair, index["placement"] = np.divmod(ids, N_PLACEMENTS)
    index["bg"], index["fg"] = np.divmod(pair, n_fg)
    index["fg"] += index["bg"] // n_bg * n_fg
    return index


def subset_of(index: np.ndarray) -> np.ndarray:
    """(N,) position in SUBSETS of each sample's subset: by background and object, then place."""
    held_bg, held_fg = held_out(index["bg"]), held_out(index["fg"])
    late = index["placement"] >= FIRST_HELD_PLACEMENT
    return np.where(held_bg | held_fg, 1 + held_bg + 2 * held_fg, late)


def sample_ids(tier: str | Tier, limit: int | None = None) -> np.ndarray:
    """(N,) int64: the first `limit` ids of the fixed list of a rendered tier, or all of it.

    All samples of its backgrounds are shuffled, and its subsets take turns to pick from there; no
    more is shuffled than that needs.
    Raises: ValueError: unknown tier, limit below 1, more samples than a subset has.
    """
    row = tier
    if isinstance(tier, str):
        row = find(tier)
        if row.source != "rooms":
            raise ValueError(f"what {tier} holds is known where it lies: `sources.open_source`")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; needed: 1 or more, or None for all of {row.name}")
    n = min(limit or row.n_samples, row.n_samples)
    first, end = (bg * row.per_background for bg in row.backgrounds)
    key = (end - first, row.seed, crc32(row.name.encode()))
    if row.n_samples == end - first and set(row.subsets) == set(SUBSETS):  # all, as they come
        return first + rng.permuted(np.arange(n), *key)
    share = -(-n // len(row.subsets))  # rounded up
    n_shuffled = 0
    while n_shuffled < end - first:
        n_shuffled = min(max(1 << 14, 2 * n_shuffled), end - first)
        ids = first + rng.permuted(np.arange(n_shuffled), *key)
        subsets = subset_of(row.index_of(ids))
        parts = [ids[subsets == SUBSETS.index(name)][:share] for name in row.subsets]
        if min(map(len, parts)) == share:
            return np.stack(parts, axis=1).ravel()[:n]
    sizes = dict(zip(row.subsets, map(len, parts), strict=True))
    raise ValueError(
        f"{row.name}: a subset has no {share} samples ({sizes}); lower n_samples, name other "
        "subsets, or add pictures: every fifth background and object is held out"
    )
