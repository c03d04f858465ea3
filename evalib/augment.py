"""Augmentation of whole batches on the device, as a pure function of (names, sample key).

Pixels meet only + - * / and comparisons, which round alike in vector and scalar code, so a sample
comes out bit for bit the same in any batch (with `pow` or `exp` it need not); `move` alone leaves
them to PyTorch's grid_sample. `albumentations` is the same sample by sample. Source:
BackgroundMattingV2, train_base.py; the ranges are not tuned.
"""

import os
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalib import rng

Sample = dict[str, np.ndarray]
SHOTS, MAPS = ("bg", "fg_bg"), ("mask", "depth", "bg_depth")
WAYS = ("batch", "albumentations")
BY_THE_CAMERA = {"colour_matrix", "exposure", "white_balance", "tone", "blur", "noise"}
CPU_CHUNK = 3 << 19  # numbers of one image kind at a time: in cache, 2.6 times as fast at 224 px
STRIDE = 16  # pixels: sizes that the network need not pad
REASONS = {  # transform: why photographs may differ so
    "flip": "a mirrored room is a room: twice the views for nothing",
    "crop": "things stand anywhere: 7/8 of each side (a multiple of 16) is kept, not resized",
    "shadow": "something outside the picture darkens the second shot: dark is not new (p = .3)",
    "colour_matrix": "other walls, lamps, sensors: shape must count, not hue (both shots alike)",
    "exposure": "the camera measures the light anew for each shot",
    "white_balance": "and its colour too: an object in the picture shifts the balance",
    "tone": "cameras bend their tone curve with the scene (as gamma .7 to 1.4 does)",
    "blur": "focus or motion softens one of the two shots (p = .5)",
    "noise": "each shot has sensor noise of its own (sigma up to .03)",
    "cutout": "a grey rectangle hides the same part of both shots: the rest must do (not in ALL)",
    "move": "somebody touched the camera after the empty shot: 2 %, a degree (p = .25; not in ALL)",
}
SAME = np.eye(3, dtype=np.float32)  # the colour matrix that changes nothing
GREY = 128
# in the order in which they are applied
ALL = tuple(name for name in REASONS if name not in ("cutout", "move"))


def check(names: tuple[str, ...]) -> None:
    """Raises: ValueError: something in `names` is no transform; the known ones are listed."""
    if unknown := [name for name in names if name not in REASONS]:
        known = ", ".join(REASONS)
        raise ValueError(f"no transforms {', '.join(unknown)}; known, as a tuple: {known}")


def apply(
    names: tuple[str, ...], batch: dict[str, Tensor], *, keys: np.ndarray
) -> dict[str, Tensor]:
    """Augment a batch on the device it is on; what is no image (`row`) passes as it is.

    Input:
        names: some of `REASONS`; their order does not matter.
        batch: bg, fg_bg (B, 3, H, W), mask, depth, bg_depth (B, 1, H, W), 0..1; any may be absent.
        keys:  (B,) int64 from `rng.sample_keys`.
    Returns: a new dict; geometry is one draw for all images of a sample, light one for each shot.
    Raises: ValueError: a name that is no transform.
    """
    check(names)
    n = len(keys)
    if names and next(iter(batch.values())).device.type == "cpu":
        n = max(1, CPU_CHUNK // max(x[0].numel() for x in batch.values()))
    parts = []
    for i in range(0, len(keys), n):
        part = {name: x[i : i + n] for name, x in batch.items()}
        parts.append(_apply(names, part, keys[i : i + n]))
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in batch}


def _apply(names: tuple[str, ...], batch: dict[str, Tensor], keys: np.ndarray) -> dict[str, Tensor]:
    images = [name for name in SHOTS + MAPS if name in batch]
    if "flip" in names:
        mirror = rng.integers(keys, "flip", 2) == 1
        for name in images:
            x = batch[name]
            batch[name] = torch.where(_column(mirror, x), x.flip(-1), x)
    if "crop" in names:
        window = _window(keys, *batch[images[0]].shape[-2:])
        batch |= {name: _crop(batch[name], *window) for name in images}
    if "move" in names:
        for name in {"bg", "bg_depth"} & set(images):
            batch[name] = _moved(batch[name], keys, smooth=name == "bg")
    if "shadow" in names and "fg_bg" in batch:
        batch["fg_bg"] = batch["fg_bg"] * _shadow(keys, batch["fg_bg"])
    if BY_THE_CAMERA & set(names):
        shots = [name for name in SHOTS if name in batch]
        batch |= {shot: _photograph(names, batch[shot], shot, keys) for shot in shots}
    if "cutout" in names:
        x = batch[images[0]]
        hole = _beside(x, _hole(keys, "cutout", *x.shape[-2:]))[:, None]  # (B, 1, H, W)
        for name, value in {"bg": GREY / 255, "fg_bg": GREY / 255, "mask": 0.0}.items():
            if name in batch:
                batch[name] = batch[name].masked_fill(hole, value)
    return batch


