"""Photographs of one's own as a renderer: cut-outs pasted into empty scenes, at any size.

One folder has pictures of empty scenes, another one cut-outs: PNG or WebP with transparency, or any
picture with a mask of the same name in a folder beside it, which is called as it and `_mask`. As in
rooms, every background meets every object at 20 places, each also mirrored, and what a sample shows
follows from (seed, number) alone, at any size. Whatever stands further away is smaller and higher
up in the picture.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from evalib import manifest, pictures, rng

EMPTY_SHARE = 0.02  # of samples in which nothing is new, as in rooms
LOW, HIGH = 0.15, 0.8  # how much of the picture a cut-out's longer side fills
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
KEPT_PX = 512  # no cut-out or background is kept larger


class Photos:
    """Backgrounds and cut-outs of two folders, a renderer as `rooms` is; in `bg_paths`, `fg_paths`
    the files stand in the order of their numbers.

    Raises: FileNotFoundError, ValueError: with what to put where.
    """

    kinds = ("bg", "fg_bg", "mask")

    def __init__(self, bg: Path | str, fg: Path | str) -> None:
        self.bg_paths = _pictures(Path(bg))
        self.fg_paths = _pictures(Path(fg))
        masks = _listed(Path(fg).with_name(f"{Path(fg).name}_mask"))
        self.masks = {path.stem: path for path in masks}
        files = [(p.name, p.stat().st_size) for p in self.bg_paths + self.fg_paths + masks]
        self.identity = hashlib.sha256(repr(files).encode()).hexdigest()
        self.background = lru_cache(maxsize=256)(self._background)
        self.cutout = lru_cache(maxsize=1024)(self._cutout)

    def index_of(self, ids: np.ndarray) -> np.ndarray:
        """(N,) records (id, bg, fg, placement) of ids (N,)."""
        return manifest.index_of(ids, n_fg=len(self.fg_paths), n_bg=len(self.bg_paths))

    def render_backgrounds(
        self, bg: Sequence[int], size: int, *, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """bg: (B, S, S, 3) uint8, each squeezed to a square."""
        return {"bg": _stack([self.background(int(i), size) for i in bg], size)}

    def render(self, ids: Sequence[int], size: int, *, seed: int = 0) -> dict[str, np.ndarray]:
        """fg_bg: (B, S, S, 3) uint8; mask: (B, S, S) uint8 in {0, 255}: where the new covers half
        of a pixel or more. ids: (background * n objects + object) * 40 + 2 * place + mirrored."""
        ids = np.asarray(ids, np.int64)
        index = self.index_of(ids)
        keys = rng.sample_keys(seed, 0, ids // 2)  # mirrored twins stand at one place
        shown = rng.uniform(keys, "shown", 0, 1)[:, 0] >= EMPTY_SHARE
        luck = rng.uniform(keys, "place", 0, 1, 3).astype(float)
        image = _stack([self.background(int(i), size) for i in index["bg"]], size)
        mask = np.zeros(image.shape[:3], np.uint8)
        for i in np.flatnonzero(shown):
            mirrored = index["placement"][i] % 2
            self._paste(image[i], mask[i], int(index["fg"][i]), mirrored, luck[i])
        return {"fg_bg": image, "mask": mask}

    def _paste(self, image, mask, fg: int, mirrored: int, luck: np.ndarray) -> None:
        """Put a cut-out where three numbers in 0..1 say: how large, where across, where down."""
        size = len(image)
        cutout = self.cutout(fg)
        share = LOW * (HIGH / LOW) ** luck[0]
        scale = share * size / max(cutout.size)
        wide, tall = (max(1, round(scale * side)) for side in cutout.size)
        left = round(luck[1] * size - wide / 2)  # up to half of it beyond the frame
        feet = 0.52 + 0.42 * share + 0.12 * luck[2]  # nearer, larger, lower
        top = round(feet * size) - tall
        small = np.asarray(cutout.resize((wide, tall), Image.Resampling.BILINEAR))
        if mirrored:
            small = small[:, ::-1]
        y, x = max(top, 0), max(left, 0)
        small = small[y - top : size - top, x - left : size - left]
        here = slice(y, y + small.shape[0]), slice(x, x + small.shape[1])
        alpha = small[..., 3:].astype(np.float32) / 255
        image[here] = np.rint(image[here] * (1 - alpha) + small[..., :3])
        mask[here] = np.where(small[..., 3] >= 128, 255, 0)

    def _background(self, bg: int, size: int) -> np.ndarray:
        return pictures.read(self.bg_paths[bg], partial(pictures.rgb_square, size=size))

    def _cutout(self, fg: int) -> Image.Image:
        """Colours times alpha, and alpha: so nothing of what was around it bleeds in."""
        path = self.fg_paths[fg]
        image = pictures.read(path, pictures.upright)
        if path.stem in self.masks:
            mask = pictures.read(self.masks[path.stem], pictures.upright)
            image = image.convert("RGB")
            image.putalpha(mask.convert("L").resize(image.size))
        if image.has_transparency_data:
            image = image.convert("RGBA")
        if image.mode != "RGBA":
            raise ValueError(
                f"{path} has no transparency; needed: a cut-out saved as PNG or WebP with it, or a "
                f"mask of the same name in {path.parent.name}_mask/"
            )
        image = image.crop(image.getbbox())  # what is wholly transparent counts for nothing
        image.thumbnail((KEPT_PX, KEPT_PX), Image.Resampling.BOX)
        return image.convert("RGBa")


def _stack(images: list[np.ndarray], size: int) -> np.ndarray:
    """Of no images, too."""
    return np.array(images, np.uint8).reshape(len(images), size, size, 3)


def _listed(folder: Path) -> list[Path]:
    """Pictures in a folder, bg2 before bg10."""
    paths = [path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES]
    parts = {path: re.split(r"(\d+)", path.name) for path in paths}
    return sorted(paths, key=lambda p: [int(x) if x.isdecimal() else x for x in parts[p]])


def _pictures(folder: Path) -> list[Path]:
    if not (found := _listed(folder)):
        raise FileNotFoundError(f"no pictures in {folder}; needed there: {', '.join(SUFFIXES)}")
    return found
