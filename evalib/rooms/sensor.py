"""From light to a photograph: exposure, white balance, tone curve, sensor noise, JPEG.

JPEG is its loss, not its file: 8 x 8 cosine transform, rounding by the standard's tables, back. The
transform is made of products of integers small enough to be exact in float32, so that no codec's
version, device or batch changes a byte.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalib.rooms.builder import chance

# ITU-T T.81, Annex K: how coarsely luminance and colour are rounded at quality 50
LUMA = (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
        14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
        18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
        49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)  # fmt: skip
CHROMA = (17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
          24, 26, 56, 99, 99, 99, 99, 99, 47, 66) + (99,) * 38  # fmt: skip


def develop(light: Tensor, seed: int, bg: np.ndarray, ids: np.ndarray | None = None) -> Tensor:
    """Photograph linear light (B, 3, S, S) -> (B, S, S, 3) uint8.

    A camera's habits go with the places `bg` (B,); samples `ids` (B,) differ from the empty shot.
    """
    b, _, s, _ = light.shape
    own = chance(seed, bg, "camera", 6)
    r = chance(seed, bg, "first shot", 8) if ids is None else chance(seed, ids, "shot", 8)
    gain = np.exp(0.12 * (own[:, :3] - 0.5))
    if ids is not None:
        wild = 1 + 2.5 * (r[:, 7:] < 0.12)  # one in eight: exposure or white balance jumped
        gain *= np.exp(0.16 * wild * (r[:, :1] - 0.5) + 0.06 * wild * (r[:, 1:4] - 0.5))
    noise = 0.003 + 0.025 * own[:, 3] ** 2 * (0.7 + 0.6 * r[:, 4])
    knobs = np.c_[gain, noise, 0.3 + 0.9 * own[:, 4], 0.13 * own[:, 5]].astype(np.float32)
    knobs = torch.from_numpy(knobs).to(light.device)[:, :, None, None]
    gain, noise, contrast, vignette = knobs.split([3, 1, 1, 1], 1)
    x = (torch.arange(s, device=light.device) + 0.5) * (2 / s) - 1
    y = light * gain * (1 - vignette * ((x * x)[:, None] + x * x))
    y = (y * 1.6 / (1 + y * 0.6)).clamp(min=0, max=1).sqrt()  # a film's shoulder, then gamma 2
    y = y + contrast * y * (1 - y) * (2 * y - 1)
    n = 3 * s * s  # numbers in a picture
    start = torch.from_numpy((r[:, 5] * 2**20).astype(np.int64)).to(light.device)
    grain = _grain(str(light.device), n).unfold(0, n, 1)[start]
    y = y + grain.view(b, 3, s, s) * (noise * (1.3 - y))
    y = (y * 255).round().clamp(0, 255)
    packed = np.flatnonzero(r[:, 6] >= 0.25)
    if len(packed):
        rows = torch.from_numpy(packed).to(light.device)
        y[rows] = jpeg(y[rows], np.floor(40 + 70 * r[packed, 6]))
    return y.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@lru_cache(maxsize=4)
def _grain(device: str, n: int) -> Tensor:
    """(2**20 + n,) noise with mean 0 and std 1; a shot takes n in a row."""
    raw = np.random.Generator(np.random.Philox(key=3)).random((3, 2**20 + n))
    return torch.from_numpy(((raw.sum(0) - 1.5) * 2).astype(np.float32)).to(device)


def halve(x: Tensor) -> Tensor:
    """Mean of 2 x 2, always added in the same order: (..., H, W) -> (..., H / 2, W / 2)."""
    x = x[..., ::2, :] + x[..., 1::2, :]
    return (x[..., ::2] + x[..., 1::2]) * 0.25


def jpeg(image: Tensor, quality: np.ndarray) -> Tensor:
    """What JPEG leaves of pictures (B, 3, S, S) of whole 0..255 at qualities (B,) 1..100."""
    s = image.shape[-1]
    image = F.pad(image, (0, -s % 16, 0, -s % 16), mode="replicate")
    r, g, b = image.unbind(1)
    luma = (0.299 * r + 0.587 * g + 0.114 * b).round()
    small = halve(torch.stack([(b - luma) * 0.564, (r - luma) * 0.713], 1)).round()
    scale = np.where(quality < 50, 50 / quality, 2 - quality / 50)
    luma = _round_trip(luma[:, None] - 128, LUMA, scale)[:, 0] + 128
    small = _round_trip(small, CHROMA, scale)
    cb, cr = F.interpolate(small, scale_factor=2, mode="bilinear").unbind(1)
    rgb = [luma + cr * 1.402, luma - 0.344 * cb - 0.714 * cr, luma + cb * 1.772]
    return torch.stack(rgb, 1)[:, :, :s, :s].round().clamp(0, 255)


def _round_trip(x: Tensor, table: tuple, scale: np.ndarray) -> Tensor:
    """Round (B, C, S, S) whole numbers in -128..128 in the cosine domain."""
    b, c, s, _ = x.shape
    step = np.clip(np.floor(np.array(table) * scale[:, None] + 0.5), 1, 255)
    step = torch.from_numpy(step.astype(np.float32)).to(x.device).view(b, 1, 8, 8)
    k = np.arange(8)[:, None]
    cosines = 512 * np.cos((2 * k.T + 1) * k * np.pi / 16) * np.where(k == 0, 0.5**0.5, 1)
    cosines = torch.from_numpy(np.round(cosines).astype(np.float32)).to(x.device)
    # sums stay below 2**24, where float32 is exact, so that no order of adding matters
    blocks = x.view(b, c, s // 8, 8, s // 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(b, -1, 8, 8)
    waves = cosines @ (blocks @ cosines.T / 128).round() / 8192
    coarse = (waves / step).round() * step
    back = (cosines.T @ (coarse @ cosines / 128).round() / 8192).round()
    return back.view(b, c, s // 8, s // 8, 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(b, c, s, s)
