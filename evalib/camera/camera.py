"""A fixed camera: its empty scene is looked at once, then each frame costs one pass."""

import math
import warnings
from collections import deque

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from evalib import evidence, layers, unet
from evalib.camera import align, measured
from evalib.camera.anchor import anchored

LONG_SIDE = 224  # pixels in the network: more find finer edges, at a price; chosen by rooms
METRES = 10.0  # of depth 1
NEAREST_M, FARTHEST_M = 0.1, 9.9  # beyond, depth is clipped, or a sigmoid's far end
FARTHER = 1.5  # than the farthest measured point, but never less than METRES, depth ends
MOST_POINTS = 100  # more are a map
SAME_ASPECT = 0.01  # relative; rounding alone (6000x4000 as 640x427) gives 0.001
SHOTS = 8  # whose median the empty scene follows: a shadow that passes is in one or two of them
STILL = 0.1  # a pixel with a higher probability of new, or near one, does not follow
MARGIN = 0.02  # of the long side: what is near


class Camera:
    """A fixed camera and its empty scene: what is new in each frame, and how far away all is.

    `mask_pred, depth_pred = Camera(model, bg)(frame)`. What the network makes of `bg` is computed
    once and kept, so a frame costs one encoder pass. The network sees frames shrunk to `long_side`
    (enlarged only where a side would be below what it needs), which decides how fine edges are.

    Input:
        bg:        (H', W', 3) uint8, the empty scene.
        long_side: pixels of the longer side inside the network.
        align:     the camera may have moved: `bg` is brought to where it stands, for each frame.
        refresh:   frames after which `bg` has followed the light of the day: it becomes the median
                   of SHOTS of the last `refresh` frames where nothing is new; 0: it stays.
    Raises: ValueError: `bg` is no uint8 RGB array, `long_side` is too small, or both `align` and
        `refresh` are asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        bg: np.ndarray,
        *,
        long_side: int = LONG_SIDE,
        align: bool = False,
        refresh: float = 0,
    ) -> None:
        _check_photo("bg", bg)
        if long_side < unet.MIN_SIZE:
            raise ValueError(f"long_side is {long_side}, needed {unet.MIN_SIZE} or more")
        if refresh < 0 or (align and refresh):
            needed = "needed 0 or more, and 0 with align: only a camera that stands still can"
            raise ValueError(f"refresh is {refresh} frames, {needed} follow the light")
        self.model = layers.folded(model)
        self.bg = bg
        self.long_side = long_side
        self.align = align
        self.refresh = refresh
        self._bg_points = None  # of bg in the size of frames, and that size
        self._how = None  # the camera moved, when that could last be told
        self._shots = deque(maxlen=SHOTS)  # (1, 3, h, w) inside the network, nan where new
        self._n_waited = 0.0  # frames since the last of them
        # See `calibrate`: what to add to depth's logits, (1, 1, h, w), and the metres where it ends
        self._calibration: tuple[Tensor, float] | None = None
        self.bg_depth: np.ndarray | None = None  # see `anchor`
        self._reach = 1.0  # of bg_depth: what the network is told as 1
        self._kept = {}  # size inside the network: bg of that size, and its features
        self._told = {}  # size inside the network: what it is told of bg_depth, in that size

    def __call__(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tell what is new in `frame`, (H, W, 3) uint8, and how far away everything is.

        Returns: (H, W) float32 each: mask_pred, the probability of new, and depth_pred, z / 10 m,
            0..1, or more after `calibrate` and `anchor`, with whom it agrees.
        Warns: UserWarning: sizes differ, proportions agree within 1 %; `bg` is scaled to `frame`.
            Or: nobody can tell how the camera moved; it is taken to be where it was.
        Raises: ValueError: no uint8 RGB array, or of other proportions than `bg`.
        """
        _check_photo("img", frame)
        sizes = _check_proportions(self.bg, "img", frame)
        if self.bg.shape != frame.shape:
            warnings.warn(f"{sizes}: bg is scaled to the size of img", stacklevel=2)
        if self.align:
            self._find(frame)
        bg_depth = self._bg_depth_at(frame.shape[:2])
        shot, maps = self._look(frame, bg_depth)
        if self.refresh:
            self._follow(shot, maps[:, :1])
        mask_pred, depth_pred = _enlarged(maps, frame.shape[:2])
        if bg_depth is None:
            return mask_pred, depth_pred
        depth = anchored(mask_pred, depth_pred, bg_depth)
        return mask_pred, depth.astype(np.float32)

    def depth(self) -> np.ndarray:
        """(H', W') float32 metres, how far away everything in `bg` is, as the network sees it, with
        what `calibrate` was told; what `anchor` was told is left out."""
        return METRES * _enlarged(self._calibrated(self._empty()), self.bg.shape[:2])[1]

    def _empty(self) -> Tensor:
        """What the network says of `bg` alone, (1, 2, h, w)."""
        bg = _shrunk(self.bg, self._size(self.bg.shape[:2]))
        return torch.cat(unet.predict(self.model, bg, bg), dim=1)

    def _size(self, full: tuple[int, int]) -> tuple[int, int]:
        """Of a frame, inside the network."""
        scale = min(self.long_side, max(self.bg.shape[:2]), max(full)) / max(full)
        return tuple(max(unet.MIN_SIZE, round(side * scale)) for side in full)

    def _look(self, frame: np.ndarray, bg_depth: np.ndarray | None) -> tuple[Tensor, Tensor]:
        """`frame` inside the network, (1, 3, h, w), and what it says, (1, 2, h, w), when told
        `bg_depth` (H, W)."""
        full = frame.shape[:2]
        size = self._size(full)
        if self._how is not None:
            bg = _shrunk(align.moved(_resized(self.bg, full), self._how, frame), size)
            features = None
        else:
            if size not in self._kept:
                bg = _shrunk(self.bg, size)
                if self._shots:  # it has followed the light
                    (before, _), *_ = self._kept.values()
                    bg = F.interpolate(before, size, mode="bilinear", align_corners=False)
                    self._shots.clear()
                self._kept = {size: (bg, unet.encode(self.model, bg))}
            bg, features = self._kept[size]
        shot = _shrunk(frame, size)
        told = None
        if bg_depth is not None:
            if self._how is not None or size not in self._told:
                self._told = {size: _shrunk_depth(bg_depth / self._reach, size)}
            told = self._told[size]
        mask_pred, depth_pred = unet.predict(self.model, bg, shot, features, told)
        if bg_depth is not None and unet.takes_depth(self.model):
            depth_pred = depth_pred * self._reach
        return shot, self._calibrated(torch.cat([mask_pred, depth_pred], dim=1))

    def _bg_depth_at(self, full: tuple[int, int]) -> np.ndarray | None:
        """`bg_depth` in the size of a frame, where the camera stands now; None if nobody knows."""
        if self.bg_depth is None:
            return None
        bg_depth = _resized(self.bg_depth, full)
        if self._how is None:
            return bg_depth
        return align.moved(bg_depth, self._how, np.float32(0))

    def _calibrated(self, maps: Tensor) -> Tensor:
        """Both maps (1, 2, h, w), depth as `calibrate` corrects it."""
        if self._calibration is None:
            return maps
        error, far = self._calibration
        error = F.interpolate(error, maps.shape[2:], mode="bilinear", align_corners=False)
        depth_pred = (maps[:, 1:].logit(1e-6) + error).sigmoid() * (far / METRES)
        return torch.cat([maps[:, :1], depth_pred], dim=1)

    def _find(self, frame: np.ndarray) -> None:
        """Where the camera is now; if that cannot be told, where it was last."""
        full = frame.shape[:2]
        if self._bg_points is None or self._bg_points[0] != full:
            self._bg_points = full, align.points(_resized(self.bg, full))
        try:
            self._how = align.motion(self._bg_points[1], align.points(frame), full)
        except ValueError as error:
            warnings.warn(f"{error}; the camera is taken to be where it was", stacklevel=3)

    def _follow(self, shot: Tensor, mask_pred: Tensor) -> None:
        """Keep a shot now and then, and let `bg` be their median where enough show nothing new."""
        self._n_waited += 1
        if self._n_waited < self.refresh / SHOTS:
            return
        self._n_waited = max(0, self._n_waited - self.refresh / SHOTS)
        size = tuple(shot.shape[2:])
        reach = math.ceil(MARGIN * max(size))
        near_new = F.max_pool2d(mask_pred, 2 * reach + 1, stride=1, padding=reach)
        self._shots.append(shot.where(near_new < STILL, math.nan))
        shots = torch.stack([*self._shots])
        known = shots.isfinite().sum(0) > SHOTS / 2
        bg = shots.nanquantile(0.5, dim=0).where(known, self._kept[size][0])
        self._kept = {size: (bg, unet.encode(self.model, bg))}

    def anchor(self, bg_depth: np.ndarray) -> None:
        """Say how far away everything in `bg` is; from then on depth agrees with it (`anchored`).

        The network, which is told, too, knows no more than 10 m: what reaches farther it is told in
        a smaller measure, so that 19 of 20 known pixels are within these.

        Input: bg_depth: metres along the camera's axis, (H', W') or of the same proportions; 0 or
            nan where it is not known. Of this and `calibrate` the later call counts.
        Raises: ValueError: not such a map, or hardly any of it is known.
        """
        if bg_depth.ndim != 2 or not bg_depth.size:
            raise ValueError(f"bg_depth is {bg_depth.shape}, needed (H, W) in metres")
        _check_proportions(self.bg, "bg_depth", bg_depth)
        metres = np.nan_to_num(bg_depth.astype(np.float32), posinf=0).clip(0)
        if (metres > 0).mean() < 0.05:
            raise ValueError("less than 5 % of bg_depth is known (more than 0 m)")
        self.bg_depth = metres / METRES
        self._told = {}
        self._reach = max(1.0, float(np.quantile(self.bg_depth[self.bg_depth > 0], 0.95)))
        self._calibration = None

    def calibrate(self, *points: tuple[int, int, float]) -> None:
        """Say how far away some pixels of `bg` are; from then on depth agrees with them.

        The network knows distances from rendered scenes, not how large this camera's world is. One
        point tells most of that, more tell how the error differs across the picture (`measured`).
        Measure along the camera's axis, to floor or wall. Depth ends at 10 m, or half as far again
        as the farthest point.

        Input: points: x, y, metres of each. Those of an earlier call are forgotten, as is what
            `anchor` was given.
        Raises: ValueError: no pixel of `bg`, no distance, the network has no sure depth there, or
            there are more than MOST_POINTS.
        """
        if len(points) > MOST_POINTS:
            needed = f"needed up to {MOST_POINTS}: give a map of all distances to anchor"
            raise ValueError(f"{len(points)} points came, {needed}")
        height, width = self.bg.shape[:2]
        depth = METRES * _enlarged(self._empty(), (height, width))[1]  # not calibrated
        for x, y, metres in points:
            if not (0 <= x < width and 0 <= y < height):
                raise ValueError(f"pixel ({x}, {y}) is not in bg, which is {width}x{height} (x, y)")
            if not 0 < metres < math.inf:
                needed = "needed more than 0: measure in metres"
                raise ValueError(f"the distance is {metres} m, {needed}")
            if not NEAREST_M <= depth[y, x] <= FARTHEST_M:
                text = f"the network sees pixel ({x}, {y}) at {depth[y, x]:.2f} m, where its depth"
                needed = f"needed {NEAREST_M} to {FARTHEST_M} m: choose another point"
                raise ValueError(f"{text} is clipped; {needed}")
        x, y, metres = np.array(points, float).reshape(-1, 3).T
        self._calibration = self.bg_depth = None
        if points:
            far = max(METRES, FARTHER * metres.max())
            seen = depth[y.astype(int), x.astype(int)] / METRES
            true = metres / far
            error = np.log(true / (1 - true)) - np.log(seen / (1 - seen))
            size = self._size((height, width))
            at = (np.stack([x, y], 1) + 0.5) * size[1] / width
            error = torch.from_numpy(measured.correction(error, at, size))[None, None]
            self._calibration = error, far


