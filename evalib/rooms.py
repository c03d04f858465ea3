"""The built-in pictures: 100 places x 100 objects x 40 placements, ray-traced from (seed, id).

A sample is two shots of one fixed camera, an empty one and one with something new, and the exact
mask and depth of the second. The place's own hits, light and shadows are computed once and kept;
per sample, rays are traced only where the object or its shadow can be.
`id = (bg * 100 + fg) * 40 + placement`, `placement = 2 * spot + mirrored`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evalib import places
from evalib.backdrop import DEPTH_M, Backdrop, backdrop, chance, lit, shade
from evalib.photo import Shot, develop
from evalib.staging import EMPTY_SHARE, N_FG, N_PLACEMENTS, Cast, cast, held_out
from evalib.surfaces import surface
from evalib.trace import View, grid, raster

__all__ = ["EMPTY_SHARE", "N_BG", "N_FG", "N_PLACEMENTS"]
__all__ += ["held_out", "render", "render_backgrounds"]

N_BG = places.N_BG
GROUP_RAYS = 64 * 128 * 128  # of samples rendered together: 64 of 64 px


def render_backgrounds(
    bg: Sequence[int], size: int, *, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Photograph empty places.

    Input:
        bg:   background numbers, 0..99 for the built-in tiers.
        size: pixels along a side, at least 16.
    Returns:
        bg: (B, S, S, 3) uint8; bg_depth: (B, S, S) uint8, 255 at 10 m or more.
    Raises:
        ValueError: a size below 16, a negative background.
    """
    bg = np.asarray(bg, np.int64)
    _check(size, bg)
    no_shift = np.zeros((1, 2), int)
    still = [backdrop(seed, int(b), size, str(device)).still(no_shift) for b in bg]
    still = torch.cat(still) if still else torch.empty(0, 7, size, size, device=device)
    image = develop(still[:, :3] + still[:, 3:6], _shot(seed, bg, None))
    return {"bg": image, "bg_depth": still[:, 6].round().to(torch.uint8)}


