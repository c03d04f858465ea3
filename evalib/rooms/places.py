"""Where the pictures are taken: furnished rooms, offices and halls, yards and streets.

A place is parts, a camera, a light and the floor one can stand on, drawn from (seed, number) alone.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from evalib.rooms import furniture, objects
from evalib.rooms.builder import Builder, about_y, chance, paint
from evalib.rooms.rays import Pinhole

KINDS = ("living", "office", "yard", "bedroom", "street")
KINDS += ("living", "hall", "street", "office", "yard")
MORE = 10_000  # from this number on there are more kinds; the places before stay as they are
NIGHT = 0.08  # of these have a quarter of the light, and more noise
LEFT = 0.1  # of these had something in the empty shot that is there no more, and so is not new
MORE_KINDS = ("living", "office", "yard", "table", "street", "bedroom", "class", "living")
MORE_KINDS += ("yard", "street", "corridor", "office", "above", "living", "table", "street")
MORE_KINDS += ("bedroom", "yard", "ceiling", "hall")
GLASS = paint([0.04, 0.05, 0.07], [0.3, 0.36, 0.45], "noise", 0.4)


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


@lru_cache(maxsize=64)
def build(seed: int, bg: int) -> Place:
    """Background `bg`, the same at every call; kinds go with bg // 5, so both splits have all."""
    s = Builder(np.random.Generator(np.random.Philox(key=[seed + 2**32, bg])))
    kind = kind_of(bg)
    if kind == "table":
        return table_top(s)
    if kind in ("yard", "street", "above"):
        above = kind == "above"
        return open_place(
            s, street=s.maybe(0.7) if above else kind == "street", above=above, more=bg >= MORE
        )
    return room(s, kind, more=bg >= MORE)


