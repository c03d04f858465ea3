"""What all our networks are built from: checks, padding, blocks, heads, resizing.

Everything upsamples by nearest neighbour, PixelShuffle or matrix products, and pads by joining
slices: their CUDA gradients are deterministic where those of bilinear upsampling and of padding
layers are not, so that a resumed run can be bit for bit the same on a GPU too.
"""

import copy
import math
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

MIN_SIZE = 16  # pixels, height and width: one cell of our network's coarsest features

double = partial(F.interpolate, scale_factor=2.0, mode="nearest")


def check(bg: Tensor, fg_bg: Tensor, same_batch: bool = True) -> None:
    for name, image in (("bg", bg), ("fg_bg", fg_bg)):
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            got = f"{image.dtype} {tuple(image.shape)}"
            raise ValueError(f"{name} is {got}, needed float (B, 3, H, W) in 0..1: bytes / 255")
    if bg.shape[2:] != fg_bg.shape[2:] or (same_batch and len(bg) != len(fg_bg)):
        got = f"bg is {tuple(bg.shape)}, fg_bg is {tuple(fg_bg.shape)}"
        raise ValueError(f"{got}, needed one size: resize or crop both photographs alike")
    h, w = fg_bg.shape[2:]
    if min(h, w) < MIN_SIZE:
        raise ValueError(f"images are {h}x{w}, needed {MIN_SIZE}x{MIN_SIZE} or more: enlarge them")


def check_depth(bg_depth: Tensor, fg_bg: Tensor) -> None:
    shape = tuple(bg_depth.shape)
    if shape not in {(b, 1, *fg_bg.shape[2:]) for b in (1, len(fg_bg))}:
        needed = f"{(len(fg_bg), 1, *fg_bg.shape[2:])} or the same with batch 1"
        raise ValueError(f"bg_depth is {shape}, needed {needed}: resize it as the photographs")


def pad(x: Tensor, stride: int, least: int = 2) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), multiples of `stride`, by repeating the last row and column."""
    # Two multiples at least: BatchNorm in training needs more than one value per channel.
    rows, columns = (max(least, math.ceil(side / stride)) * stride for side in x.shape[2:])
    if x.shape[2:] == (rows, columns):
        return x
    below = x[:, :, -1:].expand(-1, -1, rows - x.shape[2], -1)
    x = torch.cat([x, below], 2)
    right = x[..., -1:].expand(-1, -1, -1, columns - x.shape[3])
    return torch.cat([x, right], 3)


def normal(image: Tensor) -> Tensor:
    """0..1 to -2..2, the channels of a pixel beside each other in memory."""
    return ((image - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts (B, c, H, W) as (B, sum of c, H, W), the channels of a pixel beside each other and all
    in the precision of the first: joined as they come, in several formats, they and what follows
    make a step of training half as long again."""
    kind = {"dtype": parts[0].dtype, "memory_format": torch.channels_last}
    return torch.cat([x.to(**kind) for x in parts], 1)


def crop(mask: Tensor, depth: Tensor, h: int, w: int) -> dict[str, Tensor]:
    """The answer of a network, (B, 1, h, w) each, without what `pad` added."""
    return {"mask_logits": mask[..., :h, :w], "depth_logits": depth[..., :h, :w]}


def block(c_in, c_out, kernel=3, *, stride=1, dilation=1, bias=False, norm=True) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU. (B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2 * dilation, dilation, bias=bias)
    layers = [conv, nn.BatchNorm2d(c_out)] if norm else [conv]
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def folded(network: nn.Module) -> nn.Module:
    """A copy of `network` to look with, not to train: each block's BatchNorm is part of the
    convolution before it. It answers the same, but for rounding, in six sevenths of the time."""
    network = copy.deepcopy(network).eval()
    for layer in network.modules():
        kinds = [*map(type, layer)][:2] if isinstance(layer, nn.Sequential) else []
        if kinds == [nn.Conv2d, nn.BatchNorm2d]:
            layer[0] = fuse_conv_bn_eval(*layer[:2])
            layer[1] = nn.Identity()
    return network


class Sum(nn.Module):
    """What two ways, `deep` and `flat`, make of one input, added: a residual block."""

    def __init__(self, deep: nn.Module, flat: nn.Module) -> None:
        super().__init__()
        self.deep, self.flat = deep, flat

    def forward(self, x: Tensor) -> Tensor:
        return self.deep(x) + self.flat(x)


def residual(c: int) -> nn.Sequential:
    """(B, c, H, W) >= 0 -> the same and a convolution of it, ReLU; at first little of that, so that
    a trained network can be given one more. Source: He et al. 2016."""
    deep = block(c, c)[:2]  # without its ReLU
    nn.init.constant_(deep[1].weight, 0.2)
    return nn.Sequential(Sum(deep, nn.Identity()), nn.ReLU(inplace=True))


def answer(c: int, maps: int = 1, typical: float = 0.5) -> nn.Sequential:
    """(B, c, H, W) -> (B, maps, 2H, 2W) logits, whose sigmoids start near `typical`."""
    last = nn.Conv2d(c, 4 * maps, 3, padding=1)  # 4: a pixel of the half size becomes 2x2
    last.weight.data *= 0.1
    nn.init.constant_(last.bias, math.log(typical / (1 - typical)))
    return nn.Sequential(last, nn.PixelShuffle(2))


def answers(x: Tensor, *heads: nn.Sequential) -> Tensor:
    """What `heads`, of `answer`, make of the same x, as channels of one map: one convolution takes
    half the time of two that are as small."""
    convs = [head[0] for head in heads]
    weight = torch.cat([conv.weight for conv in convs])
    bias = torch.cat([conv.bias for conv in convs])
    return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=1), 2)


def resized(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, C, H, W) -> (B, C, rows, columns) by two matrix products: means of areas when smaller,
    linear between pixels when larger. F.interpolate's gradients are not deterministic on CUDA."""
    if x.shape[2:] == (rows, columns):
        return x
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        sides = (rows, x.shape[2]), (columns, x.shape[3])
        weights = (torch.from_numpy(_weights(n, m)) for n, m in sides)
        down, across = (w.to(x.device, non_blocking=True) for w in weights)  # no wait for a GPU
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
