"""The built-in pictures: 100 places x 100 objects x 40 placements, ray-traced from (seed, id).

A sample is two shots of one fixed camera, an empty one and one with something new, and the exact
mask and depth of the second. The place's own hits, light and shadows are computed once and kept;
per sample, rays are traced only where the object or its shadow can be.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evalib.manifest import N_FG, N_PLACEMENTS
from evalib.rooms.backdrop import DEPTH_M, backdrop, lit, shade
from evalib.rooms.builder import chance
from evalib.rooms.rays import View, grid, raster
from evalib.rooms.sensor import develop
from evalib.rooms.staging import Cast, cast
from evalib.rooms.surfaces import Surface, surface

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
    bg = _checked(bg, size)
    still = [torch.empty(0, 7, size, size, device=device)]
    for b in bg:
        still.append(backdrop(seed, int(b), size, str(device)).still(np.zeros((1, 2), int)))
    still = torch.cat(still)
    image = develop(still[:, :3] + still[:, 3:6], seed, bg)
    return {"bg": image, "bg_depth": still[:, 6].round().to(torch.uint8)}


def render(
    ids: Sequence[int], size: int, *, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Photograph samples; fastest when ids of one background stand together.

    Input:
        ids:  sample numbers `(bg * 100 + fg) * 40 + 2 * spot + mirrored`.
        size: pixels along a side, at least 16.
    Returns:
        fg_bg: (B, S, S, 3) uint8; mask: (B, S, S) uint8 in {0, 255}, shadows excluded;
        depth: (B, S, S) uint8, 255 at 10 m or more. A share EMPTY_SHARE of samples has no object.
        The same values for an id whatever else is in `ids`.
    Raises:
        ValueError: a size below 16, a negative id.
    """
    ids = _checked(ids, size)
    image = torch.empty(len(ids), size, size, 3, dtype=torch.uint8, device=device)
    mask, depth = image.new_empty(2, len(ids), size, size)
    together = max(1, GROUP_RAYS // (2 * size) ** 2)
    bgs = ids // (N_FG * N_PLACEMENTS)
    for bg in np.unique(bgs):
        rows = np.flatnonzero(bgs == bg)
        for some in np.split(rows, range(together, len(rows), together)):
            group = _Group(seed, int(bg), ids[some], size, str(device))
            at = torch.from_numpy(some).to(device)
            image[at] = develop(group.light, seed, bgs[some], ids[some])
            mask[at] = group.mask.to(torch.uint8) * 255
            depth[at] = group.depth.round().to(torch.uint8)
    return {"fg_bg": image, "mask": mask, "depth": depth}


def _checked(numbers: Sequence[int], size: int) -> np.ndarray:
    numbers = np.asarray(numbers, np.int64)
    if size < 16:
        raise ValueError(f"size {size} is too small: ask for at least 16 pixels")
    if len(numbers) and numbers.min() < 0:
        raise ValueError(f"{numbers.min()} is not a sample or background: numbers start at 0")
    return numbers


class _Group:
    """B samples of one background: linear `light` (B, 3, S, S), `mask`, `depth` bytes (B, S, S)."""

    def __init__(self, seed: int, bg: int, ids: np.ndarray, size: int, device: str):
        self.drop, self.size = backdrop(seed, bg, size, device), size
        r = chance(seed, ids, "hand", 6)
        steps = np.array([-2, -1, -1, 0, 0, 1, 1, 2])  # halves of a pixel at 64
        shake = steps[(r[:, :2] * 8).astype(int)] * (r[:, 5:] < 0.25)  # most cameras stand still
        shift = np.round(shake * size / 64).astype(int)
        change = 1 + np.where(r[:, 2:3] < 0.25, 0.5, 0.06) * (r[:, 3:5] - 0.5)  # of the light
        self.starts = (shift + self.drop.margin).tolist()
        self.shift = torch.from_numpy(shift).to(device)
        self.change = torch.from_numpy(change.astype(np.float32)).to(device)
        still = self.drop.still(shift)
        ambient, direct = self.change[:, :, None, None, None].unbind(1)
        self.light = still[:, :3] * ambient + still[:, 3:6] * direct
        self.depth = still[:, 6].clone()
        self.mask = torch.zeros_like(self.depth, dtype=torch.bool)
        them = cast(seed, bg, ids)
        if them is not None:
            self._add(them)

    def _add(self, them: Cast) -> None:
        """Draw the objects and their shadows."""
        drop, across, size = self.drop, self.drop.across, self.size
        view = View(them.parts, drop.place.camera, drop.device)
        thing, owner = (torch.from_numpy(i).to(drop.device) for i in (them.which, them.owner))
        key = self._cut(drop.key.expand(len(self.starts), -1, -1))
        raster(view, owner[thing], self.shift, across, across, key)
        shadow, dim = drop.shadows(view, owner[thing], len(self.starts)), self._contact(them, owner)
        changed = self._cut(((shadow > 0) | (dim > 0)).view(-1, drop.n, drop.n))
        changed |= key.view(torch.int32)[::2] != -1  # the lower half, where parts are numbered
        changed = changed.view(-1, size, 2, size, 2)
        who, y, x = (changed[:, :, 0] | changed[:, :, 1]).any(-1).nonzero(as_tuple=True)
        pixel = (who * size + y) * size + x
        # four rays of each changed pixel: (4 k,), k of the first, k of the second ...
        corner = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], device=drop.device)
        x, y = (2 * x + corner[:, 1:]).view(-1), (2 * y + corner[:, :1]).view(-1)
        who4 = who.repeat(4)
        sx, sy = self.shift.T.index_select(1, who4) + torch.stack([x, y])
        seen = key.take((who4 * across + y) * across + x)
        under = (sy + drop.margin) * drop.n + sx + drop.margin
        there = who4 * drop.n**2 + under
        ambient, direct = self.change.T.index_select(1, who4)
        ambient, direct = ambient * (1 - dim.take(there)), direct * (1 - shadow.take(there))
        old = drop.light.index_select(1, under)
        light = old[:3] * ambient + old[3:] * direct
        new = (seen & 0xFFFFFFFF != 0xFFFFFFFF).nonzero()[:, 0]
        seen, sx, sy, whose = (a.index_select(0, new) for a in (seen, sx, sy, who4))
        part, z = seen & 0xFFFFFFFF, (seen >> 32).int().view(torch.float32)
        s = surface(view, part, grid(sx, across), -grid(sy, across), z, across)
        light.index_copy_(1, new, self._light_on(s, whose, lit(drop, them.at)[thing[part]]))
        light = _four(light) * 0.25
        for i in range(3):
            self.light.view(-1).index_copy_(0, pixel + (2 * who + i) * size**2, light[i])
        depth = torch.zeros(2, 4 * len(pixel), device=z.device)
        depth.index_copy_(1, new, torch.stack([torch.ones_like(z), z]))
        count, far = _four(depth)
        solid = count >= 2  # of a pixel's four rays meet an object
        self.mask.view(-1)[pixel] = solid
        byte = far[solid] / count[solid] * (255 / DEPTH_M)
        self.depth.view(-1)[pixel[solid]] = byte.clamp(max=255)

    def _cut(self, maps: Tensor) -> Tensor:
        """Maps (B, n, n) on the backdrop's grid -> (B * 2S * 2S,) as pictures see them."""
        wide, cuts = self.drop.across, zip(maps, self.starts, strict=True)
        return torch.stack([m[y : y + wide, x : x + wide] for m, (x, y) in cuts]).view(-1)

    def _light_on(self, s: Surface, who: Tensor, reached: Tensor) -> Tensor:
        """(3, k) light of object surfaces in pictures `who`; `reached` (k,) by the lamp."""
        sky = 0.5 + 0.5 * (s.point[1] / 0.9).clamp(0, 1)  # the floor hides half of it near the feet
        ambient, direct = shade(self.drop.place, s, self.drop.lamp, sky)
        change = self.change.T.index_select(1, who) * self.drop.exposure
        reached = reached * change[1]
        return torch.stack([ambient[i] * change[0] + direct[i] * reached for i in range(3)])

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


def _four(rays: Tensor) -> Tensor:
    """Sum over a pixel's four rays, in a fixed order: (C, 4 k) -> (C, k)."""
    a = rays.view(len(rays), 4, -1)
    return (a[:, 0] + a[:, 1]) + (a[:, 2] + a[:, 3])