def told(bg_depth: Tensor, share: float, *, keys: np.ndarray) -> Tensor:
    """What a network is told of the empty scene's depth (B, 1, H, W) in 0..1; 0 where nothing is.

    Of `share` of the samples: two thirds of these all of it, a third all but a rectangle. In half
    of them 10 m and more is not known, as with depth cameras.
    """
    luck = rng.uniform(keys, "told", 0, 1, 3)
    blind = luck[:, :1] >= share
    near = luck[:, 1:2] < 0.5
    part = luck[:, 2, None, None] < 1 / 3
    hole = part & _hole(keys, "told", *bg_depth.shape[-2:])  # (B, H, W)
    far = (bg_depth > 0.99) & _column(near, bg_depth)
    unknown = _column(blind, bg_depth) | _beside(bg_depth, hole[:, None]) | far
    return bg_depth.masked_fill(unknown, 0.0)


def albumentations(names: tuple[str, ...]) -> Callable[[Sample, int], Sample]:
    """The readable way: one uint8 sample at a time, light by albumentations' own transforms.

    flip, crop, move, cutout are `apply`'s, pixel for pixel; the others are alike in kind, not in
    numbers.
    Returns: transform(sample, key) of bg, fg_bg (H, W, 3), mask, depth, bg_depth (H, W), uint8 in
    and out. It holds a sample's draw while it works, so each thread needs its own.
    Raises: ValueError: a name that is no transform.
    """
    check(names)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network
    import albumentations as A  # here, as it takes a second and only this way needs it

    makers = {
        "colour_matrix": A.HueSaturationValue(20, 30, 20, p=1.0),
        "shadow": A.RandomShadow((0, 0, 1, 1), (1, 1), shadow_intensity_range=(0.2, 0.7), p=0.3),
        "exposure": A.RandomBrightnessContrast(0.0, 0.25, p=1.0),  # contrast: a gain about black
        "white_balance": A.MultiplicativeNoise((0.9, 1.1), per_channel=True, p=1.0),
        "tone": A.RandomGamma((70, 140), p=1.0),
        "blur": A.GaussianBlur(blur_limit=3, p=0.25),
        "noise": A.GaussNoise(std_range=(0.0, 0.03), p=1.0),
    }

    def compose(*kinds: str) -> A.Compose:
        pair = {"fg_bg": "image"}
        return A.Compose([makers[k] for k in kinds if k in names], additional_targets=pair)

    scene = compose("colour_matrix")
    shadow = compose("shadow")
    camera = compose("exposure", "white_balance", "tone", "blur", "noise")

    def transform(sample: Sample, key: int) -> Sample:
        keys = np.array([key])
        out = dict(sample)
        if "flip" in names and rng.integers(keys, "flip", 2):
            out = {name: x[:, ::-1] for name, x in out.items()}
        if "crop" in names:
            (top,), (left,), rows, columns = _window(keys, *sample["mask"].shape)
            out = {n: x[top : top + rows, left : left + columns] for n, x in out.items()}
        out = {name: np.ascontiguousarray(x) for name, x in out.items()}
        if "move" in names:
            for name in {"bg", "bg_depth"} & set(out):
                x = torch.from_numpy(out[name]).float().view(1, *out[name].shape[:2], -1)
                x = _moved(x.permute(0, 3, 1, 2), keys, smooth=name == "bg")
                x = x.permute(0, 2, 3, 1).round().byte().numpy()
                out[name] = np.ascontiguousarray(x.reshape(out[name].shape))
        seeds = rng.integers(keys, "albumentations", 1 << 24, 4)[0].tolist()
        scene.set_random_seed(seeds[0])
        both = scene(image=out["bg"], fg_bg=out["fg_bg"])
        shadow.set_random_seed(seeds[1])
        shots = {"bg": both["image"], "fg_bg": shadow(image=both["fg_bg"])["image"]}
        for seed, (shot, image) in zip(seeds[2:], shots.items(), strict=True):
            camera.set_random_seed(seed)
            out[shot] = camera(image=image)["image"]
        if "cutout" in names:
            [hole] = _hole(keys, "cutout", *out["mask"].shape)
            for name, value in {"bg": GREY, "fg_bg": GREY, "mask": 0}.items():
                out[name] = out[name].copy()  # it may be the caller's
                out[name][hole] = value
        return out

    return transform


