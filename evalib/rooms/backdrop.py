"""An empty place as its camera sees it: hits, light and shadows, computed once and kept.

Light from all around (`ambient`) and from the lamp or sun (`direct`, shadowed by the furniture) are
kept apart, so that an object can later take away one without the other.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from evalib.rooms import places
from evalib.rooms.builder import chance
from evalib.rooms.rays import NOTHING, TILE, View, by_kind, dot, grid, opacity, raster
from evalib.rooms.sensor import halve
from evalib.rooms.surfaces import Surface, clouds, surface

DEPTH_M = 10.0  # byte 255
PROBE = 32  # rays along the side of the coarse picture that judges exposure and placements


class Backdrop:
    """An empty place on a grid of n x n rays, `across` of them the picture, the rest a margin.

    `key` (n, n) int64 depths as `raster` writes them; `z` (n * n,) m, inf for sky; `light`
    (6, n * n) ambient and direct RGB; `points` (3, 64, tiles) m and the tiles' bounding balls.
    """

    def __init__(self, place: places.Place, across: int, device: str, exposure: float = 1.0):
        self.place, self.across, self.device, self.exposure = place, across, device, exposure
        self.margin = -(-across // 64)  # a pixel of shake at 64 px
        self.n = n = -(-(across + 2 * self.margin) // TILE) * TILE
        self.lamp = torch.tensor(place.light, dtype=torch.float32, device=device)
        self.view = View(place.parts, place.camera, device)
        key = torch.full((n**2,), NOTHING, dtype=torch.int64, device=device)
        first = torch.full((1, 2), -self.margin, device=device)
        raster(self.view, torch.zeros_like(self.view.kind), first, n, across, key)
        self.z = (key >> 32).int().view(torch.float32)
        self.key = (key | 0xFFFFFFFF).view(n, n)
        self._light(key & 0xFFFFFFFF)
        depth = (self.z * (255 / DEPTH_M)).clamp(max=255)
        maps = torch.cat([self.light, depth[None]]).view(7, n, n)
        # maps at the size of pictures, for pixels that start at an even or odd row and column
        self.coarse = [[halve(maps.roll((-y, -x), (1, 2))) for x in (0, 1)] for y in (0, 1)]

    def _light(self, part: Tensor) -> None:
        place, seen = self.place, self.z.isfinite()
        x = grid(torch.arange(self.n, device=self.device) - self.margin, self.across)
        u, v, z = x.repeat(self.n), (-x).repeat_interleave(self.n), self.z.clamp(max=1e3)
        s = surface(self.view, part * seen, u, v, z, self.across)
        ambient, direct = shade(place, s, self.lamp, _open(place, s.point))
        self._tile(torch.stack(s.point), seen)
        shadow = self.shadows(self.view, torch.zeros_like(self.view.kind), 1, place.shell)
        rise = (v * 0.5 + 0.5).clamp(0, 1)
        fog = torch.zeros_like(z) if place.indoors else z / (z + 150)
        rise = rise * (1 + 0.25 * clouds(u / (0.4 + rise), v / (0.4 + rise)))
        for i in range(3):
            sky = place.haze[i] + (place.zenith[i] - place.haze[i]) * rise
            ambient[i] = torch.where(seen, ambient[i] + fog * (place.haze[i] - ambient[i]), sky)
            direct[i] = torch.where(seen, direct[i] * (1 - shadow) * (1 - fog), 0.0)
        self.light = torch.stack(ambient + direct) * self.exposure

    def _tile(self, point: Tensor, seen: Tensor) -> None:
        side = self.n // TILE
        point = point.view(3, side, TILE, side, TILE).transpose(2, 3).reshape(3, side**2, -1)
        seen = seen.view(side, TILE, side, TILE).transpose(1, 2).reshape(side**2, -1)
        low, high = torch.where(seen, point, 1e9).amin(2), torch.where(seen, point, -1e9).amax(2)
        self.middle, self.radius = (low + high) / 2, (high - low).norm(dim=0) / 2
        self.radius[~seen.any(1)] = -1e9
        self.points = point.transpose(1, 2).contiguous()
        ray = torch.arange(self.n**2, device=self.device).view(side, TILE, side, TILE)
        self.first_ray, self.inside = ray[:, 0, :, 0].reshape(-1), ray[0, :, 0].reshape(-1, 1)

    def shadows(self, view: View, owner: Tensor, b: int, shell: int = 0) -> Tensor:
        """(b * n * n,) share of the lamp's light that parts from `shell` on take from the place.

        owner: (parts,) which of b copies of the place a part stands in.
        """
        way = self.lamp[:, None] - self.middle
        length = dot(way, way).sqrt()
        gap = [view.centre[i, shell:, None] - self.middle[i] for i in range(3)]  # (parts, tiles)
        along = dot(gap, way / length)
        aside = dot(gap, gap) - along * along
        radius = view.radius[shell:, None]
        reach = (radius + self.radius).clamp(min=0)
        near = (aside < reach * reach) & (along > -reach) & (along < length + radius)
        part, tile = near.nonzero(as_tuple=True)
        part = part + shell
        out = torch.zeros(b * self.n**2, device=self.device)
        for kind, some in by_kind(view.kind[part]):
            point = self.points.index_select(2, tile[some])
            share = opacity(view, kind, part[some], self.lamp, self.place.soft, point)
            self.deepen(out, share, tile[some], owner[part[some]])
        return out

    def deepen(self, out: Tensor, share: Tensor, tile: Tensor, owner: Tensor) -> None:
        """Raise `out` to the shares (64, k) of tiles (k,) in the pictures of their owners."""
        share = share.reshape(-1)
        dark = share.nonzero()[:, 0]
        ray = (self.first_ray[tile] + owner * self.n**2 + self.inside).view(-1)
        out.scatter_reduce_(0, ray.index_select(0, dark), share.index_select(0, dark), "amax")

    def still(self, shift: np.ndarray) -> Tensor:
        """(B, 7, S, S): light (6) and depth byte of the picture moved by `shift` (B, 2) rays."""
        size, starts = self.across // 2, (shift + self.margin).tolist()
        cuts = [self.coarse[y % 2][x % 2][:, y // 2 :, x // 2 :] for x, y in starts]
        return torch.stack([cut[:, :size, :size] for cut in cuts])


def _open(place: places.Place, point: list[Tensor]) -> Tensor:
    """Share of the sky's light that reaches points near the floor, walls and furniture, .3..1."""
    x, y, z = point
    light = 1 - 0.3 * (1 - y.clamp(min=0) / 0.5).clamp(min=0)
    if place.indoors:
        x0, x1, z0, z1 = place.floor
        for d in (x - x0, x1 - x, z1 - z):
            corner = (1 - d.abs() / 0.8).clamp(0, 1)
            light = light * (1 - 0.3 * corner * corner)
    for x0, x1, z0, z1 in place.blocks.tolist():
        dx = torch.maximum(x0 - x, x - x1).clamp(min=0)
        dz = torch.maximum(z0 - z, z - z1).clamp(min=0)
        close = (1 - (dx * dx + dz * dz).sqrt() / 0.5).clamp(min=0)
        light = light * (1 - 0.45 * close * close * (1 - y / 1.2).clamp(0, 1))
    return light


