"""From light to a photograph: exposure, white balance, tone curve, sensor noise, JPEG.

JPEG is its loss, not its file: 8 x 8 cosine transform, rounding by the standard's tables, back. The
transform is made of products of integers small enough to be exact in float32, so that no codec's
version, device or batch changes a byte.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-T T.81, Annex K: how coarsely luminance and colour are rounded at quality 50
LUMA = (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
        14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
        18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
        49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)  # fmt: skip
CHROMA = (17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
          24, 26, 56, 99, 99, 99, 99, 99, 47, 66) + (99,) * 38  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """How B pictures are taken: `gain` (B, 3), `noise` (B,) std 0..1, `grain` (B,) where the noise
    starts 0..1, `contrast` (B,), `quality` (B,) of JPEG 1..100, 0 for none; `vignette` (B,)."""

    gain: np.ndarray
    noise: np.ndarray
    grain: np.ndarray
    contrast: np.ndarray
    quality: np.ndarray
    vignette: np.ndarray


def develop(light: Tensor, shot: Shot) -> Tensor:
    """Linear light (B, 3, S, S) -> (B, S, S, 3) uint8."""
    b, _, s, _ = light.shape

    def column(x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.astype(np.float32).reshape(x.shape + (1,) * (4 - x.ndim))).to(
            light.device
        )

    x = (torch.arange(s, device=light.device) + 0.5) * (2 / s) - 1
    corner = (x * x)[:, None] + x * x
    y = light * column(shot.gain) * (1 - column(shot.vignette) * corner)
    y = (y * 1.6 / (1 + y * 0.6)).clamp(min=0, max=1).sqrt()  # a film's shoulder, then gamma 2
    y = y + column(shot.contrast) * y * (1 - y) * (2 * y - 1)
    n = 3 * s * s
    grain = _grain(str(light.device), n).unfold(0, n, 1)
    grain = grain[torch.from_numpy((shot.grain * 2**20).astype(np.int64)).to(light.device)]
    y = y + grain.view(b, 3, s, s) * (column(shot.noise) * (1.3 - y))
    y = (y * 255).round().clamp(0, 255)
    packed = np.flatnonzero(shot.quality > 0)
    if len(packed):
        rows = torch.from_numpy(packed).to(light.device)
        y[rows] = jpeg(y[rows], shot.quality[packed])
    return y.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@lru_cache(maxsize=4)
def _grain(device: str, n: int) -> Tensor:
    """(2**20 + n,) noise with mean 0 and std 1; a shot takes n in a row."""
    raw = np.random.Generator(np.random.Philox(key=3)).random((3, 2**20 + n))
    return torch.from_numpy(((raw.sum(0) - 1.5) * 2).astype(np.float32)).to(device)


@lru_cache(maxsize=4)
def _cosines(device: str) -> Tensor:
    """(8, 8) integers: 1024 times the orthonormal cosine transform."""
    k, x = np.arange(8)[:, None], np.arange(8)[None]
    one = np.round(512 * np.cos((2 * x + 1) * k * np.pi / 16) * np.where(k == 0, 0.5**0.5, 1))
    return torch.from_numpy(one.astype(np.float32)).to(device)


def jpeg(image: Tensor, quality: np.ndarray) -> Tensor:
    """What JPEG leaves of pictures (B, 3, S, S) of whole 0..255 at qualities (B,) 1..100."""
    b, _, s, _ = image.shape
    image = F.pad(image, (0, -s % 16, 0, -s % 16), mode="replicate")
    r, g, bl = image.unbind(1)
    luma = (0.299 * r + 0.587 * g + 0.114 * bl).round()
    cb, cr = (bl - luma) * 0.564, (r - luma) * 0.713
    small = torch.stack([cb, cr], 1)
    small = (small[:, :, ::2, ::2] + small[:, :, 1::2, ::2]) + (
        small[:, :, ::2, 1::2] + small[:, :, 1::2, 1::2]
    )
    scale = np.where(quality < 50, 50 / quality, 2 - quality / 50)
    luma = _round_trip(luma[:, None] - 128, LUMA, scale)[:, 0] + 128
    small = _round_trip((small * 0.25).round(), CHROMA, scale)
    cb, cr = F.interpolate(small, scale_factor=2, mode="bilinear").unbind(1)
    r, bl = luma + cr * 1.402, luma + cb * 1.772
    g = luma - 0.344 * cb - 0.714 * cr
    return torch.stack([r, g, bl], 1)[:, :, :s, :s].round().clamp(0, 255)


def _round_trip(x: Tensor, table: tuple, scale: np.ndarray) -> Tensor:
    """Round (B, C, S, S) whole numbers in -128..128 in the cosine domain."""
    b, c, s, _ = x.shape
    step = np.clip(np.floor(np.array(table) * scale[:, None] + 0.5), 1, 255)
    step = torch.from_numpy(step.astype(np.float32)).to(x.device).view(b, 1, 64)
    blocks = x.view(b, c, s // 8, 8, s // 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(b, -1, 8, 8)
    cosines, step = _cosines(str(x.device)), step.view(b, 1, 8, 8)
    coarse = (_both_ways(blocks, cosines.T.contiguous()) / step).round() * step
    back = _both_ways(coarse, cosines).round()
    return back.view(b, c, s // 8, s // 8, 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(b, c, s, s)


def _both_ways(blocks: Tensor, matrix: Tensor) -> Tensor:
    """Transform rows, then columns; sums stay below 2**24, where float32 is exact."""
    rows = (blocks @ matrix / 128).round().transpose(2, 3).contiguous()
    return (rows @ matrix / 8192).transpose(2, 3).contiguous()
