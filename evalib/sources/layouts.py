"""How archives name their files: named in a manifest, spelled out there, or found by probing.

Sixty teams did one task and named their files in as many ways. A layout is a regular expression for
each kind of picture.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

KINDS = ("depth", "mask", "fg_bg", "bg")  # in this order: a mask may lie in fg_bg_mask/../fg_bg/
N_PROBED = 50  # names of a folder


@dataclass(frozen=True)
class Layout:
    """Regular expressions, searched in member names whatever their case, and how to read pictures.

    Groups: `bg`, `fg`, `flip`; `i` or `n`, a number; `batch`, if each has objects of its own.
    """

    name: str
    fg_bg: str
    mask: str
    depth: str  # "": masks only
    bg: str
    polarity: str | None = "near_dark"  # "near_bright" is inverted when read; None: no depth
    threshold: int = 127  # a mask is where grey is above
    colour: bool = False  # whether depth is a colour map whose brightness counts, as in plasma
    scale: float = 10.0  # metres at the far end of depth

    def above(self, kind: str, name: str) -> str:
        """What stands before the folder of this kind, as in an archive that comes in parts."""
        return name[: re.search(getattr(self, kind), name, re.I).start()]

    def parse(self, name: str) -> tuple[str, dict[str, str]]:
        """Kind and groups of a member; no kind if it is none of this layout's."""
        for kind in KINDS:
            expression = getattr(self, kind)
            if expression and (match := re.search(expression, name, re.I)):
                return kind, match.groupdict()
        return "", {}


BATCH = r"(?:(?P<batch>[^/]*batch[\s_-]?\d+)[^/]*/(?:[^/]+/)*)?"
FOLDERS = {  # of fg_bg, mask, depth and bg
    "A": "bg_fg bg_fg_masks? bg_fg_depth(?:_maps?)? bg",
    "B": "fg_bg fg_bg_masks? fg_bg_depth(?:_maps?)? bg",
    "C": "fg_bg fg_bg_masks depth_maps? (?:inp_)?bg",
    "D": "fg_bg fg_bg_masks? depth_output bg",
    "F": "fg_bg fg_bg_masks? (?:mask_fg_bg|depth_fg_bg|fg_bg_depth) bg",
    "G": "fg_bg fg_bg_masks? fg_bg_depth bg",
    "H": "fg_bg fg_bg_masks? fg_bg_depth bg",
    "J": f"{BATCH}fg_bg_jpg {BATCH}mask_black_jpg {BATCH}depth_fg_bg_jpg bg_jpg",
}
NUMBERED = r"(?P<bg>bg\d+)_(?P<fg>fg\d+)_(?P<i>\d{1,9})(?:_mask|_depth(?:_map)?)?"
FILES = {  # of a sample
    "A": NUMBERED,
    "B": NUMBERED,
    "C": r"(?P<bg>[^_/]+)_(?P<flip>flip_)?(?P<fg>[^_/]+)_(?P<i>\d{1,9})",
    "D": r"(?P<bg>bg_\d+)(?P<fg>fg[^/]*?)(?P<flip>_flip)?_(?P<i>\d{1,9})",
    "F": r"(?:mask_|depth_)?fg_(?P<fg>\d+)_bg_(?P<bg>\d+)_(?:mask_)?(?P<n>\d{1,9})",
    "G": r"bg_(?P<bg>\d+)_fg_(?P<fg>\d+)_(?P<flip>[TF])_(?P<n>\d{1,9})",
    "H": r"bg_?(?P<bg>\d+)/(?:[^/]+/)*img_(?P<n>\d{1,9})",
    "J": r"[a-z_]+_(?P<fg>\d+)_(?P<bg>\d+)_(?P<flip>[01])_(?P<i>\d{1,9})",
}
NAMED = {"A": r"(?P<bg>bg\d+)", "C": r"(?P<bg>[^/]+?)", "D": r"(?P<bg>bg_\d+)"}  # backgrounds
NAMED["B"] = NAMED["A"]


