"""An empty place as its camera sees it: what rays meet and its light, computed once and kept.

Light from all around (`ambient`) and from the lamp or sun (`direct`, shadowed by the furniture) are
kept apart, so that an object can later take away one without the other.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from evalib.rooms import places
from evalib.rooms.builder import chance
from evalib.rooms.rays import NOTHING, PART, TILE, View, depth_of, dot, grid, raster
from evalib.rooms.sensor import halve
from evalib.rooms.shadows import Tiles
from evalib.rooms.surfaces import Surface, clouds, surface

DEPTH_M = 10.0  # byte 255
PROBE = 32  # rays along the side of the coarse picture that judges exposure and placements


class Backdrop:
    """An empty place on a grid of n x n rays, `across` of them the picture, the rest a margin."""

    def __init__(self, place: places.Place, across: int, device: str, exposure: float = 1.0):
        self.place = place
        self.across = across
        self.device = device
        self.exposure = exposure
        self.margin = -(-across // 64)  # rays: a pixel of shake at 64 px
        self.n = -(-(across + 2 * self.margin) // TILE) * TILE
        self.lamp = torch.tensor(place.light, dtype=torch.float32, device=device)
        self.view = View(place.parts, place.camera, device)
        key = torch.full((self.n**2,), NOTHING, dtype=torch.int64, device=device)
        first = torch.full((1, 2), -self.margin, device=device)
        raster(self.view, torch.zeros_like(self.view.kind), first, self.n, across, key)
        self.key = key | PART  # (n * n,) depths to which `raster` adds
        self.z = depth_of(key)  # (n * n,) m, inf for sky
        self.light = self._light(key & PART) * exposure  # (6, n * n) ambient, direct RGB
        depth = (self.z * (255 / DEPTH_M)).clamp(max=255)
        self.maps = torch.cat([self.light, depth[None]])  # (7, n * n)

    def _light(self, part: Tensor) -> Tensor:
        """(6, n * n) off the parts (n * n,) that rays meet, or of the sky; keeps their `tiles`."""
        place = self.place
        x = grid(torch.arange(self.n, device=self.device) - self.margin, self.across)
        u = x.repeat(self.n)  # (n * n,)
        v = (-x).repeat_interleave(self.n)
        z = self.z.clamp(max=1e3)
        seen = self.z.isfinite()
        s = surface(self.view, part * seen, u, v, z, self.across)
        ambient, direct = shade(place, s, self.lamp, _open(place, s.point))
        rays = torch.arange(self.n**2, device=self.device).view(-1, TILE, self.n // TILE, TILE)
        rays = rays.permute(1, 3, 0, 2).reshape(TILE**2, -1)  # (64, tiles)
        self.tiles = Tiles(s.point, seen, rays, self.lamp, place.soft)
        shadow = self.tiles.shadows(self.view, torch.zeros_like(self.view.kind), 1, place.shell)[0]
        fog = torch.zeros_like(z) if place.indoors else z / (z + 150)
        rise = (v * 0.5 + 0.5).clamp(0, 1)
        rise = rise * (1 + 0.25 * clouds(u / (0.4 + rise), v / (0.4 + rise)))
        haze = column(place.haze, z)
        sky = haze + column(place.zenith - place.haze, z) * rise
        ambient = torch.where(seen, ambient + fog * (haze - ambient), sky)
        direct = torch.where(seen, direct * (1 - shadow) * (1 - fog), 0.0)
        return torch.cat([ambient, direct])

    def cut(self, maps: Tensor, shift: np.ndarray) -> Tensor:
        """Maps (B, ..., n * n) -> (B, ..., 2S, 2S) of pictures moved by `shift` (B, 2) rays."""
        wide = self.across
        maps = maps.unflatten(-1, (self.n, self.n))
        starts = (shift + self.margin).tolist()
        cuts = [m[..., y : y + wide, x : x + wide] for m, (x, y) in zip(maps, starts, strict=True)]
        return torch.stack(cuts)

    def still(self, shift: np.ndarray) -> Tensor:
        """(B, 7, S, S): light (6) and depth byte of the picture moved by `shift` (B, 2) rays."""
        shift, which = np.unique(shift, axis=0, return_inverse=True)  # most cameras stand still
        still = halve(self.cut(self.maps.expand(len(shift), -1, -1), shift))
        return still[which.reshape(-1)]


def _open(place: places.Place, point: Tensor) -> Tensor:
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


def shade(place: places.Place, s: Surface, lamp: Tensor, sky: Tensor) -> tuple[Tensor, Tensor]:
    """Light off a surface (3, n): from all around times `sky` (n,), and the lamp's, unshadowed."""
    way = lamp[:, None] - s.point
    length = dot(way, way).sqrt()
    wrap = place.soft * 0.5
    cosine = ((dot(way, s.normal) / length + wrap) / (1 + wrap)).clamp(min=0)
    if place.indoors:
        cosine = cosine * (2 / (1 + length * length / 9))
    up = s.normal[1] * 0.5 + 0.5
    dull = 1 - s.glow.clamp(max=1)
    around = column(place.bounce, up) + up * column(place.sky - place.bounce, up)
    ambient = s.colour * (around * (sky * dull) + s.glow)
    direct = s.colour * (cosine * dull) * column(place.direct, up)
    return ambient, direct


def column(rgb: np.ndarray, like: Tensor) -> Tensor:
    """(3, 1) float32 of a place's colour."""
    return torch.tensor(rgb, dtype=torch.float32, device=like.device)[:, None]


@lru_cache(maxsize=64)
def probe(seed: int, bg: int) -> Backdrop:
    """A coarse picture of the place, not exposed."""
    return Backdrop(places.build(seed, bg), PROBE, "cpu")


@lru_cache(maxsize=8)
def backdrop(seed: int, bg: int, size: int, device: str) -> Backdrop:
    """The place at two rays per pixel, ready to be drawn into, neither dark nor blown out."""
    coarse = probe(seed, bg)
    mean = float(coarse.light[:3].add(coarse.light[3:]).clamp(max=1.5).mean())
    wanted = 0.09 + 0.18 * chance(seed, [bg], "exposure", 1)[0, 0]
    return Backdrop(coarse.place, 2 * size, device, wanted / max(mean, 1e-3))
