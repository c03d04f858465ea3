"""An empty place as its camera sees it: what rays meet and its light, computed once and kept.

Light from all around (`ambient`) and from the lamp or sun (`direct`, shadowed by the furniture) are
kept apart, so that an object can later take away one without the other.
"""

from collections import OrderedDict
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from evalib.rooms import places
from evalib.rooms.builder import Light, Place, chance
from evalib.rooms.kernels import kernel, scalar
from evalib.rooms.rays import Frame, clamp, dot, f, minus, raster, view
from evalib.rooms.shadows import enclose, shadows
from evalib.rooms.surfaces import TABLES, clouds, surface

PROBE = 32  # rays along the side of the coarse picture that judges exposure and placements
DEPTH_M = 10.0  # byte 255
# of light: 258 places at 64 px, 68 at 128 px, 22 at 224 px. No fewer than are asked for at a time:
# a pack or a stream asks for empty places first, and for their samples next
KEPT_BYTES = 128 << 20


class Backdrop(NamedTuple):
    """An empty place on a frame of n x n rays: a picture, and a margin."""

    frame: Frame
    lamp: Light  # in float32
    blockers: np.ndarray  # (k,) SEEN, parts that throw shadows
    z: np.ndarray  # (n, n) float32 m, inf for sky
    points: np.ndarray  # (tiles, 3, 64), as `enclose` has them
    balls: np.ndarray  # (tiles, 4), too
    light: np.ndarray  # (7, n, n) float32 ambient, direct RGB, exposed; depth, as `byte`
    exposure: float

    @staticmethod
    def of(place: Place, across: int, exposure: float = 1.0) -> "Backdrop":
        frame = Frame.of(place.camera, across, -(-across // 64))  # a pixel of shake at 64 px
        n = frame.n
        lamp = Light(*map(np.float32, place.light))
        parts = view(place.parts, place.camera)
        z = np.full((n, n), np.inf, np.float32)
        part = np.full((n, n), -1, np.int32)
        raster(parts, 0, len(parts), frame, z, part)
        points, balls = enclose(frame, z)
        dark = np.empty((n, n), np.float32)
        shadows(parts, place.shell, len(parts), lamp, points, balls, dark)
        light = np.empty((7, n, n), np.float32)
        _paint(parts, frame, lamp, z, part, dark, f(exposure), TABLES, light)
        blockers = parts[place.shell :].copy()
        return Backdrop(frame, lamp, blockers, z, points, balls, light, f(exposure))


@kernel
def _paint(parts, frame, light, z, part, dark, exposure, tables, out):
    """Fill out (7, n, n) with the light off the parts that rays meet, or of the sky, and depth."""
    rays, step, at = frame.rays, frame.step, frame.at
    haze, fade = light.haze, light.fade
    for y in range(frame.n):
        for x in range(frame.n):
            u = at[x]
            v = -at[y]
            far = z[y, x]
            out[6, y, x] = byte(far)
            if far < np.inf:
                s = surface(parts[part[y, x]], rays, step, u, v, far, tables)
                ambient, direct = shade(light, s, _open(light, s[0]))
                fog = f(0) if light.indoors else far / (far + f(150))
                open_share = f(1) - dark[y, x]
                for i in range(3):
                    around = ambient[i] + fog * (haze[i] - ambient[i])
                    out[i, y, x] = around * exposure
                    out[3 + i, y, x] = direct[i] * open_share * (f(1) - fog) * exposure
            else:
                rise = clamp(v * f(0.5) + f(0.5), 0, 1)
                drift = clouds(tables, u / (f(0.4) + rise), v / (f(0.4) + rise))
                rise *= f(1) + f(0.25) * drift
                for i in range(3):
                    sky = haze[i] + fade[i] * rise
                    out[i, y, x] = sky * exposure
                    out[3 + i, y, x] = f(0)


@scalar
def byte(z):
    """Depth as it is stored, not rounded yet: 255 at 10 m or more."""
    return min(z * f(255 / DEPTH_M), f(255))


@scalar
def _open(light, point):
    """Share of the sky's light that reaches a point near the floor, walls and furniture, .3..1."""
    x, y, z = point
    share = f(1) - f(0.3) * max(f(1) - max(y, f(0)) / f(0.5), f(0))
    if light.indoors:
        floor = light.floor
        for distance in (x - floor[0], floor[1] - x, floor[3] - z):
            corner = clamp(f(1) - abs(distance) / f(0.8), 0, 1)
            share *= f(1) - f(0.3) * corner * corner
    low = clamp(f(1) - y / f(1.2), 0, 1)
    blocks = light.blocks
    for k in range(len(blocks)):
        dx = max(max(blocks[k, 0] - x, x - blocks[k, 1]), f(0))
        dz = max(max(blocks[k, 2] - z, z - blocks[k, 3]), f(0))
        if dx < f(0.5) and dz < f(0.5):
            close = max(f(1) - np.sqrt(dx * dx + dz * dz) / f(0.5), f(0))
            share *= f(1) - f(0.45) * close * close * low
    return share


@scalar
def shade(light, s, sky):
    """Light off a surface, two (r, g, b): from all around times `sky`, the lamp's unshadowed."""
    point, normal, colour, glow = s
    way = minus(light.lamp, point)
    length = np.sqrt(dot(way, way))
    wrap = light.soft * f(0.5)
    cosine = max((dot(way, normal) / length + wrap) / (f(1) + wrap), f(0))
    if light.indoors:
        cosine *= f(2) / (f(1) + length * length / f(9))
    up = normal[1] * f(0.5) + f(0.5)
    dull = f(1) - min(glow, f(1))
    sky *= dull
    cosine *= dull
    return (
        (
            colour[0] * ((light.bounce[0] + up * light.rise[0]) * sky + glow),
            colour[1] * ((light.bounce[1] + up * light.rise[1]) * sky + glow),
            colour[2] * ((light.bounce[2] + up * light.rise[2]) * sky + glow),
        ),
        (
            colour[0] * cosine * light.direct[0],
            colour[1] * cosine * light.direct[1],
            colour[2] * cosine * light.direct[2],
        ),
    )


@lru_cache(maxsize=256)
def probe(seed: int, bg: int) -> Backdrop:
    """A coarse picture of the place, not exposed."""
    return Backdrop.of(places.build(seed, bg), PROBE)


_kept = OrderedDict()  # the latest last


def backdrop(seed: int, bg: int, size: int) -> Backdrop:
    """The place at two rays per pixel, ready to be drawn into, neither dark nor blown out."""
    key = seed, bg, size
    if key not in _kept:
        coarse = probe(seed, bg)
        light = np.minimum(coarse.light[:3] + coarse.light[3:6], f(1.5))
        wanted = 0.09 + 0.18 * chance(seed, [bg], "exposure", 1)[0, 0]
        if places.night(seed, np.array([bg]))[0]:
            wanted *= 0.25
        exposure = wanted / max(light.mean(dtype=np.float64), 1e-3)
        _kept[key] = Backdrop.of(places.build(seed, bg), 2 * size, exposure)
        while len(_kept) > 1 and sum(drop.light.nbytes for drop in _kept.values()) > KEPT_BYTES:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key]
