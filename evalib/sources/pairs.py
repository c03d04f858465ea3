"""Which members of an archive are one sample: where fg_bg, mask, depth and bg agree in what their
names say of background, object, flip and number. Two sorted lists are never zipped: one missing
file would shift all that follow.
"""

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evalib.manifest import INDEX, N_PLACEMENTS
from evalib.sources.layouts import KINDS, Layout

N_BLOCKS = 100  # of samples whose names tell no background


@dataclass
class Pairs:
    """The whole samples of an archive, sorted by id."""

    index: np.ndarray  # (N,) records (id, bg, fg, placement); fg is -1 where names tell no object
    members: dict[str, np.ndarray]  # positions in names: fg_bg, mask, depth or not (N,); bg (n_bg,)
    bg_names: list[str]  # (n_bg,)
    fg_names: list[str]  # (n_fg,)
    problems: dict[str, tuple[int, list[str]]]  # how many, and the names of the first ten
    leak: str  # why a split by bg and fg may leak, or ""

    def report(self) -> str:
        """What was found, a line a problem."""
        n_bg, n_fg = len(self.bg_names), len(self.fg_names)
        lines = [f"{len(self.index):,} samples of {n_bg:,} backgrounds and {n_fg:,} objects"]
        lines += [f"{what}: {n:,} ({', '.join(few)})" for what, (n, few) in self.problems.items()]
        return "\n".join(lines + [self.leak] * bool(self.leak))


def pair(names: Sequence[str], layout: Layout) -> Pairs:
    """The samples among these member names that have every kind of picture the archive has.

    Numbers are ranks in natural order: of a bg or fg among all, of a sample's (i, flip) among those
    of its bg and fg, modulo 40. A sample that lacks something is left out, but counted: it
    shifts nothing.
    Raises: ValueError: no sample is whole; a number is none.
    """
    table, bgs, fgs, photos, texts, problems = _parsed(names, layout)
    has_fg = list(fgs) != [_natural("")]
    leak = "" if has_fg else "Names tell no object, so that the split may leak some."
    bg_order = sorted(bgs)
    fg_order = sorted(fgs)
    if "bg" not in re.compile(layout.fg_bg).groupindex:
        leak = "Names tell no background: blocks are held out, and the split may leak some."
        bg_order = _by_blocks(bg_order)
    table[:, 0] = _ranks(bgs, bg_order)[table[:, 0]]
    table[:, 1] = _ranks(fgs, fg_order)[table[:, 1]]
    keys, sample = np.unique(table[:, :3], axis=0, return_inverse=True)  # (n, 3), (members,)
    sample = sample.ravel()
    kind, member = table[:, 3], table[:, 4]

    index = np.zeros(len(keys), INDEX)
    index["bg"] = keys[:, 0]
    index["fg"] = keys[:, 1]
    of_pair = index["bg"] * np.int64(len(fgs)) + index["fg"]  # (n,) ascending
    index["placement"] = np.arange(len(keys)) - np.searchsorted(of_pair, of_pair)
    index["id"] = of_pair * (1 + index["placement"].max(initial=0)) + index["placement"]
    index["placement"] %= N_PLACEMENTS  # of any number a tenth is held out
    index["fg"] -= not has_fg

    found = np.full((len(keys), 3), len(names), np.int32)
    np.minimum.at(found, (sample, kind), member)  # of several, the first stays
    is_second = found[sample, kind] != member
    problems["a second for its place"] += [names[i] for i in member[is_second]]
    order = np.argsort(sample, kind="stable")
    for row in np.unique(sample[is_second]):
        some = order[slice(*np.searchsorted(sample, [row, row + 1], sorter=order))]
        found[row] = _of_one_part(names, layout, zip(kind[some], member[some], strict=True))
    found[found == len(names)] = -1
    members = dict(zip(KINDS[:3], found.T, strict=True))  # (n,) each
    if (members["depth"] < 0).all():
        del members["depth"]  # masks only
    photo = np.array([photos.get(bg, -1) for bg in bg_order], int)  # (n_bg,)
    for kind, at in members.items():
        alone = members["fg_bg"][at < 0]
        problems[f"fg_bg without {kind}"] = [names[i] for i in alone if i >= 0]
        alone = at[members["fg_bg"] < 0]
        problems[f"{kind} without fg_bg"] = [names[i] for i in alone if i >= 0]
    problems["bg without a picture"] = [texts[bg_order[i]] for i in np.flatnonzero(photo < 0)]
    whole = np.all([photo[index["bg"]] >= 0, *(at >= 0 for at in members.values())], axis=0)
    pairs = Pairs(
        index[whole],
        {kind: at[whole] for kind, at in members.items()} | {"bg": photo},
        [texts[bg] for bg in bg_order],
        [texts[fg] for fg in fg_order if has_fg],
        {what: (len(all_), all_[:10]) for what, all_ in problems.items() if all_},
        leak,
    )
    if not whole.any():
        raise ValueError(f"by layout {layout.name}, no sample is whole: {pairs.report()}")
    return pairs


