"""An archive of somebody else's, as a source: its samples, and their pictures at any size."""

import hashlib
import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from evalib import pictures, rng
from evalib.manifest import Tier
from evalib.sources import download, layouts, members, pairs
from evalib.sources.layouts import Layout

MAX_BROKEN = 0.001  # share of the pictures that may be unreadable
MAX_TOLD = 1000  # masks that fit no picture: so many are named
COLOURFUL = 10  # grey levels between channels, on average: grey JPEG has 0, plasma 125 or more
N_LOOKED_AT, LOOKED_AT = 50, 32  # samples to see which way depth runs, and their pixels
MIN_VOTE = 0.6  # of 2; noise alone stays below 0.4 in 19 of 20 sets of 50 samples


class Archive:
    """The samples of one archive. What had no partner is told by `report()`. What could not be
    read is black; the ids of the samples that need it are `skipped`, and `problems` names it, as it
    names masks that are not where their pictures changed.

    Raises: ValueError, OSError: with what to do about it.
    """

    def __init__(self, tier: Tier, folder: Path | str) -> None:
        self.tier = tier
        path = download.fetch(tier.address, folder, sha256=tier.sha256, n_bytes=tier.bytes)
        self.files = members.open_files(path)
        self.layout = layouts.named(tier.layout, tier.depth, tier.scale, self.files.names)
        self.pairs = pairs.pair(self.files.names, self.layout)
        self.kinds = ("bg", "fg_bg", "mask") + (("depth",) if "depth" in self.pairs.members else ())
        sha = hashlib.sha256(repr(self.layout).encode())
        for name in self.files.names:  # a million of them are not joined
            sha.update(f"{name}\n".encode())
        sha.update(self.files.sums.tobytes())
        self.identity = sha.hexdigest()
        self.problems: dict[str, str] = {}  # member: what is wrong with it
        self.skipped: set[int] = set()
        self.n_broken = 0
        self.background = lru_cache(64)(self._background)
        self._ids = np.ascontiguousarray(self.pairs.index["id"])

    def index(self, limit: int | None = None) -> np.ndarray:
        """All samples, or `limit` of them, drawn by chance. Raises: ValueError: limit below 1."""
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit}; needed: 1 or more, or None for all of it")
        index = self.pairs.index
        n = min(filter(None, (limit, self.tier.n_samples, len(index))))
        return index[np.sort(rng.permuted(np.arange(n), len(index), self.tier.seed, 0))]

    def render_backgrounds(self, bg: Sequence[int], size: int) -> dict[str, np.ndarray]:
        """bg: (B, S, S, 3) uint8."""
        found = [self.background(int(i), size) for i in bg]
        return {"bg": np.array(found, np.uint8).reshape(len(found), size, size, 3)}

    def render(self, ids: Sequence[int], size: int) -> dict[str, np.ndarray]:
        """fg_bg (B, S, S, 3), mask and, if there is any, depth (B, S, S) uint8."""
        rows = np.searchsorted(self._ids, ids)
        found = {}
        for kind in self.kinds[1:]:
            colours = (3,) if kind == "fg_bg" else ()
            found[kind] = np.zeros((len(rows), size, size, *colours), np.uint8)
            for image, member, number in zip(
                found[kind], self.pairs.members[kind][rows], ids, strict=True
            ):
                if (read := self._read(kind, member, size)) is None:
                    self.skipped.add(int(number))
                else:
                    image[:] = read
        bg = self.render_backgrounds(self.pairs.index["bg"][rows], size)["bg"]
        for row in rows[misplaced(bg, found["fg_bg"], found["mask"])]:
            name = self.files.names[self.pairs.members["mask"][row]]
            if len(self.problems) < MAX_TOLD and int(self._ids[row]) not in self.skipped:
                self.problems.setdefault(name, "is not where its picture differs from its bg")
        return found

    def _background(self, bg: int, size: int) -> np.ndarray:
        image = self._read("bg", self.pairs.members["bg"][bg], size)
        if image is None:
            index = self.pairs.index
            self.skipped.update(index["id"][index["bg"] == bg].tolist())
            return np.zeros((size, size, 3), np.uint8)
        return image

    def _read(self, kind: str, member: int, size: int) -> np.ndarray | None:
        """A picture; None: it cannot be read, which is noted."""
        name = self.files.names[member]
        try:
            return load_image(self.files.read(name), kind, size, self.layout)
        except ValueError as error:
            self.n_broken += name not in self.problems
            self.problems[name] = str(error)
            if self.n_broken <= MAX_BROKEN * len(self.files.names):
                return None
            raise ValueError(
                f"{self.n_broken} pictures of {self.tier.address} cannot be read, more than "
                f"{MAX_BROKEN:.1%} of all: {_few(self.problems)}. Get the archive again, or leave "
                "them out"
            ) from error

    def report(self) -> str:
        """What was found in it, what has no partner, which way depth runs; a line each."""
        lines = [f"layout {self.layout.name}", self.pairs.report()]
        if "depth" not in self.kinds:
            return "\n".join([*lines, "no depth"])
        some = self.render(self.index(N_LOOKED_AT)["id"], LOOKED_AT)
        verdict, object_nearer, ground_nearer = polarity(some["depth"], some["mask"])
        lines.append(
            f"depth, read as {self.layout.polarity}: objects {object_nearer:+.0f} grey levels from "
            f"what is around them, the ground {ground_nearer:+.0f} from the top"
        )
        if verdict == "near_bright":  # as `load_image` gave it, near is dark
            other = {"near_dark": "near_bright", "near_bright": "near_dark"}
            lines.append(f"WRONG WAY ROUND: say depth={other[self.layout.polarity]} in its row")
        return "\n".join(lines + ["which does not tell near from far"] * (verdict == "unclear"))