def shade(place: places.Place, s: Surface, lamp: Tensor, sky: Tensor) -> tuple[list, list]:
    """Light from all around, times `sky` (n,), and unshadowed light of the lamp, off a surface."""
    way = [lamp[i] - s.point[i] for i in range(3)]
    length = dot(way, way).sqrt()
    wrap = place.soft * 0.5
    cosine = ((dot(way, s.normal) / length + wrap) / (1 + wrap)).clamp(min=0)
    if place.indoors:
        cosine = cosine * (2 / (1 + length * length / 9))
    up, dull = s.normal[1] * 0.5 + 0.5, 1 - s.glow.clamp(max=1)
    around, direct = sky * dull, cosine * dull
    ambient = [
        s.colour[i] * ((place.bounce[i] + up * (place.sky[i] - place.bounce[i])) * around + s.glow)
        for i in range(3)
    ]
    return ambient, [s.colour[i] * direct * place.direct[i] for i in range(3)]


def lit(drop: Backdrop, feet: np.ndarray) -> Tensor:
    """(k,) how much of the lamp reaches things whose feet are at (k, 3), past the furniture."""
    place, heights = drop.place, np.array([[0, 0.3, 0], [0, 0.8, 0], [0, 1.3, 0]])
    points = (feet[:, None] + heights).reshape(-1, 3).T.astype(np.float32)
    points = torch.from_numpy(points).to(drop.device)[:, :, None]
    hidden = [torch.zeros(3 * len(feet), device=drop.device)]
    for kind, some in by_kind(drop.view.kind[place.shell :]):
        dark = opacity(drop.view, kind, place.shell + some, drop.lamp, place.soft, points)
        hidden.append(dark.amax(1))
    dark = torch.stack(hidden).amax(0).view(-1, 3)
    return 1 - (dark[:, 0] + dark[:, 1] + dark[:, 2]) / 3


@lru_cache(maxsize=64)
def probe(seed: int, bg: int) -> tuple[Backdrop, float]:
    """A coarse picture of the place, and the exposure that makes it neither dark nor blown out."""
    drop = Backdrop(places.build(seed, bg), PROBE, "cpu")
    mean = float(drop.light[:3].add(drop.light[3:]).clamp(max=1.5).mean())
    key = 0.09 + 0.18 * chance(seed, [bg], "exposure", 1)[0, 0]
    return drop, key / max(mean, 1e-3)


@lru_cache(maxsize=8)
def backdrop(seed: int, bg: int, size: int, device: str) -> Backdrop:
    """The place at two rays per pixel, ready to be drawn into."""
    coarse, exposure = probe(seed, bg)
    return Backdrop(coarse.place, 2 * size, device, exposure)
