"""What a network of two shots decides from, at each scale: features, what differs, what is known.

The images' difference enters equally lit; the empty scene's depth, where it is known, and the
position in the picture enter beside what convolutions see.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.layers import normal, pad

GIVEN = 4  # channels of `_given`


def encoded(encoder: nn.ModuleList, image: Tensor) -> list[Tensor]:
    """A padded shot (B, 3, H, W) at each scale of `encoder`, 1/2 and coarser."""
    x = normal(image)
    features = []
    for scale in encoder:
        x = scale(x)
        features.append(x)
    return features


def known_depth(bg_depth: Tensor, n: int) -> Tensor:
    """(n, 2, H, W): depth where it is known, else 0, and whether it is; means of both tell a mean
    of what is known."""
    bg_depth = bg_depth.nan_to_num(0.0).clamp(0, 1).expand(n, -1, -1, -1)
    return torch.cat([bg_depth, (bg_depth > 0).to(bg_depth.dtype)], 1)


def mean_known(known: Tensor) -> Tensor:
    """(B, 1, h, w): the mean of what is known in each pixel; 0 where nothing is."""
    depth, share = known.split(1, 1)
    return depth / share.clamp(min=1e-6)


def evidence(encoder, stride: int, bg, fg_bg, light, bg_features, known) -> list[list[Tensor]]:
    """[f_fg_bg, |f_fg_bg - f_bg|, known depth] of each scale, 1/2 and coarser; of the finest the
    images' difference too."""
    bg, fg_bg = pad(bg, stride), pad(fg_bg, stride)  # (B, 3, H, W)
    if bg_features is None:  # one pass, so that BatchNorm sees both shots as one set
        both = encoded(encoder, torch.cat([fg_bg, bg]))
        pairs = [f.split(len(fg_bg)) for f in both]
    else:
        pairs = zip(encoded(encoder, fg_bg), bg_features, strict=True)
    parts = []
    known = None if known is None else pad(known, stride)
    for f, f_bg in pairs:
        known = None if known is None else F.avg_pool2d(known, 2)  # (B, 2, h, w) of this scale
        parts.append([f, (f - f_bg).abs(), _given(known, f)])
    change = F.pixel_unshuffle(_difference(bg, fg_bg, *light), 2)  # (B, 12, H / 2, W / 2)
    parts[0] += [change.abs(), change]
    return parts


def _given(known: Tensor | None, like: Tensor) -> Tensor:
    """(B, 4, h, w), what a convolution cannot see: the mean of the empty scene's depth that is
    known around each pixel, whether any is, and where in the padded picture it is, x and y in
    -1..1: how far up the picture tells much of how far away (CoordConv, Liu et al. 2018)."""
    if known is None:
        known = like.new_zeros(len(like), 2, *like.shape[2:])
    across, down = (torch.linspace(-1, 1, n, device=known.device) for n in known.shape[:1:-1])
    places = torch.stack(torch.meshgrid(across, down, indexing="xy"))  # (2, h, w)
    places = places.to(known.dtype).expand(len(known), -1, -1, -1)
    is_known = (known[:, 1:] > 0).to(known.dtype)
    return torch.cat([mean_known(known), is_known, places], 1)


def _difference(bg: Tensor, fg_bg: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """(B, 3, H, W): how much each colour differs from the background as lit now, in -1..1."""
    return fg_bg - (bg * gain + offset).clamp(0, 1)


@torch.no_grad()
def lighting(bg: Tensor, fg_bg: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset (B, 3, 1, 1) of each colour that light `bg` as `fg_bg` is lit.

    Least squares over means of 4x4 pixels; then, twice, with small weights where that does not fit:
    what is new must not count. Source: Holland & Welsch 1977, iteratively reweighted least squares.
    """
    with torch.autocast(bg.device.type, enabled=False):
        b, f = (F.avg_pool2d(x, 4, ceil_mode=True).flatten(2) for x in (bg, fg_bg))  # (B, 3, n)
        gain = f.mean(2, keepdim=True) / b.mean(2, keepdim=True).clamp(min=1e-3)
        offset = torch.zeros_like(gain)
        for _ in range(2):
            miss = (f - gain * b - offset).abs().amax(1, keepdim=True)  # (B, 1, n)
            middle = (miss.shape[2] - 1) // 2  # the median, in operations that ONNX has, too
            usual = miss.sort(2).values[..., middle, None].clamp(min=0.01)  # (B, 1, 1)
            weight = 1 / (1 + (miss / (2 * usual)) ** 2) ** 2
            weight = weight / weight.sum(2, keepdim=True)
            b_mean = (weight * b).sum(2, keepdim=True)  # (B, 3, 1)
            f_mean = (weight * f).sum(2, keepdim=True)
            spread = (weight * (b - b_mean) ** 2).sum(2, keepdim=True)
            together = (weight * (b - b_mean) * (f - f_mean)).sum(2, keepdim=True)
            plain = f_mean / b_mean.clamp(min=0.02)  # what an even wall gives no evidence against
            gain = ((together + 1e-3 * plain) / (spread + 1e-3)).clamp(min=0.3).clamp(max=3.0)
            offset = f_mean - gain * b_mean
        return gain[..., None], offset[..., None]
