"""Render: photograph empty places and samples, ray-traced from (seed, id).

A sample is two shots of one fixed camera, an empty one and one with something new, and the exact
mask and depth of the second. What the place alone gives is kept by `backdrop`; per sample, rays are
traced only where the object or its shadow can be.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evalib.manifest import N_FG, N_PLACEMENTS
from evalib.rooms.backdrop import DEPTH_M, backdrop, shade
from evalib.rooms.builder import chance
from evalib.rooms.rays import PART, View, depth_of, grid, raster
from evalib.rooms.sensor import develop
from evalib.rooms.shadows import lit
from evalib.rooms.staging import Cast, cast
from evalib.rooms.surfaces import Surface, surface

GROUP_RAYS = 64 * 128 * 128  # of samples rendered together: 64 of 64 px
SHAKE = np.array([-2, -1, -1, 0, 0, 1, 1, 2])  # halves of a pixel at 64 px


def render_backgrounds(
    bg: Sequence[int], size: int, *, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Photograph empty places `bg` (0..99 for the built-in tiers), `size` pixels along a side.

    Returns:
        bg: (B, S, S, 3) uint8; bg_depth: (B, S, S) uint8, 255 at 10 m or more.
    Raises:
        ValueError: a size below 16, a negative background.
    """
    bg = _checked(bg, size)
    still = torch.empty(len(bg), 7, size, size, device=device)
    for row, number in enumerate(bg.tolist()):
        still[row] = backdrop(seed, number, size, str(device)).still(np.zeros((1, 2), int))[0]
    image = develop(still[:, :3] + still[:, 3:6], seed, bg)
    return {"bg": image, "bg_depth": still[:, 6].round().to(torch.uint8)}


def render(
    ids: Sequence[int], size: int, *, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Photograph samples, `size` pixels along a side; fastest when one background's are together.

    ids: `(bg * 100 + fg) * 40 + 2 * spot + mirrored`, each with the same pixels in any company.
    Returns:
        fg_bg: (B, S, S, 3) uint8; mask: (B, S, S) uint8 in {0, 255}, shadows excluded;
        depth: (B, S, S) uint8, 255 at 10 m or more. A share EMPTY_SHARE of samples has no object.
    Raises:
        ValueError: a size below 16, a negative id.
    """
    ids = _checked(ids, size)
    image = torch.empty(len(ids), size, size, 3, dtype=torch.uint8, device=device)
    mask = image.new_empty(len(ids), size, size)
    depth = torch.empty_like(mask)
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
        self.drop = backdrop(seed, bg, size, device)
        r = chance(seed, ids, "hand", 6)
        shakes = r[:, 5:] < 0.25  # most cameras stand still
        self.shift = np.round(shakes * SHAKE[(r[:, :2] * 8).astype(int)] * size / 64).astype(int)
        strong = np.where(r[:, 2:3] < 0.25, 0.5, 0.06)
        change = 1 + strong * (r[:, 3:5] - 0.5)  # (B, 2) of the ambient and the direct light
        self.change = torch.from_numpy(change.astype(np.float32)).to(device)
        still = self.drop.still(self.shift)
        ambient, direct = self.change[:, :, None, None, None].unbind(1)
        self.light = still[:, :3] * ambient + still[:, 3:6] * direct
        self.depth = still[:, 6].clone()
        self.mask = torch.zeros_like(self.depth, dtype=torch.bool)
        them = cast(seed, bg, ids)
        if them is not None:
            self._add(them)

    def _add(self, them: Cast) -> None:
        """Draw the objects and their shadows."""
        drop = self.drop
        b = len(self.shift)
        across = drop.across  # 2S
        size = across // 2
        view = View(them.parts, drop.place.camera, drop.device)
        thing = torch.from_numpy(them.which).to(drop.device)  # (parts,)
        owner = torch.from_numpy(them.owner).to(drop.device)  # (things,)
        shift = torch.from_numpy(self.shift).to(drop.device)
        key = drop.cut(drop.key.expand(b, -1), self.shift)  # (B, 2S, 2S), as all maps below
        raster(view, owner[thing], shift, across, across, key.view(-1))
        shadow = drop.cut(drop.tiles.shadows(view, owner[thing], b), self.shift)
        dim = drop.cut(drop.tiles.contact(them.at, them.wide, owner, b), self.shift)
        changed = (shadow > 0) | (dim > 0) | (key & PART != PART)
        changed = changed.view(b, size, 2, size, 2).any(4).any(2)  # (B, S, S)
        who, y, x = changed.nonzero(as_tuple=True)  # (k,) pixels
        # their four rays: (4 k,), k of the first, k of the second ...
        corner = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], device=drop.device)
        column = (2 * x + corner[:, 1:]).view(-1)
        row = (2 * y + corner[:, :1]).view(-1)
        whose = who.repeat(4)
        ray = (whose * across + row) * across + column
        seen = key.take(ray)
        ambient, direct = self.change.T.index_select(1, whose)
        ambient = ambient * (1 - dim.take(ray))
        direct = direct * (1 - shadow.take(ray))
        # the same rays in the camera's grid, and what the empty place is there
        column, row = shift.T.index_select(1, whose) + torch.stack([column, row])
        old = drop.light.index_select(1, (row + drop.margin) * drop.n + column + drop.margin)
        light = old[:3] * ambient + old[3:] * direct  # (3, 4 k)
        # those of them that meet an object
        new = (seen & PART != PART).nonzero()[:, 0]
        seen, column, row, whose = (a.index_select(0, new) for a in (seen, column, row, whose))
        part = seen & PART
        z = depth_of(seen)
        s = surface(view, part, grid(column, across), -grid(row, across), z, across)
        reached = lit(drop.view, drop.place.shell, drop.lamp, drop.place.soft, them.at)
        light.index_copy_(1, new, self._light_on(s, whose, reached[thing[part]]))
        self.light[who, :, y, x] = (_four(light) * 0.25).T
        depth = torch.zeros(2, 4 * len(who), device=z.device)
        depth.index_copy_(1, new, torch.stack([torch.ones_like(z), z]))
        count, far = _four(depth)  # (k,)
        solid = count >= 2  # of a pixel's four rays meet an object
        self.mask[who, y, x] = solid
        byte = far[solid] / count[solid] * (255 / DEPTH_M)
        self.depth[who[solid], y[solid], x[solid]] = byte.clamp(max=255)

    def _light_on(self, s: Surface, who: Tensor, reached: Tensor) -> Tensor:
        """(3, k) light of object surfaces in pictures `who`; `reached` (k,) by the lamp."""
        sky = 0.5 + 0.5 * (s.point[1] / 0.9).clamp(0, 1)  # the floor hides half of it near the feet
        ambient, direct = shade(self.drop.place, s, self.drop.lamp, sky)
        change = self.change.T.index_select(1, who) * self.drop.exposure
        return ambient * change[0] + direct * (reached * change[1])


def _four(rays: Tensor) -> Tensor:
    """Sum over a pixel's four rays, in a fixed order: (C, 4 k) -> (C, k)."""
    a = rays.view(len(rays), 4, -1)
    return (a[:, 0] + a[:, 1]) + (a[:, 2] + a[:, 3])
