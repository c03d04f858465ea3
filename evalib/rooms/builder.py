"""Putting things together from boxes, balls and tubes, with chance for shapes and colours."""

import math
from collections.abc import Sequence
from copy import copy
from functools import partialmethod
from typing import NamedTuple

import numpy as np

from evalib import rng
from evalib.rooms.rays import BALL, BOX, PART, TUBE, Pinhole, times
from evalib.rooms.surfaces import TEXTURES


def about_y(angle: float) -> np.ndarray:
    """(3, 3) turn that takes +z towards +x by `angle` radians."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def chance(seed: int, keys: Sequence[int], name: str, n: int) -> np.ndarray:
    """(B, n) float64 in [0, 1), a function of seed, key and name."""
    return rng.uniform(rng.sample_keys(seed, 0, keys), name, 0, 1, n).astype(float)


def paint(a, b=None, tex: str = "plain", rate: float = 1.0, phase: float = 0.0, glow: float = 0.0):
    """(10,) paint: linear colours a and b, texture, repeats per metre, phase, own light."""
    out = np.empty(10)
    out[:3] = a
    out[3:6] = out[:3] * 0.55 if b is None else b
    out[6:] = TEXTURES.index(tex), rate, phase, glow
    return out


UPRIGHT = np.eye(3)


class Builder:
    """Collects parts, in metres, y up, and `blocks` (x0, x1, z0, z1) of what stands in the way."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.rows = []
        self.blocks = []
        self.turn = UPRIGHT
        self.origin = np.zeros(3)

    def at(self, x: float, z: float, yaw: float = 0.0, y: float = 0.0) -> "Builder":
        """The same builder with parts placed relative to a point and a heading."""
        other = copy(self)
        other.turn = times(self.turn, about_y(-yaw)).T
        other.origin = self.origin + times(self.turn, np.array([x, y, z]))
        return other

    def add(self, kind: int, centre, half, paint: np.ndarray, turn=UPRIGHT) -> None:
        self.rows.append((kind, centre, half, turn, paint, self.turn, self.origin))

    ball, box, tube = partialmethod(add, BALL), partialmethod(add, BOX), partialmethod(add, TUBE)

    def limb(self, start, end, radius: float, paint: np.ndarray, kind: int = BALL) -> None:
        """A long ball (or tube) from start to end; balls reach a little beyond both."""
        way = [b - a for a, b in zip(start, end, strict=True)]
        middle = [(a + b) / 2 for a, b in zip(start, end, strict=True)]
        length = math.hypot(*way)
        a, b, c = (w / length for w in way)
        side = (b, -a, 0.0) if abs(c) < 0.9 else (0.0, c, -b)  # across it, level or nearly so
        x, y, z = (w / math.hypot(*side) for w in side)
        turn = np.array([[x, a, y * c - z * b], [y, b, z * a - x * c], [z, c, x * b - y * a]])
        half = (radius, length / 2 + (radius * 0.6 if kind == BALL else 0), radius)
        self.add(kind, middle, half, paint, turn)

    def legs(self, x: float, z: float, height: float, radius: float, paint: np.ndarray) -> None:
        """Four, under the corners at -x..x, -z..z."""
        for i, k in ((-x, -z), (-x, z), (x, -z), (x, z)):
            self.tube((i, height / 2, k), (radius, height / 2, radius), paint)

    def stand(self, make, x: float, z: float, yaw: float, rx: float, rz: float) -> None:
        """Put something of half sizes rx, rz (before turning) there, unless the place is taken."""
        c, s = abs(math.cos(yaw)), abs(math.sin(yaw))
        x0, x1 = x - rx * c - rz * s, x + rx * c + rz * s
        z0, z1 = z - rx * s - rz * c, z + rx * s + rz * c
        taken = any(x0 <= b[1] and b[0] <= x1 and z0 <= b[3] and b[2] <= z1 for b in self.blocks)
        if not taken:
            self.blocks.append((x0, x1, z0, z1))
            make(self.at(x, z, yaw), rx, rz)

    def parts(self) -> np.ndarray:
        """(n,) PART."""
        kind, centre, half, turn, paint, frame, origin = map(np.array, zip(*self.rows, strict=True))
        parts = np.empty(len(kind), PART)
        parts["kind"] = kind
        parts["centre"] = times(frame, centre) + origin
        parts["half"] = np.maximum(half, 1e-3)
        parts["turn"] = times(frame[:, None], turn.swapaxes(1, 2)).swapaxes(1, 2)
        parts["paint"] = paint
        return parts

    def u(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def maybe(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, *options):
        return options[int(self.rng.random() * len(options))]

    def colour(self, value=(0.04, 0.8), vivid: float = 0.6) -> np.ndarray:
        """(3,) linear RGB; mostly dull and warm (or blue), as real surfaces are."""
        hues = self.u(-0.17, -0.02), self.u(-0.13, -0.05), self.u(0.28, 0.42), self.u(0, 1)
        hue = self.pick(*hues)
        grey = 1 - vivid * self.rng.random() ** 1.5
        bright = self.u(*value)
        wheel = [0.5 + 0.5 * math.cos(2 * math.pi * (hue + third / 3)) for third in range(3)]
        return np.array([bright * (grey + (1 - grey) * share) for share in wheel])

    def tone(self, *value: float, vivid: float = 0.6) -> np.ndarray:
        """Plain paint."""
        return paint(self.colour(value or (0.04, 0.8), vivid))

    def grey(self, low: float = 0.02, high: float = 0.6) -> np.ndarray:
        return paint(self.u(low, high))

    def bright(self) -> np.ndarray:
        """Paint of small things: two vivid colours, any pattern."""
        tex = self.pick("plain", "noise", "cells", "checks", "stripes", "leaves")
        colours = self.colour(vivid=1), self.colour(vivid=1)
        return paint(*colours, tex, self.u(1, 9), self.u(0, 90))

    def cover(self, value=(0.06, 0.7), vivid: float = 0.5, kinds: tuple = ()) -> np.ndarray:
        """Paint of a wall, a floor or a piece of furniture, in two neighbouring tones."""
        tex = self.pick(*(kinds or ("plain", "noise", "stripes", "wood", "wood")))
        rates = {"noise": (0.5, 4), "wood": (2, 8), "bricks": (2, 5), "leaves": (1, 3)}
        a = self.colour(value, vivid)
        if tex == "wood" and self.maybe(0.75):
            a = self.u(0.12, 1.2) * np.array([0.5, 0.3, 0.16]) + self.u(0, 0.1)
        other = self.colour(value, vivid) * 0.4 + a * 0.6
        b = self.pick(a * self.u(0.5, 0.9), a * self.u(0.8, 0.95), other)
        return paint(a, b, tex, self.u(*rates.get(tex, (1.5, 8))), self.u(0, 50))

    def cloth(self) -> np.ndarray:
        """Plain, striped, checked or mottled cloth; one in four is dark."""
        value = (0.015, 0.06) if self.maybe(0.25) else (0.04, 0.75)
        tex = self.pick("plain", "plain", "stripes", "checks", "noise")
        rate = self.u(1, 4) if tex == "noise" else self.u(3, 14)
        colours = self.colour(value, 0.9), self.colour((0.03, 0.75), 0.9)
        return paint(*colours, tex, rate, self.u(0, 9))


class Light(NamedTuple):
    """What lights a place, and what stands in its way; colours are (3,) linear RGB."""

    indoors: bool
    floor: np.ndarray  # (4,) m, x0, x1, z0, z1 where one can stand
    blocks: np.ndarray  # (k, 4) m, x0, x1, z0, z1 of furniture
    lamp: np.ndarray  # (3,) m, where it is
    soft: float  # its radius over its distance
    direct: np.ndarray  # its light
    bounce: np.ndarray  # light from below
    rise: np.ndarray  # from there to light from above
    haze: np.ndarray = np.zeros(3)  # the visible sky at the horizon
    fade: np.ndarray = np.zeros(3)  # from there to the zenith


class Place(NamedTuple):
    """One background."""

    parts: np.ndarray  # (n,) PART
    shell: int  # so many parts come first that throw no shadows: ground and walls
    reach: float  # how far off objects may be, m
    camera: Pinhole
    light: Light
    limit: float = 0.65  # m, half of the largest thing here: in a room a car is a child's
    nearest: float = 0.5  # m, of things
