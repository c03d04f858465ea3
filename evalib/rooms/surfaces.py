"""What surfaces look like where rays meet them: normals, and patterns from stripes to leaves.

Patterns are functions of metres on the surface, so that a picture of any size shows the same; one
too fine for the distance between rays fades to its mean. Noise comes from tables that repeat.
"""

import numpy as np

from evalib.rooms.kernels import scalar
from evalib.rooms.rays import BOX, TUBE, clamp, dot, f, minus, mixed, three

TEXTURES = ("plain", "stripes", "checks", "bricks", "noise", "wood", "cells", "leaves")
PLAIN, STRIPES, CHECKS, BRICKS, NOISE, WOOD, CELLS, LEAVES = range(len(TEXTURES))
SMOOTH, WHITE = 0, 1  # noise of many scales about 0 (std 1), and independent numbers 0..1
SIDE = 512  # of a table of noise


def _tables() -> np.ndarray:
    """(2, SIDE, SIDE) float32: the smooth and the white noise."""
    rng = np.random.Generator(np.random.Philox(key=7))
    total = np.zeros((SIDE, SIDE))
    for cells in (8, 16, 32, 64, 128):
        grain = np.pad(rng.random((cells, cells)) - 0.5, ((0, 1), (0, 1)), mode="wrap")
        at = np.arange(SIDE) * cells / SIDE
        i, t = at.astype(int), at % 1
        t = t * t * (3 - 2 * t)
        rows = grain[i] * (1 - t[:, None]) + grain[i + 1] * t[:, None]
        total += (rows[:, i] * (1 - t) + rows[:, i + 1] * t) * (8 / cells) ** 0.6
    return np.stack([total / total.std(), rng.random((SIDE, SIDE))]).astype(np.float32)


TABLES = _tables()


@scalar
def surface(part, rays, step, u, v, far, tables):
    """What the ray (u, v) meets `far` m away on a part: point, m, normal, colour, its own light."""
    ray = part.ray
    ox = ray[0, 0] + far * (ray[1, 0] * u + ray[2, 0] * v + ray[3, 0])  # in the part's coordinates
    oy = ray[0, 1] + far * (ray[1, 1] * u + ray[2, 1] * v + ray[3, 1])
    oz = ray[0, 2] + far * (ray[1, 2] * u + ray[2, 2] * v + ray[3, 2])
    flat_y = abs(oy) >= abs(ox) and abs(oy) >= abs(oz)
    on_x = abs(ox) > abs(oz) and not flat_y
    cap = part.kind == TUBE and abs(oy) > f(0.9999)
    if part.kind == BOX:
        normal = ox * f(on_x), oy * f(flat_y), oz * f(not (on_x or flat_y))
    else:
        normal = ox * f(not cap), oy * f(cap or part.kind != TUBE), oz * f(not cap)
    x, y, z = three(part.inward, 0), three(part.inward, 1), three(part.inward, 2)
    normal = dot(x, normal), dot(y, normal), dot(z, normal)
    unit = f(1) / max(np.sqrt(dot(normal, normal)), f(1e-9))
    normal = normal[0] * unit, normal[1] * unit, normal[2] * unit
    way = mixed(mixed(three(rays, 3), three(rays, 1), u), three(rays, 2), v)
    facing = -dot(way, normal) / np.sqrt(dot(way, way))
    blur = far * step / max(facing, f(0.1))  # metres between neighbouring rays
    along = oz * part.half[2] if on_x else ox * part.half[0]  # metres from the part's middle
    up = oz * part.half[2] if flat_y else oy * part.half[1]
    paint = part.paint
    mix, gain = _texture(paint, along, up, blur, tables)
    r, g, b = mixed(paint, minus(paint[3:], paint), mix)
    return mixed(three(rays, 0), way, far), normal, (r * gain, g * gain, b * gain), paint[9]


@scalar
def _noise(tables, which, a, b):
    """Look up a table, that repeats, at whole coordinates."""
    return tables[which, np.int64(a) & (SIDE - 1), np.int64(b) & (SIDE - 1)]


@scalar
def clouds(tables, x, y):
    """Drifts of noise, about 1 long: two turned layers, whose sum repeats too far off to notice."""
    x *= f(64)
    y *= f(64)
    turned = _noise(tables, SMOOTH, x * f(0.4) - y * f(0.13), x * f(0.13) + y * f(0.4))
    return _noise(tables, SMOOTH, x, y) + f(0.7) * turned


@scalar
def _band(x, blur, width):
    """1 within `width` of a period around whole numbers, 0 elsewhere, edges as wide as `blur`."""
    away = f(0.5) - abs(x - np.floor(x) - f(0.5))
    sharp = clamp((f(width / 2) - away) / max(blur, f(0.02)) + f(0.5), 0, 1)
    seen = clamp(f(1.6) - f(1.6) * blur, 0, 1)
    return f(width) + (sharp - f(width)) * seen  # the mean when too fine to see


@scalar
def _texture(paint, along, up, blur, tables):
    """How much of colour b, 0..1, and how bright a paint is at `along`, `up` m."""
    texture, rate, phase = int(paint[6]), paint[7], paint[8]
    grain = _noise(tables, SMOOTH, along * f(120) + phase * f(999), up * f(120) + phase * f(555))
    bright = f(1) + f(0.04) * grain
    x = along * rate + phase  # in repeats, as y and blur
    y = up * rate + phase
    blur = blur * rate
    if texture == PLAIN:
        return f(0), bright
    if texture == STRIPES:
        return _band(y, blur, 0.5), bright
    if texture == CHECKS:
        return abs(_band(x, blur, 0.5) - _band(y, blur, 0.5)), bright
    if texture == NOISE:
        return clamp(f(0.5) + f(0.3) * clouds(tables, x, y), 0, 1), bright
    if texture == LEAVES:
        mix = clamp(f(0.5) + f(0.5) * clouds(tables, x * f(2.8), y * f(2.8)), 0, 1)
        return mix, bright * (f(0.4) + f(0.9) * mix)
    if texture == BRICKS:
        row = np.floor(f(2) * y)
        cell = x + row * f(0.5)
        tone = _noise(tables, WHITE, np.floor(cell) + f(90), row) - f(0.5)
        tone = f(1) + tone * clamp(f(0.75) - f(0.75) * blur, 0, 0.5)
        joint = max(_band(cell, blur, 0.05), _band(f(2) * y, f(2) * blur, 0.1))
        return joint, bright * tone
    if texture == WOOD:
        plank = np.floor(y)
        grain = _noise(tables, SMOOTH, x * f(6) + plank * f(77), y * f(90) + plank * f(31))
        tone = _noise(tables, WHITE, plank, plank + f(9)) - f(0.5)
        tone = f(1) + tone * clamp(f(0.6) - f(0.6) * blur, 0, 0.4)
        gap = f(1) - f(0.5) * _band(y, blur, 0.04)
        return clamp(f(0.5) + f(0.3) * grain, 0, 1), bright * (tone * gap)
    cell = np.floor(x)  # upright cells: backs of books, boards of a fence
    row = np.floor(y * f(0.2))
    tone = f(0.6) + f(0.8) * _noise(tables, WHITE, cell, row + f(7))
    edge = f(1) - f(0.4) * _band(x, blur, 0.12)
    return _noise(tables, WHITE, cell + f(40), row), bright * (tone * edge)
