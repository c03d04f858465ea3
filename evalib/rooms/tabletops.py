"""Tables, benches and boxes, half a metre away."""

import numpy as np

from evalib.rooms.builder import Builder, Light, Place
from evalib.rooms.rays import Pinhole


def table_top(s: Builder) -> Place:
    """The top of a table, a bench or a box with small things on it, half a metre away: y is 0 on
    it, and the floor of the room is below."""
    wide, deep, floor = s.u(0.3, 0.9), s.u(0.25, 0.6), -s.u(0.4, 0.95)
    kinds = ("plain", "plain", "wood", "noise", "stripes", "checks")
    top = fine(s.cover((0.05, 0.8), 0.4, kinds), 3)
    s.box((0, -0.02, deep), (wide, 0.02, deep), top)
    s.box((0, floor - 0.5, 2), (8, 0.5, 8), s.cover((0.05, 0.6), 0.4))
    back = 2 * deep + s.pick(0.02, s.u(0.02, 0.5), s.u(0.5, 4))
    wall = s.cover((0.2, 0.85), 0.35, ("plain", "plain", "noise", "stripes", "bricks"))
    s.box((0, 1, back + 0.5), (8, 4, 0.5), wall)
    for side in (-1, 1):
        s.box((side * (wide + s.u(0.05, 3) + 0.5), 1, 2), (0.5, 4, 8), wall)
    shell = len(s.rows)
    if s.maybe(0.25):  # a box or a tray, seen from above
        h, rim = s.u(0.05, 0.35), s.cover()
        for x in (-wide, wide):
            s.box((x, h / 2, deep), (0.012, h / 2, deep), rim)
        for z in (0.012, 2 * deep):
            s.box((0, h / 2, z), (wide, h / 2, 0.012), rim)
    for _ in range(s.pick(0, 2, 5, 9)):
        r = s.u(0.02, 0.09)
        s.stand(clutter, s.u(-0.95, 0.95) * wide, s.u(0.1, 1.9) * deep, s.u(0, 6), r, r)
    if s.maybe(0.3):
        s.box((0, 1.2, back - 0.01), (s.u(0.2, 0.8), s.u(0.2, 0.5), 0.012), s.bright())
    camera = _camera(s, deep)
    light = _light(s, wide, deep, top)
    return Place(s.parts(), shell, 1.8, camera, light, limit=s.u(0.03, 0.16), nearest=0.12)


def _camera(s: Builder, deep: float) -> Pinhole:
    """Before the table, looking down on its middle; or right above."""
    pitch = s.pick(s.u(0.25, 0.7), s.u(0.5, 1.1), s.u(1.1, 1.57))
    away = s.u(0.45, 1.3)  # from the middle of the table
    yaw = s.u(-0.25, 0.25)
    eye = (
        -away * np.cos(pitch) * np.sin(yaw),
        away * np.sin(pitch),
        deep - away * np.cos(pitch) * np.cos(yaw),
    )
    return Pinhole.aim(eye, yaw, pitch, s.u(-0.06, 0.06), s.u(0.4, 0.75))


def _light(s: Builder, wide: float, deep: float, top: np.ndarray) -> Light:
    """A lamp above or beside; top: the table's paint."""
    share, tint = s.u(0.25, 0.7), np.array([1, s.u(0.8, 1), s.u(0.6, 1.0)])
    sky = (1 - share) * (0.6 + 0.4 * np.array([s.u(0.8, 1), 1, s.u(0.8, 1.1)]))
    bounce = 0.35 * sky + 0.3 * top[:3]
    return Light(
        indoors=False,
        floor=np.array([-wide, wide, 0.02, 2 * deep]),
        blocks=np.array(s.blocks, float).reshape(-1, 4),
        lamp=np.array([s.u(-1.5, 1.5), s.u(0.7, 1.9), deep + s.u(-1.2, 1.2)]),
        soft=s.u(0.05, 0.4),
        direct=share * 1.7 * tint,
        bounce=bounce,
        rise=sky - bounce,
        haze=np.full(3, 0.2),
        fade=np.full(3, -0.1),
    )


def fine(cover: np.ndarray, times: float) -> np.ndarray:
    """The same paint with a pattern so many times as fine."""
    out = cover.copy()
    out[7] *= times
    return out


def clutter(s: Builder, rx: float, rz: float) -> None:
    """A cup, a box, a bottle, a ball, a book: something of 2 r."""
    h = rx * s.pick(0.15, s.u(0.5, 1.2), s.u(1, 2.5))
    how = s.pick(s.box, s.tube, s.tube, s.ball)
    how((0, h, 0), (rx, h, rz * s.u(0.5, 1)), fine(s.bright(), 6))
