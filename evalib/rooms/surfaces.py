"""What surfaces look like where rays meet them: normals, and patterns from stripes to leaves.

Patterns are functions of metres on the surface, so that a picture of any size shows the same; one
too fine for the distance between rays fades to its mean. Noise comes from a table that repeats.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from evalib.rooms.rays import BOX, TUBE, View, dot

TEXTURES = ("plain", "stripes", "checks", "bricks", "noise", "wood", "cells", "leaves")
SMOOTH, WHITE = 0, 1  # noise of many scales about 0 (std 1), and independent numbers 0..1
SIDE = 512  # of a table of noise


class Surface(NamedTuple):
    """What n rays meet."""

    point: Tensor  # (3, n) m
    normal: Tensor  # (3, n)
    colour: Tensor  # (3, n) linear RGB
    glow: Tensor  # (n,) light of its own


def surface(view: View, part: Tensor, u: Tensor, v: Tensor, z: Tensor, across: int) -> Surface:
    """Point, normal and colour where rays (u, v), each (n,), meet parts (n,) at z (n,) m."""
    kind = view.kind.index_select(0, part)
    o, a, b, c = view.ray.index_select(2, part)  # (3, n)
    p = o + z * (a * u + b * v + c)  # in the part's coordinates
    size = p.abs()
    flat_y = (size[1] >= size[0]) & (size[1] >= size[2])
    on_x = (size[0] > size[2]) & ~flat_y
    cap = (kind == TUBE) & (size[1] > 0.9999)
    of_box = torch.stack([on_x, flat_y, ~(on_x | flat_y)])
    of_round = torch.stack([~cap, cap | (kind != TUBE), ~cap])
    normal = p * torch.where(kind == BOX, of_box, of_round)  # not of unit length
    normal = dot(view.inward[:3].transpose(0, 1).index_select(2, part), normal)
    normal = normal * (1 / dot(normal, normal).sqrt().clamp(min=1e-9))
    eye, a, b, c = view.world_ray
    ray = c + a * u + b * v  # (3, n)
    tan = view.camera.tan
    facing = -dot(ray, normal) / dot(ray, ray).sqrt()
    blur = z * (2 * tan / across) / facing.clamp(min=0.1)  # metres between neighbouring rays
    x, y, depth = p * view.half.index_select(1, part)  # metres from the part's middle
    along = torch.where(on_x, depth, x)
    up = torch.where(flat_y, depth, y)
    paint = view.paint.index_select(1, part)
    texture, rate, phase, glow = paint[6:]
    mix, gain = _texture(texture.long(), along, up, rate, phase, blur)
    colour = (paint[:3] + mix * (paint[3:6] - paint[:3])) * gain
    return Surface(z * ray + eye, normal, colour, glow)


@lru_cache(maxsize=4)
def _tables(device: str) -> Tensor:
    """(2, SIDE * SIDE): the smooth and the white noise."""
    rng = np.random.Generator(np.random.Philox(key=7))
    total = np.zeros((SIDE, SIDE))
    for cells in (8, 16, 32, 64, 128):
        grain = np.pad(rng.random((cells, cells)) - 0.5, ((0, 1), (0, 1)), mode="wrap")
        at = np.arange(SIDE) * cells / SIDE
        i, f = at.astype(int), at % 1
        f = f * f * (3 - 2 * f)
        rows = grain[i] * (1 - f[:, None]) + grain[i + 1] * f[:, None]
        total += (rows[:, i] * (1 - f) + rows[:, i + 1] * f) * (8 / cells) ** 0.6
    both = np.stack([total / total.std(), rng.random((SIDE, SIDE))]).reshape(2, -1)
    return torch.from_numpy(both.astype(np.float32)).to(device)


def _noise(table: int, a: Tensor, b: Tensor) -> Tensor:
    """Look up a table, that repeats, at whole coordinates."""
    cell = (a.long() & (SIDE - 1)) * SIDE + (b.long() & (SIDE - 1))
    return _tables(str(a.device))[table].take(cell)


def clouds(x: Tensor, y: Tensor) -> Tensor:
    """Drifts of noise, about 1 long: two turned layers, whose sum repeats too far off to notice."""
    x, y = x * 64, y * 64
    turned = _noise(SMOOTH, x * 0.4 - y * 0.13, x * 0.13 + y * 0.4)
    return _noise(SMOOTH, x, y) + 0.7 * turned


def _band(x: Tensor, blur: Tensor, width: float = 0.5) -> Tensor:
    """1 within `width` of a period around whole numbers, 0 elsewhere, edges as wide as `blur`."""
    away = 0.5 - (x - x.floor() - 0.5).abs()
    sharp = ((width / 2 - away) / blur.clamp(min=0.02) + 0.5).clamp(0, 1)
    return width + (sharp - width) * (1.6 - 1.6 * blur).clamp(0, 1)  # the mean when too fine to see


def _pattern(name: str, x: Tensor, y: Tensor, blur: Tensor) -> tuple[Tensor, Tensor | float]:
    """How much of colour b, and how bright, at x, y in repeats; `blur` repeats between rays."""
    if name == "stripes":
        return _band(y, blur), 1.0
    if name == "checks":
        return (_band(x, blur) - _band(y, blur)).abs(), 1.0
    if name == "noise":
        return (0.5 + 0.3 * clouds(x, y)).clamp(0, 1), 1.0
    if name == "leaves":
        mix = (0.5 + 0.5 * clouds(x * 2.8, y * 2.8)).clamp(0, 1)
        return mix, 0.4 + 0.9 * mix
    if name == "bricks":
        row = (2 * y).floor()
        cell = x + row * 0.5
        tone = (_noise(WHITE, cell.floor() + 90, row) - 0.5) * (0.75 - 0.75 * blur).clamp(0, 0.5)
        return torch.maximum(_band(cell, blur, 0.05), _band(2 * y, 2 * blur, 0.1)), 1 + tone
    if name == "wood":
        plank = y.floor()
        grain = _noise(SMOOTH, x * 6 + plank * 77, y * 90 + plank * 31)
        tone = (_noise(WHITE, plank, plank + 9) - 0.5) * (0.6 - 0.6 * blur).clamp(0, 0.4)
        return (0.5 + 0.3 * grain).clamp(0, 1), (1 + tone) * (1 - 0.5 * _band(y, blur, 0.04))
    cell, row = x.floor(), (y * 0.2).floor()  # upright cells: backs of books, boards of a fence
    bright = 0.6 + 0.8 * _noise(WHITE, cell, row + 7)
    return _noise(WHITE, cell + 40, row), bright * (1 - 0.4 * _band(x, blur, 0.12))


def _texture(kind: Tensor, a, b, rate, phase, blur: Tensor) -> tuple[Tensor, Tensor]:
    """Mix of two colours 0..1 and a brightness factor, at a, b metres, all (n,)."""
    mix = torch.zeros_like(a)
    bright = 1 + 0.04 * _noise(SMOOTH, a * 120 + phase * 999, b * 120 + phase * 555)  # grain
    where = torch.stack([a * rate + phase, b * rate + phase, blur * rate])  # (3, n) in repeats
    for number, name in enumerate(TEXTURES[1:], 1):  # plain has no pattern
        at = (kind == number).nonzero()[:, 0]
        if len(at):
            share, factor = _pattern(name, *where.index_select(1, at))
            mix.index_copy_(0, at, share)
            bright.index_copy_(0, at, bright.index_select(0, at) * factor)
    return mix, bright