def _parsed(
    names: Sequence[str], layout: Layout
) -> tuple[np.ndarray, dict, dict, dict, dict, dict]:
    """(members, 5) int32 of samples: code of bg and of fg, number and flip as one, position in
    KINDS, position in names; codes by bg and by fg; the photo by its bg; names of bg and fg as they
    were first met; members that are none, or a second photo. A million members make no objects."""
    table = array("i")
    bgs: dict[tuple, int] = {}
    fgs: dict[tuple, int] = {}
    photos: dict[tuple, int] = {}
    texts: dict[tuple, str] = {}
    problems: dict[str, list[str]] = {"a second for its place": [], "not used": []}
    for member, name in enumerate(names):
        kind, groups = layout.parse(name)
        if not kind:
            problems["not used"].append(name)
            continue
        number = groups.get("i") or groups.get("n") or "0"
        if not number.isdecimal() or len(number) > 9:
            raise ValueError(
                f"{name!r}: its group i or n is {number!r}; needed: a number of 9 digits or fewer"
            )
        text = groups.get("bg") or number
        bg = _natural(text)
        texts.setdefault(bg, text)
        if kind == "bg":
            first = photos.setdefault(bg, member)
            if name.rpartition("/")[2] != names[first].rpartition("/")[2]:  # J: in each batch
                problems["a second for its place"].append(name)
            continue
        text = "/".join(filter(None, (groups.get("batch"), groups.get("fg"))))
        fg = _natural(text)
        texts.setdefault(fg, text)
        flip = (groups.get("flip") or "").lower() not in ("", "0", "f")
        table.append(bgs.setdefault(bg, len(bgs)))
        table.append(fgs.setdefault(fg, len(fgs)))
        table.append(2 * int(number) + flip)
        table.append(KINDS.index(kind))
        table.append(member)
    return np.array(table, np.int32).reshape(-1, 5), bgs, fgs, photos, texts, problems


def _of_one_part(names: Sequence[str], layout: Layout, found: Iterable) -> list[int]:
    """One member of each kind, of several that have the same name; len(names) where there is none.
    Where they lie in different parts of an archive, all are of one part: the first that is whole.
    """
    parts: list[dict[str, int]] = [{}, {}, {}]  # of each kind, the first of each part
    for kind, member in found:
        parts[kind].setdefault(layout.above(KINDS[kind], names[member]), int(member))
    if max(map(len, parts)) < 2:
        return [min(part.values(), default=len(names)) for part in parts]
    there = [part for part in parts if part]
    for part in there[0]:
        if all(part in other for other in there):
            return [other.get(part, len(names)) for other in parts]
    return [len(names)] * 3


def _ranks(codes: dict[tuple, int], order: list[tuple]) -> np.ndarray:
    """(n,) the rank, in this order, of each code."""
    ranks = np.zeros(len(codes), np.int32)
    for rank, key in enumerate(order):
        ranks[codes[key]] = rank
    return ranks


@lru_cache(1 << 16)
def _natural(text: str) -> tuple:
    """A key that sorts bg2 before bg10, and takes bg02 for bg2."""
    parts = re.split(r"(\d+)", text.lower())
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _by_blocks(keys: list[tuple]) -> list[tuple]:
    """In an order whose every fifth, which is held out, makes up every fifth block as they were."""
    block, place = np.divmod(np.arange(len(keys)), max(1, len(keys) // N_BLOCKS))
    return [keys[i] for i in np.lexsort((block % 5, place, block // 5))]
