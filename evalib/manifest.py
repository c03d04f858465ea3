"""The tiers: which samples a named data set holds, read from `data_manifest.csv`.

One row a tier, so that a number in a notebook always names its data. `bytes` is what has to be
downloaded (0: rendered on the spot); `sha256` is of the list of sample ids (little-endian int64)
for rendered tiers, of the archive for the others: a list that differs on some machine shows.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

SUBSETS = ("train", "seen", "unseen_bg", "unseen_fg", "unseen_both")
MANIFEST = Path(__file__).resolve().parents[1] / "data_manifest.csv"


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


def tier(name: str) -> Tier:
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
