"""Depth from a teacher: another network looks at each picture, and what it says is taken for true.

Depth Anything V2 (Yang et al. 2024) gives *relative inverse depth*: larger is nearer, and scale and
shift are unknown and differ from picture to picture. The rule that makes it ours:

1. of an empty scene, the 2nd percentile is 10 m away and the 98th 1 m, in inverse depth between:
   1/z = 1/10 + t (1/1 - 1/10);
2. a sample is brought to the scale and shift of its empty scene by least squares over what is not
   new, so that nothing but the new changes its distance.

So distances within a scene compare, metres are a guess. Where a trained network of ours is at hand
(`fitted`), its metres take the place of rule 1. Metric variants give metres, which are taken as
they are.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from evalib import pictures
from evalib.worker import KINDS

DEFAULT = "depth-anything/Depth-Anything-V2-Small-hf"  # Apache-2.0, 25 million parameters
NEAR, FAR = 1.0, 10.0  # metres
LOOKED_AT = 384  # pixels of the pictures that it sees, or more if the pack has more
TOGETHER = 16
MIN_UNCHANGED = 0.02  # of a picture: less tells no scale


class Teacher:
    """Another network, which sees how far away things are in one picture: relative inverse depth,
    or metres if it `is_metric`.

    model: a name on the Hugging Face hub, or a folder with `save_pretrained` of a model and its
           image processor.
    Raises: ImportError: no transformers; OSError: there is no such model.
    """

    def __init__(self, model: str = "") -> None:
        try:
            from transformers import pipeline
        except ImportError as error:
            raise ImportError("depth from a teacher needs: pip install transformers") from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pipeline = pipeline("depth-estimation", model=model or DEFAULT, device=device)
        known = self.pipeline.model.config
        self.is_metric = getattr(known, "depth_estimation_type", "relative") == "metric"
        self.name = known._name_or_path

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(H, W) float32 for each image (H, W, 3), as it says it: not its "depth", which is
        stretched to 8 bits picture by picture."""
        shots = [pictures.Image.fromarray(image) for image in images]
        answers = self.pipeline(shots, batch_size=TOGETHER)
        seen = [answer["predicted_depth"].float().numpy().squeeze() for answer in answers]
        sizes = [image.shape[:2] for image in images]
        return [pictures.resized(*pair) for pair in zip(seen, sizes, strict=True)]


class Taught:
    """A source with the depth that a teacher sees in its pictures.

    model and errors: as `Teacher` has them.
    """

    kinds = KINDS

    def __init__(self, source, model: str = "") -> None:
        self.source = source
        self.tier = source.tier
        self.teacher = Teacher(model)
        self.identity = f"{source.identity} depth by {self.teacher.name}"
        self.index = source.index
        self.known = source.index()
        self.empty = lru_cache(64)(self._empty)

    @property
    def skipped(self) -> set[int]:
        return self.source.skipped

    @property
    def problems(self) -> dict[str, str]:
        return self.source.problems

    def report(self) -> str:
        relative = f"relative, {NEAR:g} to {FAR:g} m a scene"
        how = "metres" if self.teacher.is_metric else relative
        return f"{self.source.report()}\ndepth seen by {self.teacher.name}: {how}"

    def render_backgrounds(self, bg: Sequence[int], size: int) -> dict[str, np.ndarray]:
        """Those of the source, and bg_depth (B, S, S) uint8."""
        depth = [encoded(self._metres(self.empty(int(i), size), int(i), size), size) for i in bg]
        depth = np.array(depth, np.uint8).reshape(len(depth), size, size)
        return self.source.render_backgrounds(bg, size) | {"bg_depth": depth}

    def render(self, ids: Sequence[int], size: int) -> dict[str, np.ndarray]:
        """Those of the source, and depth (B, S, S) uint8."""
        found = self.source.render(ids, size)
        found["depth"] = np.zeros_like(found["mask"])
        of_bg = self.known["bg"][np.searchsorted(self.known["id"], ids)]
        for start in range(0, len(ids), TOGETHER):
            part = slice(start, start + TOGETHER)
            large = self.source.render(ids[part], max(size, LOOKED_AT))
            seen = self.teacher(large["fg_bg"])
            for into, one, mask, bg in zip(
                found["depth"][part], seen, large["mask"], of_bg[part].tolist(), strict=True
            ):
                if not self.teacher.is_metric:
                    one = aligned(one, self.empty(bg, size), mask)
                into[:] = encoded(self._metres(one, bg, size), size)
        return found

    def _metres(self, seen: np.ndarray, bg: int, size: int) -> np.ndarray:
        return seen if self.teacher.is_metric else metres(seen, self.empty(bg, size))

    def _empty(self, bg: int, size: int) -> np.ndarray:
        large = self.source.render_backgrounds([bg], max(size, LOOKED_AT))
        return self.teacher(large["bg"])[0]


def aligned(seen: np.ndarray, empty: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`seen` times a factor plus a shift, nearest to `empty` where `mask` is 0, in squares; as it
    is, if too little of the picture is left to tell them."""
    same = mask == 0
    x = seen[same]
    if x.size < MIN_UNCHANGED * seen.size or np.ptp(x) == 0:
        return seen
    factor, shift = np.polyfit(x, empty[same], 1)
    return factor * seen + shift


def metres(seen: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Relative inverse depth as a distance, by the percentiles of the empty scene."""
    far, near = np.percentile(empty, [2, 98])
    t = np.clip((seen - far) / max(near - far, 1e-6), 0, 1)
    return 1 / (1 / FAR + t * (1 / NEAR - 1 / FAR))


def fitted(seen: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Relative inverse depth as a distance: the scale and shift nearest to 1 / `z`, the metres of a
    network that knows less of shapes, where these are below FAR; `metres`, if the two disagree."""
    near = z < 0.99 * FAR
    factor = 0.0
    if near.mean() >= MIN_UNCHANGED and np.ptp(seen[near]) > 0:
        factor, shift = np.polyfit(seen[near], 1 / z[near], 1)
    if factor <= 0:
        return metres(seen, seen)
    return 1 / np.maximum(factor * seen + shift, 1 / FAR)


def encoded(z: np.ndarray, size: int) -> np.ndarray:
    """Metres as uint8 (size, size), 255 at 10 m or beyond."""
    small = pictures.square(np.asarray(z, np.float32), size)
    return np.rint(255 * np.clip(small / 10, 0, 1)).astype(np.uint8)
