"""Shadows: what parts take from the lamp's light, and feet from the light all around.

A shadow is tried only on tiles of 8 x 8 rays that it can reach, a ball around each telling which.
"""

import numpy as np
import torch
from torch import Tensor

from evalib.rooms.rays import View, by_kind, dot, span


def opacity(
    view: View, kind: int, some: Tensor, lamp: Tensor, soft: float, point: Tensor
) -> Tensor:
    """(n, k) how much of the lamp parts `some` (k,), all of one kind, hide from points (3, n, k) m.

    Near enough is the chord inside a part over the width of the lamp's cone; `soft` is the lamp's
    radius over its distance.
    """
    inward = view.inward.index_select(2, some)[:, :, None]  # (4, 3, 1, k)
    o = dot(inward, point) + inward[3]  # (3, n, k) in the part's coordinates
    end = dot(inward, lamp) + inward[3]
    near, far = span(kind, o, end - o)
    near = near.clamp(min=5e-4)  # in ways from the point to the lamp
    far = far.clamp(max=1.0)
    share = (far - near) / (soft * (near + far) * 0.5 + 5e-4)
    return torch.where(far > near, share, torch.zeros_like(share)).clamp(0, 1)


class Tiles:
    """Points (3, n) m in tiles, each with a ball around it: what the shadows of a lamp fall on.

    rays: (p, tiles) int64, which of the n points stand together; only those `seen` (n,) count.
    """

    def __init__(self, point: Tensor, seen: Tensor, rays: Tensor, lamp: Tensor, soft: float):
        self.points = point[:, rays]  # (3, p, tiles)
        self.rays = rays
        self.n = len(seen)
        self.lamp = lamp
        self.soft = soft
        seen = seen[rays]
        low = torch.where(seen, self.points, 1e9).amin(1)
        high = torch.where(seen, self.points, -1e9).amax(1)
        self.middle = (low + high) / 2
        self.radius = (high - low).norm(dim=0) / 2
        self.radius[~seen.any(0)] = -1e9

    def shadows(self, view: View, owner: Tensor, b: int, shell: int = 0) -> Tensor:
        """(b, n) share of the lamp's light that parts from `shell` on take from the place.

        owner: (parts,) which of b copies of the place a part stands in.
        """
        way = self.lamp[:, None] - self.middle  # (3, tiles)
        length = dot(way, way).sqrt()
        gap = view.centre[:, shell:, None] - self.middle[:, None]  # (3, parts, tiles)
        along = dot(gap, way / length)
        aside = dot(gap, gap) - along * along
        radius = view.radius[shell:, None]
        reach = (radius + self.radius).clamp(min=0)
        near = (aside < reach * reach) & (along > -reach) & (along < length + radius)
        part, tile = near.nonzero(as_tuple=True)
        part = part + shell
        dark = self.points.new_zeros(b * self.n)
        for kind, some in by_kind(view.kind[part]):
            point = self.points.index_select(2, tile[some])
            share = opacity(view, kind, part[some], self.lamp, self.soft, point)
            self._deepen(dark, share, tile[some], owner[part[some]])
        return dark.view(b, -1)

    def contact(self, feet: np.ndarray, wide: np.ndarray, owner: Tensor, b: int) -> Tensor:
        """(b, n) share of the sky that k things hide from the floor around their feet.

        feet: (k, 3) m; wide: (k,) half widths, m; owner: (k,) which of b copies they stand in.
        """
        foot = np.c_[feet, wide * 1.5].T.astype(np.float32)
        foot = torch.from_numpy(foot).to(self.lamp.device)
        gap = foot[:3, :, None] - self.middle[:, None]
        away = (gap * gap).sum(0).sqrt()  # (k, tiles)
        thing, tile = (away < foot[3, :, None] + self.radius).nonzero(as_tuple=True)
        x, y, z = self.points.index_select(2, tile)
        foot = foot[:, thing]
        dx = (x - foot[0]) / foot[3]
        dz = (z - foot[2]) / foot[3]
        close = (1 - (dx * dx + dz * dz)).clamp(min=0)
        dark = self.points.new_zeros(b * self.n)
        share = 0.6 * close * close * (1 - y / 0.5).clamp(0, 1)
        self._deepen(dark, share, tile, owner[thing])
        return dark.view(b, -1)

    def _deepen(self, dark: Tensor, share: Tensor, tile: Tensor, owner: Tensor) -> None:
        """Raise `dark` to the shares (64, k) of tiles (k,) in the copies of their owners."""
        share = share.reshape(-1)
        some = share.nonzero()[:, 0]
        ray = (self.rays.index_select(1, tile) + owner * self.n).view(-1)
        dark.scatter_reduce_(0, ray.index_select(0, some), share.index_select(0, some), "amax")


def lit(view: View, shell: int, lamp: Tensor, soft: float, feet: np.ndarray) -> Tensor:
    """(k,) how much of the lamp reaches things with feet (k, 3) past the parts from `shell` on."""
    heights = np.array([[0, 0.3, 0], [0, 0.8, 0], [0, 1.3, 0]])
    points = (feet + heights[:, None]).reshape(-1, 3).T.astype(np.float32)
    points = torch.from_numpy(points).to(lamp.device)  # (3, 3 * k)
    ray = torch.arange(points.shape[1], device=lamp.device)
    tiles = Tiles(points, ray >= 0, ray.view(3, -1), lamp, soft)
    dark = tiles.shadows(view, torch.zeros_like(view.kind), 1, shell).view(3, -1)
    return 1 - (dark[0] + dark[1] + dark[2]) / 3