def _at(folder: str, file: str) -> str:
    """The expression of a picture in a folder, or somewhere below it; B's depth has no suffix."""
    return rf"(?:^|/){folder}(?:_small)?/(?:[^/]+/)*{file}(?:\.(?:jpe?g|png|bmp|webp))*$"


def _layout(name: str) -> Layout:
    *of_samples, of_bg = FOLDERS[name].split()
    expressions = [_at(folder, FILES[name]) for folder in of_samples]
    bg = _at(of_bg, NAMED.get(name, r"[a-z_]*(?P<bg>\d+)"))
    return Layout(name, *expressions, bg, threshold=149 if name == "F" else 127)  # as its authors


LAYOUTS = {name: _layout(name) for name in FOLDERS}


def folders(text: str) -> Layout:
    """The layout that a row of a manifest spells out: `fg_bg=regex;mask=regex;bg=regex`, perhaps
    `;depth=regex`. Without a group `bg` in fg_bg, each sample has the bg of its number.

    Raises: ValueError: a kind is missing, or an expression is none or has no groups.
    """
    start, *parts = re.split(rf"(?:^|;)\s*({'|'.join(KINDS)})=", text)
    found = {"depth": ""} | dict(zip(parts[::2], parts[1::2], strict=True))
    if start or not all(found.get(kind) for kind in ("fg_bg", "mask", "bg")):
        raise ValueError(
            f"layout {text!r}; needed: one of {', '.join(LAYOUTS)}, nothing (it is found out), or "
            "fg_bg=regex;mask=regex;bg=regex[;depth=regex]"
        )
    for kind, expression in found.items():
        try:
            groups = re.compile(expression).groupindex
        except re.error as error:
            raise ValueError(f"{kind}={expression} is no regular expression: {error}") from None
        if expression and not set(groups) & {"bg", "fg", "i", "n"}:
            raise ValueError(f"{kind}={expression} names no group such as (?P<bg>\\d+)")
    return Layout("folders", **found)


def named(text: str, depth: str, scale: float, names: Sequence[str]) -> Layout:
    """The layout that a manifest names or spells out, or if it does not, the one found by probing
    `names`; `depth` is near_dark, near_bright (with "colour", if it is), none, or "" as the layout
    has it.

    Raises: ValueError: no such layout, or none that fits.
    """
    if not text:
        layout = detect(names)
    elif text in LAYOUTS:
        layout = LAYOUTS[text]
    else:
        layout = folders(text)
    polarity, _, colour = depth.partition(" ")
    if polarity == "none":
        return replace(layout, depth="", polarity=None)
    if polarity not in ("", "near_dark", "near_bright") or colour not in ("", "colour"):
        raise ValueError(
            f"depth {depth!r}; needed: near_dark, near_bright, either with colour, or none"
        )
    polarity = polarity or layout.polarity
    return replace(layout, polarity=polarity, colour=bool(colour), scale=scale)


def detect(names: Sequence[str]) -> Layout:
    """The layout that explains most of these member names, probed in each folder.

    Raises: ValueError: none does, or several; it shows a name of each folder.
    """
    inside: dict[str, list[str]] = {}
    for name in names:
        inside.setdefault(name.rpartition("/")[0], []).append(name)
    probed = [name for group in inside.values() for name in group[:: -(-len(group) // N_PROBED)]]
    explained = {}
    for layout in LAYOUTS.values():
        kinds = Counter(layout.parse(name)[0] for name in probed)
        if all(kinds[kind] for kind in ("fg_bg", "mask", "bg")):
            explained[layout.name] = len(probed) - kinds[""]
    best = [name for name, n in explained.items() if n == max(explained.values())]
    if len(best) == 1:
        return LAYOUTS[best[0]]
    examples = [f"{group[0]} ({len(group):,} there)" for group in list(inside.values())[:20]]
    raise ValueError(
        f"{' and '.join(best) or 'none'} of the layouts {', '.join(LAYOUTS)} fit; name one, or "
        f"spell it out as fg_bg=regex;mask=regex;bg=regex;depth=regex. Found: {', '.join(examples)}"
    )