def predict_pair(
    model: nn.Module,
    bg: np.ndarray,
    img: np.ndarray,
    *,
    long_side: int = LONG_SIDE,
    align: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """mask_pred, depth_pred of one pair of photos, uint8 RGB: as `Camera(model, bg)(img)`."""
    return Camera(model, bg, long_side=long_side, align=align)(img)


def _check_photo(name: str, photo: np.ndarray) -> None:
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        needed = "needed uint8 (H, W, 3): read it with load_photo"
        raise ValueError(f"{name} is {photo.dtype} {photo.shape}, {needed}")


def _check_proportions(bg: np.ndarray, name: str, other: np.ndarray) -> str:
    """Both sizes as a sentence begins. Raises: ValueError: they are no enlargement of each other"""
    bg_h, bg_w = bg.shape[:2]
    h, w = other.shape[:2]
    sizes = f"bg is {bg_w}x{bg_h}, {name} is {w}x{h} (width x height)"
    if abs(bg_w * h / (bg_h * w) - 1) > SAME_ASPECT:
        todo = "take both with one fixed camera and one setting, or crop them to the same view"
        raise ValueError(f"{sizes}: the proportions differ; {todo}")
    return sizes


def _enlarged(maps: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Both maps of (1, 2, h, w), at the size of the frame."""
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return tuple(maps[0].cpu().numpy())


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A photo, or by the nearest pixel a map of float32: between two depths lies nothing."""
    if image.shape[:2] == size:
        return image
    way = Image.Resampling.BICUBIC if image.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize(size[::-1], way))


def _shrunk_depth(bg_depth: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(1, 1, h, w) in 0..1, the mean of what is known in each pixel of the network; 0: nothing."""
    known = evidence.known_depth(torch.from_numpy(bg_depth)[None, None], 1)
    return evidence.mean_known(layers.resized(known, *size))


def _shrunk(photo: np.ndarray, size: tuple[int, int]) -> Tensor:
    # a box filter averages what falls into a pixel, as a sensor does; 8 bits as in training
    small = Image.fromarray(photo).resize(size[::-1], Image.Resampling.BOX)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255
