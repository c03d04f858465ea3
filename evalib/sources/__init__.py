"""Where the pictures of a tier come from: `open_source` is the door.

A source has `tier`, `kinds` (those of `bg bg_depth fg_bg mask depth` it gives), `index(limit)`, its
samples as records (id, bg, fg, placement), `render_backgrounds(bg, size)` and `render(ids, size)`,
which give these pictures at any size, `identity`, which changes with them, `skipped`, ids whose
pictures cannot be read, and `problems` with its members by name. Renderers make pictures (`rooms`,
`photos`), so they can be streamed by the `command` of a process. Archives hold them: `download`
brings their files, `members` reads these without unpacking, `layouts` knows what belongs together.
To any of them a `teacher` may add depth.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np

from evalib import manifest, rooms
from evalib.manifest import N_PLACEMENTS, Tier
from evalib.sources.archive import Archive, polarity, warn
from evalib.sources.photos import Photos
from evalib.worker import KINDS

__all__ = ["Archive", "Photos", "Renderer", "Source", "guess", "open_source", "polarity", "warn"]
Pictures = dict[str, np.ndarray]


class Renderer:
    """A tier whose pictures are made. `command`: arguments of a Python that makes them, too, and
    answers a pipe."""

    skipped = frozenset()  # nothing is broken
    problems: dict[str, str] = {}

    def __init__(self, tier: Tier, maker, kinds: Sequence[str], command: Sequence[str]) -> None:
        self.tier = tier
        self.maker = maker
        self.kinds = tuple(kinds)
        self.command = tuple(command)
        self.identity = getattr(maker, "identity", "")  # of rooms, the seed says it all

    def index(self, limit: int | None = None) -> np.ndarray:
        return self.tier.index_of(np.sort(manifest.sample_ids(self.tier, limit)))

    def render_backgrounds(self, bg: Sequence[int], size: int) -> Pictures:
        return self.maker.render_backgrounds(bg, size, seed=self.tier.seed)

    def render(self, ids: Sequence[int], size: int) -> Pictures:
        return self.maker.render(ids, size, seed=self.tier.seed)

    def report(self) -> str:
        """What there is."""
        first, end = self.tier.backgrounds
        n_fg = self.tier.n_fg * -(-(end - first) // self.tier.n_bg)
        n = f"{len(self.index()):,} of {end - first:,} backgrounds x {n_fg:,} objects"
        return f"{n} x {N_PLACEMENTS} placements"


Source = Renderer | Archive


def guess(text: str, depth: str = "") -> Tier:
    """The tier of this name or, if there is none, of what lies at this address: a path (of an
    archive; or of a folder whose folders are bg/, fg/ and perhaps fg_mask/, of photographs to paste
    together), a link, drive:ID. `depth`: as in a manifest.

    Raises: ValueError: it is none of these, or a tier whose row says how depth runs.
    """
    if text in manifest.known():
        if depth:
            raise ValueError(f"{text} is the name of a tier: its row says how depth runs")
        return manifest.find(text)
    path = Path(text).expanduser()
    inside = {item.name for item in path.glob("[!.]*/")}
    if {"bg", "fg"} <= inside <= {"bg", "fg", "fg_mask"}:
        source = "photos"
    elif path.exists():
        source = "folder"
    elif re.match(r"drive:|https?://\w+\.google\.com/", text):
        source = "drive"
    elif re.match(r"https?://", text):
        source = "url"
    else:
        raise ValueError(f"{text!r} is no tier, no path here and no link of a file")
    name = f"yours-{crc32(f'{text} {depth}'.encode()):08x}"
    return Tier(name, source, text, depth=depth)


def open_source(tier: Tier, folder: Path | str) -> Source:
    """What gives the pictures of a tier; archives are downloaded to `folder`/downloads.

    Raises: ValueError, OSError: with what to do about it; ImportError: of a teacher's library.
    """
    how, _, model = tier.depth.partition(":")
    if how == "teacher":
        from evalib.sources import teacher  # loads a library that few need

        return teacher.Taught(open_source(replace(tier, depth="none"), folder), model)
    if tier.source == "rooms":
        return Renderer(tier, rooms, KINDS, ["-m", rooms.__name__])
    if tier.source == "photos":
        return _photos(tier)
    return Archive(tier, Path(folder) / "downloads")


def _photos(tier: Tier) -> Renderer:
    folder = Path(tier.address).expanduser().resolve()
    photos = Photos(folder / "bg", folder / "fg")
    n_bg = len(photos.bg_paths)
    n_fg = len(photos.fg_paths)
    n = n_bg * n_fg * N_PLACEMENTS
    n_samples = min(tier.n_samples or n, n)
    tier = replace(tier, backgrounds=(0, n_bg), n_bg=n_bg, n_fg=n_fg, n_samples=n_samples)
    command = ["-m", "evalib.sources", str(folder)]
    return Renderer(tier, photos, photos.kinds, command)
