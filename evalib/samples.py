"""The universe of samples: backgrounds x 100 objects x 40 placements, its subsets and lists.

What is held out is a fixed rule on ids, the same for every tier, so no tier can leak into another's
evaluation: whole backgrounds, whole objects, and the last two places of all the others.
"""

from functools import lru_cache
from zlib import crc32

import numpy as np

from evalib import draws, manifest, rooms
from evalib.manifest import SUBSETS

FIRST_HELD_PLACEMENT = 36  # placement = place * 2 + flip; places 18 and 19 are never trained on
INDEX = np.dtype([("id", "<i8"), ("bg", "<i4"), ("fg", "<i4"), ("placement", "<i4")])


def index_of(ids: np.ndarray) -> np.ndarray:
    """(N,) records (id, bg, fg, placement); id = (bg * N_FG + fg) * N_PLACEMENTS + placement."""
    index = np.empty(len(ids), INDEX)
    index["id"] = ids
    pair, index["placement"] = np.divmod(ids, rooms.N_PLACEMENTS)
    index["bg"], index["fg"] = np.divmod(pair, rooms.N_FG)
    return index


def subset_of(index: np.ndarray) -> np.ndarray:
    """(N,) position in SUBSETS of each sample's subset: by background and object, then place."""
    held_bg, held_fg = rooms.held_out(index["bg"]), rooms.held_out(index["fg"])
    late = index["placement"] >= FIRST_HELD_PLACEMENT
    return np.where(held_bg | held_fg, 1 + held_bg + 2 * held_fg, late)


def sample_ids(tier: str, limit: int | None = None) -> np.ndarray:
    """The tier's fixed list of sample ids, shuffled; subsets take turns, unless all is taken whole.

    Returns: (N,) int64; `limit` takes the first ones, so a smaller list is a prefix of a larger.
    Raises: ValueError: unknown tier, limit below 1, shares that the subsets cannot give.
    """
    row = manifest.tier(tier)
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; needed: 1 or more, or None for all of {tier}")
    return _ids(row)[:limit].copy()


@lru_cache(maxsize=8)
def _ids(row: manifest.Tier) -> np.ndarray:
    first, end = (bg * rooms.N_FG * rooms.N_PLACEMENTS for bg in row.backgrounds)
    order = first + draws.permutation(end - first, row.seed, crc32(row.name.encode()))
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
            f"change n_samples in {manifest.MANIFEST.name}"
        )
    return np.stack(parts, axis=1).ravel()