def kind_of(bg: int) -> str:
    kinds = KINDS if bg < MORE else MORE_KINDS
    return kinds[(bg // 5) % len(kinds)]


def night(seed: int, bg: np.ndarray) -> np.ndarray:
    """(B,) bool: which of the places `bg` (B,) are seen by night."""
    return (bg >= MORE) & (chance(seed, bg, "night", 1)[:, 0] < NIGHT)


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
    pitch = s.pick(s.u(0.25, 0.7), s.u(0.5, 1.1), s.u(1.1, 1.57))
    away = s.u(0.45, 1.3)  # from the middle of the table
    yaw = s.u(-0.25, 0.25)
    eye = (
        -away * np.cos(pitch) * np.sin(yaw),
        away * np.sin(pitch),
        deep - away * np.cos(pitch) * np.cos(yaw),
    )
    camera = Pinhole.aim(eye, yaw, pitch, s.u(-0.06, 0.06), s.u(0.4, 0.75))
    share, tint = s.u(0.25, 0.7), np.array([1, s.u(0.8, 1), s.u(0.6, 1.0)])
    sky = (1 - share) * (0.6 + 0.4 * np.array([s.u(0.8, 1), 1, s.u(0.8, 1.1)]))
    bounce = 0.35 * sky + 0.3 * top[:3]
    light = Light(
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
    return Place(s.parts(), shell, 1.8, camera, light, limit=s.u(0.03, 0.16), nearest=0.12)


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


def somebody(s: Builder, rx: float, rz: float) -> None:
    """People and animals who were there all the time are not new."""
    s.pick(objects.standing, objects.standing, objects.sitting, objects.animal)(s)


def room(s: Builder, kind: str, more: bool) -> Place:
    """A box of a room, x in 0..wide, z in 0..deep, the camera near z = 0 looking in."""
    wide, deep, tall = s.u(3.2, 6.5), s.u(3.8, 8.5), s.u(2.35, 3.3)
    if kind == "corridor":
        wide, deep, tall = s.u(1.5, 2.6), s.u(7, 18), s.u(2.3, 3)
    if kind == "class":
        wide, deep, tall = s.u(5, 9), s.u(6, 10), s.u(2.6, 3.5)
    if kind == "hall":
        wide, deep, tall = s.pick(s.u(2.2, 3.2), s.u(6, 9)), s.u(7, 9.4), s.u(2.6, 4.5)
    floor, shell = _walls(s, wide, deep, tall)
    _furnish(s, kind, wide, deep)
    if more:
        for _ in range(s.pick(0, 0, 0, 1, 2)):
            s.stand(somebody, s.u(0.1, 0.9) * wide, s.u(0.25, 0.95) * deep, s.u(0, 6), 0.3, 0.3)
    eye = (s.u(0.2, 0.8) * wide, s.pick(s.u(1.1, 1.8), s.u(1.5, 1.8), tall - 0.25), s.u(0.15, 0.5))
    goal_x, goal_z = s.u(0.35, 0.65) * wide, s.u(0.5, 0.75) * deep
    yaw = np.arctan2(goal_x - eye[0], goal_z - eye[2])
    pitch = np.arctan2(eye[1] - s.u(0.5, 1), goal_z)
    camera = Pinhole.aim(eye, yaw, pitch, s.u(-0.03, 0.03), s.u(0.45, 0.85))
    if kind == "ceiling":
        eye = (s.u(0.3, 0.7) * wide, tall - s.u(0.1, 0.4), s.u(0.2, 0.6) * deep)
        camera = Pinhole.aim(eye, s.u(-0.5, 0.5), s.u(0.8, 1.57), s.u(-0.1, 0.1), s.u(0.6, 1.1))
    tint = np.array([1, s.u(0.8, 1), s.u(0.6, 1.0)])
    lamp = np.array([s.u(0.1, 0.9) * wide, tall - 0.1, s.u(0.25, 0.8) * deep])
    if s.maybe(0.35):  # daylight from a window
        lamp = np.array([s.pick(0.05, wide - 0.05), s.u(1.4, 2.2), s.u(0.3, 0.9) * deep])
        tint = np.array([s.u(0.85, 1), s.u(0.92, 1), 1])
    elif kind in ("office", "hall", "class", "corridor"):  # panels in the ceiling
        for x in (0.3, 0.7):
            for z in (0.3, 0.6, 0.9):
                s.box((x * wide, tall, z * deep), (0.3, 0.02, 0.3), paint(tint, glow=1.4))
    else:
        s.tube((lamp[0], tall, lamp[2]), (0.22, 0.05, 0.22), paint(tint, glow=1.4))
    share = s.u(0.3, 0.75)  # of the lamp in all the light
    sky = (1 - share) * (0.6 + 0.4 * np.array([s.u(0.8, 1), 1, s.u(0.8, 1.1)]))
    bounce = 0.35 * sky + 0.3 * floor[:3]
    light = Light(
        indoors=True,
        floor=np.array([0.05, wide - 0.05, 0.05, deep - 0.05]),
        blocks=np.array(s.blocks, float).reshape(-1, 4),
        lamp=lamp,
        soft=s.u(0.08, 0.3),
        direct=share * 1.9 * tint,
        bounce=bounce,
        rise=sky - bounce,
    )
    return Place(s.parts(), shell, 9.0, camera, light)


def _walls(s: Builder, wide: float, deep: float, tall: float) -> tuple:
    """Floor, ceiling, walls and what hangs on them; returns (the floor's paint, shell)."""
    wall = s.cover((0.2, 0.85), 0.35, ("plain", "plain", "plain", "noise", "stripes", "bricks"))
    kinds = ("wood", "wood", "noise", "noise", "checks", "plain", "bricks")
    floor, skirting = s.cover((0.05, 0.6), 0.4, kinds), s.tone(0.05, 0.8, vivid=0.2)
    x, y, z = wide / 2, tall / 2, deep / 2
    s.box((x, -0.5, z), (wide, 0.5, deep), floor)
    s.box((x, tall + 0.5, z), (wide, 0.5, deep), s.tone(0.45, 0.9, vivid=0.1))
    s.box((-0.5, y, z), (0.5, tall, deep), wall)
    s.box((wide + 0.5, y, z), (0.5, tall, deep), wall)
    s.box((x, y, -0.5), (wide, tall, 0.5), wall)
    s.box((x, y, deep + 0.5), (wide, tall, 0.5), s.pick(wall, wall, s.cover((0.1, 0.8), 0.7)))
    shell, day = len(s.rows), s.pick(0.05, 0.7, 1.2, 2.0)
    s.box((x, 0.04, deep), (x, 0.04, 0.015), skirting)
    for edge, yaw in ((0, np.pi / 2), (wide, -np.pi / 2)):
        s.box((edge, 0.04, z), (0.015, 0.04, z), skirting)
        for along in s.pick((0.6,), (0.4, 0.75), (0.5, 0.85)):
            what = s.pick(*furniture.ON_SIDES)
            if what:
                what(s.at(edge, along * deep, yaw), day)
    for along in s.pick((0.5,), (0.3, 0.7), (0.2, 0.5, 0.8)):
        what, x = s.pick(*furniture.AT_BACK), along * wide + s.u(-0.2, 0.2)
        if what:
            what(s.at(x, deep, np.pi), day)
    return floor, shell


def _furnish(s: Builder, kind: str, wide: float, deep: float) -> None:
    """Furniture along the walls, something in the middle, a rug, things lying about."""
    if kind == "class":
        columns, rows = s.pick(2, 3), s.pick(2, 3, 4)
        yaw = s.pick(0, np.pi)
        for i in range(columns):
            for k in range(rows):
                x, z = (i + 0.5) * wide / columns, deep * (0.25 + 0.6 * (k + 0.5) / rows)
                s.stand(furniture.school_desk, x, z, yaw + s.u(-0.05, 0.05), 0.6, 0.5)
    for _ in range(s.pick(1, 3, 6) if kind in ("hall", "corridor", "class") else s.pick(3, 5, 8)):
        make, side = s.pick(*furniture.USUAL[kind]), s.pick("back", "left", "right")
        rx, rz = (x * s.u(0.85, 1.25) for x in furniture.SIZES[make])
        if side == "back":
            s.stand(make, s.u(rx, max(wide - rx, rx)), deep - rz - 0.05, np.pi, rx, rz)
        else:
            x, yaw = (rz + 0.05, np.pi / 2) if side == "left" else (wide - rz - 0.05, -np.pi / 2)
            s.stand(make, x, s.u(0.3, 1.0) * (deep - rx), yaw, rx, rz)
    x, z = s.u(0.35, 0.65) * wide, s.u(0.4, 0.65) * deep
    if s.maybe(0.5):
        tex = s.pick("stripes", "checks", "noise")
        rug = paint(s.colour(vivid=0.9), s.colour(vivid=0.8), tex, s.u(1, 4))
        s.box((x, 0.005, z), (s.u(0.7, 1.3), 0.006, s.u(0.7, 1.6)), rug, about_y(s.u(-0.2, 0.2)))
    if kind not in ("hall", "corridor", "class") and s.maybe(0.55):
        s.stand(furniture.table, x, z, s.u(-0.3, 0.3), s.u(0.35, 0.7), s.u(0.3, 0.45))
    for make in s.pick(*furniture.LOOSE):
        s.stand(make, x + s.u(-1.3, 1.3), z + s.u(-1, 1.2), s.u(0, 6), 0.25, 0.25)


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
            s.stand(somebody, x, z, s.u(0, 6), 0.3, 0.3)
    pitch = np.arctan2(high - s.u(0.4, 1.2), look)
    camera = Pinhole.aim((0, high, 0), s.u(-0.15, 0.15), pitch, s.u(-0.03, 0.03), tan)
    sunny, angle, height = s.maybe(0.55), s.u(0, 2 * np.pi), s.u(0.5, 1.3)
    level = np.cos(height)
    sky = np.array([0.36, 0.41, 0.52]) if sunny else np.full(3, 0.9)
    bounce = 0.3 * sky + 0.4 * tone
    zenith = np.array([0.3, 0.5, 0.95]) if sunny else np.full(3, 0.85)
    light = Light(
        indoors=False,
        floor=np.array([-25, 25, 0.5, far + 6]),
        blocks=np.array(s.blocks, float).reshape(-1, 4),
        lamp=60 * np.array([np.cos(angle) * level, np.sin(height), np.sin(angle) * level]),
        soft=0.02 if sunny else 0.4,
        direct=(1.3 if sunny else 0.25) * np.array([1, 0.95, 0.85]),
        bounce=bounce,
        rise=sky - bounce,
        haze=np.full(3, 1.1),
        fade=zenith - 1.1,
    )
    reach = 1.5 * np.hypot(high, far) if above else 2.2 * look
    return Place(s.parts(), shell, reach, camera, light, limit=np.inf)


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