def warn(what: str, problems: dict[str, str]) -> None:
    """Tell of problems, if there are any."""
    if problems:
        warnings.warn(f"{what}: {len(problems)} problems: {_few(problems)}", stacklevel=4)


def _few(problems: dict[str, str], n: int = 5) -> str:
    few = [f"{name} ({why})" for name, why in list(problems.items())[:n]]
    return ", ".join(few) + ", ..." * (len(problems) > n)


def load_image(data: bytes, kind: str, size: int, layout: Layout) -> np.ndarray:
    """A picture as uint8 (size, size, 3); a mask, 0 or 255, or depth, 0 near and 255 at 10 m or
    beyond, as (size, size). It is squeezed to a square. A mask is thresholded before it shrinks (it
    may be a blurry JPEG), and holds where more than half of a pixel is new.

    Raises: ValueError: no picture, a damaged or too large one, depth in colours.
    """
    if kind in ("bg", "fg_bg"):
        return pictures.read(data, partial(pictures.rgb_square, size=size))
    convert = {"mask": _mask, "depth": _depth}[kind]
    return pictures.read(data, partial(convert, size=size, layout=layout))


def _mask(image: Image.Image, size: int, layout: Layout) -> np.ndarray:
    grey = np.rint(255 * pictures.grey(image))
    threshold = layout.threshold if grey.max() > 1 else 0  # some are of zeros and ones
    new = pictures.square((grey > threshold).astype(np.float32), size)
    return np.where(new > 0.5, 255, 0).astype(np.uint8)


def _depth(image: Image.Image, size: int, layout: Layout) -> np.ndarray:
    image.draft(None, (size, size))
    if not layout.colour and image.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
        red, green, blue = np.asarray(image.convert("RGB")).astype(np.int16).transpose(2, 0, 1)
        if max(np.abs(red - green).mean(), np.abs(green - blue).mean()) > COLOURFUL:
            raise ValueError(
                "depth in colours; needed: one channel. If its brightness grows with depth, as in "
                "plasma, say so in its row (near_dark colour); otherwise turn it into grey"
            )
    depth = pictures.square(pictures.grey(image), size)
    if layout.polarity == "near_bright":
        depth = 1 - depth
    return np.rint(255 * np.minimum(depth * layout.scale / 10, 1)).astype(np.uint8)


def polarity(depth: np.ndarray, mask: np.ndarray) -> tuple[str, float, float]:
    """Which way depth runs, from some 50 samples, uint8 (N, S, S) each: objects stand in front, and
    the ground at the bottom is near. Each sample has two votes.

    Returns: "near_dark", "near_bright" or "unclear"; mean differences in grey levels: inside the
    mask minus outside, bottom quarter minus top quarter. Of depth that `load_image` gave, anything
    but "near_dark" says that the layout's polarity is wrong.
    """
    depth = depth.astype(float)
    quarter = -(-depth.shape[1] // 4)
    inside, outside = _means(depth, mask)
    object_nearer = np.nan_to_num(inside - outside)  # no vote where there is no object
    ground_nearer = (depth[:, -quarter:] - depth[:, :quarter]).mean(axis=(1, 2))
    vote = np.mean(np.sign(object_nearer) + np.sign(ground_nearer))  # -2 to 2
    verdict = "unclear" if abs(vote) < MIN_VOTE else "near_dark" if vote < 0 else "near_bright"
    return verdict, float(object_nearer.mean()), float(ground_nearer.mean())


def misplaced(bg: np.ndarray, fg_bg: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(N,) whether a picture differs from its background no more inside its mask than outside: the
    mask of another sample, or an inverted one, which names cannot tell. Of pasted photographs no
    right mask is suspected, and 57 % of those that belong to the next sample; of rooms, where light
    differs between shots, 0.3 % and 49 %.

    Input: bg, fg_bg: (N, S, S, 3) uint8; mask: (N, S, S) uint8. An empty mask is not judged.
    """
    some = np.s_[:, :: -(-mask.shape[1] // LOOKED_AT), :: -(-mask.shape[1] // LOOKED_AT)]
    mask = mask[some]
    changed = np.abs(fg_bg[some].astype(np.int16) - bg[some])  # (N, s, s, 3)
    changed = np.maximum(np.maximum(changed[..., 0], changed[..., 1]), changed[..., 2])
    inside, outside = _means(changed, mask)
    return inside <= outside


def _means(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) mean inside the mask, and outside; NaN of nothing."""
    new = mask > 127
    total = values.sum(axis=(1, 2), dtype=float)
    of_new = np.where(new, values, 0).sum(axis=(1, 2), dtype=float)
    n_new = new.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return of_new / n_new, (total - of_new) / (new[0].size - n_new)
