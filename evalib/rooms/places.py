"""Where the pictures are taken: which kind of place each number is.

A place is parts, a camera, a light and the floor one can stand on, drawn from (seed, number) alone.
"""

from functools import lru_cache

import numpy as np

from evalib.rooms import indoors, outdoors, tabletops
from evalib.rooms.builder import Builder, Place, chance

KINDS = ("living", "office", "yard", "bedroom", "street")
KINDS += ("living", "hall", "street", "office", "yard")
MORE = 10_000  # from this number on there are more kinds; the places before stay as they are
NIGHT = 0.08  # of these have a quarter of the light, and more noise
LEFT = 0.1  # of these had something in the empty shot that is there no more, and so is not new
MORE_KINDS = ("living", "office", "yard", "table", "street", "bedroom", "class", "living")
MORE_KINDS += ("yard", "street", "corridor", "office", "above", "living", "table", "street")
MORE_KINDS += ("bedroom", "yard", "ceiling", "hall")


@lru_cache(maxsize=64)
def build(seed: int, bg: int) -> Place:
    """Background `bg`, the same at every call; kinds go with bg // 5, so both splits have all."""
    s = Builder(np.random.Generator(np.random.Philox(key=[seed + 2**32, bg])))
    kind = kind_of(bg)
    if kind == "table":
        return tabletops.table_top(s)
    if kind in ("yard", "street", "above"):
        above = kind == "above"
        return outdoors.open_place(
            s, street=s.maybe(0.7) if above else kind == "street", above=above, more=bg >= MORE
        )
    return indoors.room(s, kind, more=bg >= MORE)


def kind_of(bg: int) -> str:
    kinds = KINDS if bg < MORE else MORE_KINDS
    return kinds[(bg // 5) % len(kinds)]


def night(seed: int, bg: np.ndarray) -> np.ndarray:
    """(B,) bool: which of the places `bg` (B,) are seen by night."""
    return (bg >= MORE) & (chance(seed, bg, "night", 1)[:, 0] < NIGHT)