def render(
    ids: Sequence[int], size: int, *, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Photograph samples; fastest when ids of one background stand together.

    Input:
        ids:  sample numbers `(bg * 100 + fg) * 40 + placement`.
        size: pixels along a side, at least 16.
    Returns:
        fg_bg: (B, S, S, 3) uint8; mask: (B, S, S) uint8 in {0, 255}, shadows excluded;
        depth: (B, S, S) uint8, 255 at 10 m or more. A share EMPTY_SHARE of samples has no object.
        The same values for an id whatever else is in `ids`.
    Raises:
        ValueError: a size below 16, a negative id.
    """
    ids = np.asarray(ids, np.int64)
    _check(size, ids)
    maps = torch.empty(2, len(ids), size, size, dtype=torch.uint8, device=device)
    colours = torch.empty(len(ids), size, size, 3, dtype=torch.uint8, device=device)
    out = {"fg_bg": colours, "mask": maps[0], "depth": maps[1]}
    together = max(1, GROUP_RAYS // (2 * size) ** 2)
    bgs = ids // (N_FG * N_PLACEMENTS)
    for bg in np.unique(bgs):
        rows = np.flatnonzero(bgs == bg)
        for some in np.split(rows, range(together, len(rows), together)):
            group = _group(seed, int(bg), ids[some], size, str(device))
            for name, value in group.items():
                out[name][torch.from_numpy(some).to(device)] = value
    return out


def _check(size: int, numbers: np.ndarray) -> None:
    if size < 16:
        raise ValueError(f"size {size} is too small: ask for at least 16 pixels")
    if len(numbers) and numbers.min() < 0:
        raise ValueError(f"{numbers.min()} is not a sample or background: numbers start at 0")


def _shot(seed: int, bgs: np.ndarray, ids: np.ndarray | None) -> Shot:
    """How pictures are taken: a camera's habits go with the place; samples (ids) differ from it."""
    own = chance(seed, bgs, "camera", 6)
    r = chance(seed, bgs if ids is None else ids, "first shot" if ids is None else "shot", 8)
    gain = np.exp(0.12 * (own[:, :3] - 0.5))
    if ids is not None:
        wild = 1 + 2.5 * (r[:, 7:] < 0.12)  # one in eight: exposure or white balance jumped
        gain *= np.exp(0.16 * wild * (r[:, :1] - 0.5) + 0.06 * wild * (r[:, 1:4] - 0.5))
    noise = 0.003 + 0.025 * own[:, 3] ** 2 * (0.7 + 0.6 * r[:, 4])
    quality = np.where(r[:, 6] < 0.25, 0, np.floor(40 + 70 * r[:, 6]))
    return Shot(gain, noise, r[:, 5], 0.3 + 0.9 * own[:, 4], quality, 0.13 * own[:, 5])


def _group(seed: int, bg: int, ids: np.ndarray, size: int, device: str) -> dict[str, Tensor]:
    """Render samples of one background."""
    drop, them = backdrop(seed, bg, size, device), cast(seed, bg, ids)
    r = chance(seed, ids, "hand", 6)
    steps = np.array([-2, -1, -1, 0, 0, 1, 1, 2])  # halves of a pixel at 64
    shake = steps[(r[:, :2] * 8).astype(int)] * (r[:, 5:] < 0.25)  # most cameras stand still
    shift = np.round(shake * size / 64).astype(int)
    change = 1 + np.where(r[:, 2:3] < 0.25, 0.5, 0.06) * (r[:, 3:5] - 0.5)  # of the light itself
    change = torch.from_numpy(change.astype(np.float32)).to(device)
    still = drop.still(shift)
    picture = Picture(drop, shift, change, still)
    if them is not None:
        picture.add(them)
    return {
        "fg_bg": develop(picture.light, _shot(seed, np.full(len(ids), bg), ids)),
        "mask": picture.mask.to(torch.uint8) * 255,
        "depth": picture.depth.round().to(torch.uint8),
    }


class Picture:
    """B pictures in the making: linear `light` (B, 3, S, S), `mask`, `depth` bytes (B, S, S)."""

    def __init__(self, drop: Backdrop, shift: np.ndarray, change: Tensor, still: Tensor):
        self.drop, self.change, self.size = drop, change, drop.across // 2
        self.starts = (shift + drop.margin).tolist()
        self.shift = torch.from_numpy(shift).to(drop.device)
        ambient, direct = change[:, :, None, None, None].unbind(1)
        self.light = still[:, :3] * ambient + still[:, 3:6] * direct
        self.depth = still[:, 6].clone()
        self.mask = torch.zeros_like(self.depth, dtype=torch.bool)

    def _cut(self, maps: Tensor) -> Tensor:
        """Maps (n, n) or (B, n, n) on the backdrop's grid -> (B, 2S, 2S) as pictures see them."""
        wide = self.drop.across
        maps = maps.expand(len(self.starts), -1, -1)
        cuts = zip(maps, self.starts, strict=True)
        return torch.stack([m[y : y + wide, x : x + wide] for m, (x, y) in cuts])

    def add(self, them: Cast) -> None:
        """Draw the objects and their shadows."""
        drop, b, across, size = self.drop, len(self.starts), self.drop.across, self.size
        view = View(them.parts, drop.place.camera, drop.device)
        thing = torch.from_numpy(them.which).to(drop.device)
        owner = torch.from_numpy(them.owner).to(drop.device)
        key = self._cut(drop.key).view(-1)
        raster(view, owner[thing], self.shift, across, across, key)
        shadow, dim = drop.shadows(view, owner[thing], b), self._contact(them, owner)
        changed = self._cut(((shadow > 0) | (dim > 0)).view(b, drop.n, drop.n)).view(-1)
        changed |= key.view(torch.int32)[::2] != -1  # the lower half, where parts are numbered
        changed = changed.view(-1, 2, size, 2)
        pixel = (changed[:, 0] | changed[:, 1]).any(-1).view(-1).nonzero()[:, 0]
        # four rays of each changed pixel: (4 k,), k of the first, k of the second ...
        who, row = pixel // size**2, pixel // size
        x, y = 2 * (pixel - row * size), 2 * (row - who * size)
        corner = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], device=drop.device)
        x, y, who4 = (x + corner[:, 1:]).view(-1), (y + corner[:, :1]).view(-1), who.repeat(4)
        sx, sy = self.shift.T.index_select(1, who4) + torch.stack([x, y])
        seen = key.take((who4 * across + y) * across + x)
        under = (sy + drop.margin) * drop.n + sx + drop.margin
        ambient, direct = self.change.T.index_select(1, who4)
        there = who4 * drop.n**2 + under
        ambient, direct = ambient * (1 - dim.take(there)), direct * (1 - shadow.take(there))
        old = drop.light.index_select(1, under)
        light = old[:3] * ambient + old[3:] * direct
        new = (seen & 0xFFFFFFFF != 0xFFFFFFFF).nonzero()[:, 0]
        seen, sx, sy, whose = (a.index_select(0, new) for a in (seen, sx, sy, who4))
        part, z = seen & 0xFFFFFFFF, (seen >> 32).int().view(torch.float32)
        s = surface(view, part, grid(sx, across), -grid(sy, across), z, across)
        light.index_copy_(1, new, self._light_on(s, thing[part], whose, lit(drop, them.at)))
        light = light.view(3, 4, -1)
        light = ((light[:, 0] + light[:, 1]) + (light[:, 2] + light[:, 3])) * 0.25
        for i in range(3):
            self.light.view(-1).index_copy_(0, pixel + (2 * who + i) * size**2, light[i])
        self._solid(pixel, new, z)

    def _solid(self, pixel: Tensor, new: Tensor, z: Tensor) -> None:
        """Mask and depth where at least two of a pixel's four rays meet an object."""
        both = torch.zeros(2, 4 * len(pixel), device=z.device)
        both.index_copy_(1, new, torch.stack([torch.ones_like(z), z]))
        both = both.view(2, 4, -1)
        count, far = (both[:, 0] + both[:, 1]) + (both[:, 2] + both[:, 3])
        solid = count >= 2
        self.mask.view(-1)[pixel] = solid
        byte = far[solid] / count[solid] * (255 / DEPTH_M)
        self.depth.view(-1)[pixel[solid]] = byte.clamp(max=255)

    def _light_on(self, s, thing: Tensor, who: Tensor, reached: Tensor) -> Tensor:
        """(3, k) light of object surfaces in pictures `who`; `reached`: of the lamp, per object."""
        drop = self.drop
        sky = 0.5 + 0.5 * (s.point[1] / 0.9).clamp(0, 1)  # the floor hides half of it near the feet
        ambient, direct = shade(drop.place, s, drop.lamp, sky)
        change = self.change.T.index_select(1, who) * drop.exposure
        direct_share = reached[thing] * change[1]
        return torch.stack([ambient[i] * change[0] + direct[i] * direct_share for i in range(3)])

    def _contact(self, them: Cast, owner: Tensor) -> Tensor:
        """(B * n * n,) share of the sky that objects hide from the floor around their feet."""
        drop = self.drop
        foot = np.c_[them.at, them.wide * 1.5].T.astype(np.float32)
        foot = torch.from_numpy(foot).to(drop.device)
        gap = foot[:3, :, None] - drop.middle[:, None]
        away = (gap * gap).sum(0).sqrt()
        thing, tile = (away < foot[3, :, None] + drop.radius).nonzero(as_tuple=True)
        x, y, z = drop.points.index_select(2, tile)
        foot = foot[:, thing]
        dx, dz = (x - foot[0]) / foot[3], (z - foot[2]) / foot[3]
        close = (1 - (dx * dx + dz * dz)).clamp(min=0)
        out = torch.zeros(len(self.starts) * drop.n**2, device=drop.device)
        drop.deepen(out, 0.6 * close * close * (1 - y / 0.5).clamp(0, 1), tile, owner[thing])
        return out
