"""What surfaces look like: their normal, and colours from stripes, bricks, wood, leaves and noise.

Patterns are functions of metres on the surface, so that a picture of any size shows the same; one
too fine for the distance between rays fades to its mean. Noise comes from a table that repeats.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from evalib.trace import BOX, TUBE, View


@dataclass
class Surface:
    """What n rays meet: `point`, `normal`, `colour` as lists of three (n,), `glow` (n,)."""

    point: list[Tensor]
    normal: list[Tensor]
    colour: list[Tensor]
    glow: Tensor


def surface(view: View, part: Tensor, u: Tensor, v: Tensor, z: Tensor, across: int) -> Surface:
    """Point, normal and colour where rays (u, v), each (n,), meet parts (n,) at z (n,) m."""
    row, kind = view.table[:34].index_select(1, part), view.kind.index_select(0, part)
    p = [row[i] + z * (row[3 + i] * u + row[6 + i] * v + row[9 + i]) for i in range(3)]
    size = [x.abs() for x in p]
    is_box, flat_y = kind == BOX, (size[1] >= size[0]) & (size[1] >= size[2])
    cap = (kind == TUBE) & (size[1] > 0.9999)
    on_x = (size[0] > size[2]) & ~flat_y
    keep = [~is_box | on_x, ~is_box | flat_y, ~is_box | ~(on_x | flat_y)]
    keep = [keep[0] & ~cap, keep[1] & ((kind != TUBE) | cap), keep[2] & ~cap]
    g = [x * k for x, k in zip(p, keep, strict=True)]
    normal = [sum(row[12 + 3 * i + j] * g[j] for j in range(3)) for i in range(3)]
    length = 1 / (sum(x * x for x in normal)).sqrt().clamp(min=1e-9)
    normal = [x * length for x in normal]
    eye, basis, tan = view.camera.eye, view.camera.axes, view.camera.tan
    ray = [basis[2, i] + u * (tan * basis[0, i]) + v * (tan * basis[1, i]) for i in range(3)]
    point = [z * ray[i] + eye[i] for i in range(3)]
    q = [p[i] * row[21 + i] for i in range(3)]  # metres from the part's middle
    a = torch.where(on_x, q[2], q[0])
    b = torch.where(flat_y, q[2], q[1])
    facing = -sum(ray[i] * normal[i] for i in range(3)) / sum(x * x for x in ray).sqrt()
    blur = z * (2 * tan / across) / facing.clamp(min=0.1)  # metres between neighbouring rays
    mix, gain = texture(row[30].long(), a, b, row[31], row[32], blur)
    colour = [(row[24 + i] + mix * (row[27 + i] - row[24 + i])) * gain for i in range(3)]
    return Surface(point, normal, colour, row[33])


@lru_cache(maxsize=4)
def noise(device: str, side: int = 512) -> Tensor:
    """(2, side * side) tables that repeat: smooth many-scale noise about 0 (std 1), white 0..1."""
    rng = np.random.Generator(np.random.Philox(key=7))
    total = np.zeros((side, side))
    for cells in (8, 16, 32, 64, 128):
        grain = np.pad(rng.random((cells, cells)) - 0.5, ((0, 1), (0, 1)), mode="wrap")
        at = np.arange(side) * cells / side
        i, f = at.astype(int), at % 1
        f = f * f * (3 - 2 * f)
        rows = grain[i] * (1 - f[:, None]) + grain[i + 1] * f[:, None]
        total += (rows[:, i] * (1 - f) + rows[:, i + 1] * f) * (8 / cells) ** 0.6
    both = np.stack([total / total.std(), rng.random((side, side))]).reshape(2, -1)
    return torch.from_numpy(both.astype(np.float32)).to(device)


def _at(table: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Look up a square table, that repeats, at whole coordinates."""
    side = int(len(table) ** 0.5)
    return table.take((a.long() & (side - 1)) * side + (b.long() & (side - 1)))


def clouds(x: Tensor, y: Tensor) -> Tensor:
    """Drifts of noise, about 1 long: two turned layers, whose sum repeats too far off to notice."""
    table, x, y = noise(str(x.device))[0], x * 64, y * 64
    return _at(table, x, y) + 0.7 * _at(table, x * 0.4 - y * 0.13, x * 0.13 + y * 0.4)


def _white(like: Tensor) -> Tensor:
    return noise(str(like.device))[1]