def noise(keys: np.ndarray, name: str, x: Tensor) -> Tensor:
    """Normal numbers in the shape of x (B, ...): each sample's own stretch of one fixed field.

    On one core the copy is 8 times as fast as `torch.randn`, 25 times as hashing every pixel.
    """
    n = x[0].numel()
    field = _field(n, x.device)
    start = rng.integers(keys, name, len(field) - n + 1)[:, 0]
    return field.unfold(0, n, 1)[_beside(x, start)].view_as(x)


@lru_cache(maxsize=4)
def _field(n: int, device: torch.device) -> Tensor:
    """At least 2^20 and 2n normal numbers: sums of 8 bytes, whole numbers, so the same anywhere."""
    raw = np.random.Philox(key=0).random_raw(1 << 20)
    sums = raw.view(np.uint8).reshape(-1, 8).sum(axis=1, dtype=np.float32)
    normal = (sums - 1020) / np.float32(209.023)  # mean, standard deviation of the sum of 8 bytes
    return torch.from_numpy(np.tile(normal, 1 + 2 * n // len(normal))).to(device)


def _beside(x: Tensor, values: np.ndarray) -> Tensor:
    """`values` on the device of x; the CPU does not wait for what a GPU has to do before."""
    return torch.from_numpy(values).to(x.device, non_blocking=True)


def _column(values: np.ndarray, x: Tensor) -> Tensor:
    """(B, n) as (B, n, 1, 1) on the device of x (B, C, H, W)."""
    return _beside(x, values.reshape(len(x), -1, 1, 1))


def _window(keys: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Top and left (B,) of each crop, and the height and width of all.

    A multiple of the network's stride: it pads other sizes, and an edge that is padded in every
    step of training is answered by noise when it is not.
    """
    rows = max(min(height, STRIDE), height * 7 // 8 // STRIDE * STRIDE)
    columns = max(min(width, STRIDE), width * 7 // 8 // STRIDE * STRIDE)
    top = rng.integers(keys, "crop/top", height - rows + 1)[:, 0]
    left = rng.integers(keys, "crop/left", width - columns + 1)[:, 0]
    return top, left, rows, columns


def _crop(x: Tensor, top: np.ndarray, left: np.ndarray, rows: int, columns: int) -> Tensor:
    windows = x.unfold(2, rows, 1).unfold(3, columns, 1)  # a view (B, C, tops, lefts, H, W)
    which = torch.arange(len(x), device=x.device)
    return windows[which, :, _beside(x, top), _beside(x, left)]


def _moved(x: Tensor, keys: np.ndarray, *, smooth: bool) -> Tensor:
    """(B, C, H, W) from a camera that was turned, rolled and zoomed; its edges are repeated."""
    luck = rng.uniform(keys, "move", -1, 1, 4)
    there = rng.uniform(keys, "move/there", 0, 1) < 0.25
    roll, zoom = np.radians(luck[:, 2:3]), 1 + 0.02 * luck[:, 3:]
    cos, sin = (_column(f(roll) * zoom, x)[:, 0] for f in (np.cos, np.sin))  # (B, 1, 1)
    right, down = (_column(0.04 * luck[:, i : i + 1], x)[:, 0] for i in (0, 1))  # of -1..1
    height, width = x.shape[-2:]
    v = ((torch.arange(height, device=x.device) + 0.5) * 2 - height)[:, None] / width
    u = ((torch.arange(width, device=x.device) + 0.5) * 2 - width) / width
    across = u * cos - v * sin + right
    along = (u * sin + v * cos) * (width / height) + down
    grid = torch.stack([across, along], 3).to(x.dtype)  # (B, H, W, 2), not by a matrix product
    how = {"mode": "bilinear" if smooth else "nearest", "padding_mode": "border"}
    return torch.where(_column(there, x), F.grid_sample(x, grid, **how, align_corners=False), x)


def _hole(keys: np.ndarray, what: str, height: int, width: int) -> np.ndarray:
    """(B, H, W) bool: a rectangle of a quarter to a half of each side. DeVries & Taylor 2017."""
    inside = np.ones((len(keys), height, width), bool)
    for axis, (name, n) in enumerate({"rows": height, "columns": width}.items()):
        share = rng.uniform(keys, f"{what}/{name}/share", 0.25, 0.5)  # (B, 1)
        begin = rng.uniform(keys, f"{what}/{name}/begin", 0, 1) * (1 - share)
        at = (np.arange(n) + 0.5) / n
        along = (at >= begin) & (at < begin + share)  # (B, n)
        inside &= np.expand_dims(along, 2 - axis)
    return inside


def _shadow(keys: np.ndarray, x: Tensor) -> Tensor:
    """(B, 1, H, W) factor: a slanted ellipse, darkest in its middle, in three samples of ten."""
    height, width = x.shape[-2:]
    v = (torch.arange(height, device=x.device)[:, None] + 0.5) / height
    u = (torch.arange(width, device=x.device) + 0.5) / width
    centre = _column(rng.uniform(keys, "shadow/centre", 0, 1, 2), x)
    radius = _column(rng.uniform(keys, "shadow/radius", 0.1, 0.5, 2), x)
    there = rng.uniform(keys, "shadow/there", 0, 1) < 0.3
    depth = rng.uniform(keys, "shadow/depth", 0.2, 0.7) * there
    down = v - centre[:, 1:]
    across = u - centre[:, :1] + down * _column(rng.uniform(keys, "shadow/slant", -1, 1), x)
    down, across = down / radius[:, 1:], across / radius[:, :1]
    inside = (1 - across * across - down * down).clamp(0, 1)
    return 1 - _column(depth, x) * inside * inside * (3 - 2 * inside)


def _photograph(names: tuple[str, ...], x: Tensor, shot: str, keys: np.ndarray) -> Tensor:
    """What the camera makes of the scene (B, 3, H, W); all gains are one 3x3 matrix, one pass."""
    matrix = _colour_matrix(keys) if "colour_matrix" in names else SAME[None]
    if "exposure" in names:
        matrix = matrix * rng.uniform(keys, f"exposure/{shot}", 0.75, 1.25)[:, :, None]
    if "white_balance" in names:
        matrix = matrix * rng.uniform(keys, f"white_balance/{shot}", 0.9, 1.1, 3)[:, :, None]
    matrix = _beside(x, matrix)[..., None, None]
    y = x[:, :1] * matrix[:, :, 0]
    y += x[:, 1:2] * matrix[:, :, 1]
    y += x[:, 2:] * matrix[:, :, 2]
    y.clamp_(0, 1)
    if "tone" in names:  # a parabola through black and white; at .5 as far as gamma 1.4 and .7
        y += (1 - y) * y * _column(rng.uniform(keys, f"tone/{shot}", -0.48, 0.46), x)
    if "blur" in names:
        softened = rng.integers(keys, "blur", 4) == SHOTS.index(shot)
        y += (_binomial(y) - y) * _column(softened * rng.uniform(keys, "blur/share", 0, 1), x)
    if "noise" in names:
        strength = rng.uniform(keys, f"noise/{shot}", 0, 0.03)
        y += noise(keys, f"noise/field/{shot}", y) * _column(strength, x)
    return y.clamp_(0, 1)


def _colour_matrix(keys: np.ndarray) -> np.ndarray:
    """(B, 3, 3): rows that sum to 1 (grey stays grey, hue and saturation move), a gain for each."""
    strength = rng.uniform(keys, "colour_matrix/strength", 0, 0.4)[:, :, None]
    mix = rng.uniform(keys, "colour_matrix/mix", -1, 1, 9).reshape(-1, 3, 3) * strength
    mix = mix + SAME * (1 - (mix[:, :, :1] + mix[:, :, 1:2] + mix[:, :, 2:]))
    return mix * rng.uniform(keys, "colour_matrix/gain", 0.8, 1.2, 3)[:, :, None]


def _binomial(x: Tensor) -> Tensor:
    """Blur by [1 2 1] / 4 in both directions."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    return (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4
