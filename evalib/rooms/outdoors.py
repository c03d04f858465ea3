"""Yards and streets, at eye level or from above."""

import numpy as np

from evalib.rooms import furniture, objects
from evalib.rooms.builder import Builder, Light, Place, paint
from evalib.rooms.rays import Pinhole

GLASS = paint([0.04, 0.05, 0.07], [0.3, 0.36, 0.45], "noise", 0.4)


def open_place(s: Builder, street: bool, above: bool, more: bool) -> Place:
    """Ground, sky and what stands about: a yard with bushes and a fence, a street with facades."""
    high = s.pick(s.u(1.4, 1.9), s.u(1.4, 1.9), s.u(2.2, 4), s.u(4, 7))  # a hand, a pole, a house
    look = s.u(4, 10) if high < 2 else high * s.u(1.6, 3.5)  # where the picture's middle is
    if above:
        high = s.u(3.5, 12)
        look = high * s.pick(s.u(0.05, 0.4), s.u(0.4, 1.3))
    tan = np.clip(0.85 / (look * s.u(0.12, 0.5)), 0.22, 0.75)  # a person there fills 12 to 50 %
    if above:
        tan = np.clip(0.85 / (np.hypot(high, look) * s.u(0.1, 0.4)), 0.25, 0.8)
    far = (look + high * tan * above) * s.u(1.2, 2.6)
    grass = s.u(0.1, 0.3) * np.array([s.u(0.6, 1.1), 1, 0.5])
    tone = s.colour((0.08, 0.4), 0.15) if street else grass
    tex = s.pick("noise", "noise", "bricks", "checks") if street else s.pick("noise", "leaves")
    ground = paint(tone, tone * s.u(0.6, 0.95), tex, s.u(0.7, 3), s.u(0, 50))
    s.box((0, -0.5, 40), (120, 0.5, 120), ground)
    if s.maybe(0.85 if street else 0.4):
        _road(s.at(s.u(-2, 2), far * s.u(0.3, 0.8), s.pick(0, 0, np.pi / 2) + s.u(-0.4, 0.4)))
    shell = len(s.rows)
    for side in (-1, 1):
        if street and s.maybe(0.5):
            x = side * s.u(4, 11)
            _facade(s.at(x, 15, -side * np.pi / 2), 16, s.u(3, 9))
            s.blocks.append((x - 1.2, x + 1.2, -5, 40))
    if s.maybe(0.8 if street else 0.45):
        _facade(s.at(s.u(-3, 3), far + 1, np.pi + s.u(-0.25, 0.25)), s.u(5, 18), s.u(2.5, 10))
        s.blocks.append((-30, 30, far - 0.6, far + 8))
    for _ in range(s.pick(2, 4, 6)):
        s.stand(furniture.tree, s.u(-1.2, 1.2) * far, far + s.u(0, 6), 0, 0.5, 0.5)
    if s.maybe(0.3 if street else 0.8):
        _border(s, far * s.u(0.7, 0.95))
    for _ in range(s.pick(2, 4, 7)):
        x, z = s.u(-0.6, 0.6) * far * min(1, 1.5 * tan), s.u(0.3, 0.95) * far
        make, rx, rz = s.pick(*furniture.OUTSIDE)
        s.stand(make, x, z, s.u(-0.5, 0.5), rx, rz)
    if more:
        for _ in range(s.pick(0, 0, 0, 1, 3)):
            x, z = s.u(-0.6, 0.6) * far * min(1, 1.5 * tan), s.u(0.3, 0.95) * far
            s.stand(objects.somebody, x, z, s.u(0, 6), 0.3, 0.3)
    pitch = np.arctan2(high - s.u(0.4, 1.2), look)
    camera = Pinhole.aim((0, high, 0), s.u(-0.15, 0.15), pitch, s.u(-0.03, 0.03), tan)
    light = _daylight(s, np.array([-25, 25, 0.5, far + 6]), tone)
    reach = 1.5 * np.hypot(high, far) if above else 2.2 * look
    return Place(s.parts(), shell, reach, camera, light, limit=np.inf)


def _daylight(s: Builder, floor: np.ndarray, tone: np.ndarray) -> Light:
    """Sun or clouds, and what the ground of colour `tone` throws back."""
    sunny, angle, height = s.maybe(0.55), s.u(0, 2 * np.pi), s.u(0.5, 1.3)
    level = np.cos(height)
    sky = np.array([0.36, 0.41, 0.52]) if sunny else np.full(3, 0.9)
    bounce = 0.3 * sky + 0.4 * tone
    zenith = np.array([0.3, 0.5, 0.95]) if sunny else np.full(3, 0.85)
    return Light(
        indoors=False,
        floor=floor,
        blocks=np.array(s.blocks, float).reshape(-1, 4),
        lamp=60 * np.array([np.cos(angle) * level, np.sin(height), np.sin(angle) * level]),
        soft=0.02 if sunny else 0.4,
        direct=(1.3 if sunny else 0.25) * np.array([1, 0.95, 0.85]),
        bounce=bounce,
        rise=sky - bounce,
        haze=np.full(3, 1.1),
        fade=zenith - 1.1,
    )


def _road(s: Builder) -> None:
    """A strip along x with kerbs and markings."""
    half, dark = s.u(1.5, 3.5), s.u(0.05, 0.2)
    s.box((0, 0.005, 0), (70, 0.006, half), paint(dark, np.full(3, dark * 0.8), "noise", 3))
    for z in (-half, half):
        s.box((0, 0.04, z), (70, 0.05, 0.1), s.grey(0.2, 0.5))
    for x in np.arange(-20, 20) * 2.5 if s.maybe(0.7) else ():
        s.box((x, 0.008, 0), (0.7, 0.008, 0.07), paint(0.6))


def _facade(s: Builder, rx: float, h: float) -> None:
    """A house front 2 rx wide and h high, with a base, windows and doors."""
    wall = s.cover((0.12, 0.7), 0.45, ("plain", "bricks", "noise", "bricks"))
    frame, wide, tall = s.tone(0.2, 0.8, vivid=0.3), s.u(0.35, 0.9), s.u(0.5, 0.9)
    s.box((0, h / 2, -1), (rx, h / 2, 1), wall)
    s.box((0, 0.25, -1), (rx, 0.25, 1.03), paint(wall[:3] * 0.6))
    for x in np.arange(-rx + 1, rx - 0.7, wide * 2 + s.u(0.5, 2)):
        for y in np.arange(1.6, h - 0.8, 2.8)[:2]:
            if y < 2 and s.maybe(0.15):
                furniture.door(s.at(x, 0))
            else:
                s.box((x, y, 0.0), (wide + 0.06, tall + 0.06, 0.03), frame)
                s.box((x, y, 0.0), (wide, tall, 0.05), GLASS)


def _border(s: Builder, z: float) -> None:
    """A hedge or a fence across."""
    if s.maybe(0.6):
        for i in range(-5, 6):
            s.stand(furniture.bush, i * 1.5 + s.u(-0.4, 0.4), z, 0, 0.7, 0.7)
    else:
        h, cover = s.u(0.4, 0.9), s.cover((0.1, 0.6), 0.4, ("cells", "wood", "bricks", "stripes"))
        s.box((0, h, z), (30, h, 0.05), cover)
        s.blocks.append((-30, 30, z - 0.2, z + 0.2))
