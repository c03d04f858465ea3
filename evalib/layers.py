"""What all our networks are built from: checks, padding, blocks, heads, resizing.

Everything upsamples by nearest neighbour, PixelShuffle or matrix products, whose CUDA gradients are
deterministic where those of bilinear upsampling are not, so that a resumed run can be bit for bit
the same on a GPU too.
"""

import math
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_SIZE = 16  # pixels, height and width: one cell of `small`'s coarsest features
MEAN, STD = 0.5, 0.25  # fixed, so that a network needs no statistics of the data it meets
TYPICAL_MASK, TYPICAL_DEPTH = 0.08, 0.5  # means of 5,000 rooms; an untrained `small` says these

double = partial(F.interpolate, scale_factor=2.0, mode="nearest")


def check(bg: Tensor, fg_bg: Tensor, same_batch: bool = True) -> None:
    for name, image in (("bg", bg), ("fg_bg", fg_bg)):
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            got = f"{image.dtype} {tuple(image.shape)}"
            raise ValueError(f"{name} is {got}, needed float (B, 3, H, W) in 0..1: bytes / 255")
    if bg.shape[2:] != fg_bg.shape[2:] or (same_batch and len(bg) != len(fg_bg)):
        got = f"bg is {tuple(bg.shape)}, fg_bg is {tuple(fg_bg.shape)}"
        raise ValueError(f"{got}, needed one size: resize or crop both photographs alike")
    if min(fg_bg.shape[2:]) < MIN_SIZE:
        got = "{}x{}".format(*fg_bg.shape[2:])
        raise ValueError(f"images are {got}, needed {MIN_SIZE}x{MIN_SIZE} or more: enlarge them")


def prepare(image: Tensor, stride: int) -> Tensor:
    """Normalise, and repeat the last row and column up to a multiple of `stride`."""
    # Two multiples at least: BatchNorm in training needs more than one value per channel.
    down, right = (max(2, -(-side // stride)) * stride - side for side in image.shape[2:])
    if down or right:
        image = F.pad(image, (0, right, 0, down), mode="replicate")
    return ((image - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def finish(mask: Tensor, depth: Tensor, like: Tensor) -> dict[str, Tensor]:
    """Cut away what `prepare` added."""
    h, w = like.shape[2:]
    return {"mask_logits": mask[..., :h, :w], "depth_logits": depth[..., :h, :w]}


def block(c_in, c_out, kernel=3, *, stride=1, bias=False, norm=True) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU. (B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=bias)
    layers = [conv, nn.BatchNorm2d(c_out)] if norm else [conv]
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def head(c: int, typical: float = 0.5) -> nn.Sequential:
    """(B, c, H, W) -> (B, 1, 2H, 2W) logits, whose sigmoid starts at `typical`."""
    last = nn.Conv2d(c, 4, 3, padding=1)  # 4: a pixel of the half size becomes 2x2
    nn.init.constant_(last.bias, math.log(typical / (1 - typical)))
    if typical == 0.5:  # a correction, small at first
        last.weight.data *= 0.1
    return nn.Sequential(block(c, c), last, nn.PixelShuffle(2))


def resized(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, C, H, W) -> (B, C, rows, columns) by two matrix products: means of areas when smaller,
    linear between pixels when larger. F.interpolate's gradients are not deterministic on CUDA."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        sides = (rows, x.shape[2]), (columns, x.shape[3])
        down, across = (torch.from_numpy(_weights(n, m)).to(x.device) for n, m in sides)
        return down @ x @ across.T


@lru_cache(maxsize=64)
def _weights(n: int, m: int) -> np.ndarray:
    """(n, m): how much each of m pixels counts for each of n."""
    at, pixel = np.arange(n)[:, None] * (m / n), np.arange(m)
    if n < m:
        shared = np.minimum(at + m / n, pixel + 1) - np.maximum(at, pixel)
    else:
        shared = 1 - abs((at + 0.5 * m / n - 0.5).clip(0, m - 1) - pixel)
    shared = shared.clip(min=0)
    return (shared / shared.sum(1, keepdims=True)).astype(np.float32)


def halved(x: Tensor) -> Tensor:
    """Means of 2x2 pixels; an odd last row or column stands for itself."""
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def fill(x: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat the last row and column up to this size."""
    if x.shape[2:] == (rows, columns):  # the gradient of padding is not deterministic on CUDA
        return x
    return F.pad(x, (0, columns - x.shape[3], 0, rows - x.shape[2]), mode="replicate")