def _wave(x: Tensor, blur: Tensor) -> Tensor:
    """Square wave 0..1 with period 1 whose edges are as wide as `blur` periods."""
    wave = (((x - x.floor() - 0.5).abs() - 0.25) / blur.clamp(min=0.02) + 0.5).clamp(0, 1)
    return 0.5 + (wave - 0.5) * (1.6 - 1.6 * blur).clamp(0, 1)  # grey when too fine to see


def _joint(x: Tensor, blur: Tensor, width: float) -> Tensor:
    """1 within `width` of a period around whole numbers, 0 elsewhere, edges as wide as `blur`."""
    away = 0.5 - (x - x.floor() - 0.5).abs()
    sharp = ((width / 2 - away) / blur.clamp(min=0.02) + 0.5).clamp(0, 1)
    return width + (sharp - width) * (1.6 - 1.6 * blur).clamp(0, 1)


# Patterns: at x, y in repeats, with `blur` repeats between neighbouring rays, all (n,), how much of
# colour b, and how bright.


def _stripes(x: Tensor, y: Tensor, blur: Tensor) -> tuple[Tensor, Tensor | float]:
    return _wave(y, blur), 1.0


def _checks(x: Tensor, y: Tensor, blur: Tensor) -> tuple[Tensor, Tensor | float]:
    return (_wave(x, blur) - _wave(y, blur)).abs(), 1.0


def _bricks(x: Tensor, y: Tensor, blur: Tensor) -> tuple[Tensor, Tensor | float]:
    row = (2 * y).floor()
    cell = x + row * 0.5
    tone = (_at(_white(x), cell.floor() + 90, row) - 0.5) * (0.75 - 0.75 * blur).clamp(0, 0.5)
    return torch.maximum(_joint(cell, blur, 0.05), _joint(2 * y, 2 * blur, 0.1)), 1 + tone


def _mottled(x: Tensor, y: Tensor, blur: Tensor) -> tuple[Tensor, Tensor | float]:
    return (0.5 + 0.3 * clouds(x, y)).clamp(0, 1), 1.0


def _wood(x: Tensor, y: Tensor, blur: Tensor) -> tuple[Tensor, Tensor | float]:
    plank = y.floor()
    grain = _at(noise(str(x.device))[0], x * 6 + plank * 77, y * 90 + plank * 31)
    tone = (_at(_white(x), plank, plank + 9) - 0.5) * (0.6 - 0.6 * blur).clamp(0, 0.4)
    return (0.5 + 0.3 * grain).clamp(0, 1), (1 + tone) * (1 - 0.5 * _joint(y, blur, 0.04))


def _cells(x: Tensor, y: Tensor, blur: Tensor) -> tuple[Tensor, Tensor | float]:
    """Upright strips of many tones: the backs of books, boards of a fence."""
    cell, row = x.floor(), (y * 0.2).floor()
    bright = 0.6 + 0.8 * _at(_white(x), cell, row + 7)
    return _at(_white(x), cell + 40, row), bright * (1 - 0.4 * _joint(x, blur, 0.12))


def _leaves(x: Tensor, y: Tensor, blur: Tensor) -> tuple[Tensor, Tensor | float]:
    mix = (0.5 + 0.5 * clouds(x * 2.8, y * 2.8)).clamp(0, 1)
    return mix, 0.4 + 0.9 * mix


PATTERNS = {"plain": None, "stripes": _stripes, "checks": _checks, "bricks": _bricks,
            "noise": _mottled, "wood": _wood, "cells": _cells, "leaves": _leaves}  # fmt: skip
TEXTURES = tuple(PATTERNS)


def texture(
    kind: Tensor, a: Tensor, b: Tensor, rate: Tensor, phase: Tensor, blur: Tensor
) -> tuple[Tensor, Tensor]:
    """Mix of two colours 0..1 and a brightness factor, at a, b metres, all (n,).

    kind: index into TEXTURES; rate: repeats per metre; blur: metres between neighbouring rays.
    """
    grain = _at(noise(str(a.device))[0], a * 120 + phase * 999, b * 120 + phase * 555)
    mix, bright = torch.zeros_like(a), 1 + grain * 0.04
    x, y, blur = a * rate + phase, b * rate + phase, blur * rate
    for number, pattern in enumerate(PATTERNS.values()):
        at = (kind == number).nonzero()[:, 0]
        if pattern and len(at):
            share, factor = pattern(*(c.index_select(0, at) for c in (x, y, blur)))
            mix.index_copy_(0, at, share)
            bright.index_copy_(0, at, bright.index_select(0, at) * factor)
    return mix, bright
