"""What can come into a picture: people, sitting people, animals, vehicles and household things.

A new kind goes here. An object is a handful of parts with its feet at y = 0, facing +z, drawn from
(seed, number) alone.
"""

from functools import lru_cache

import numpy as np

from evalib.rooms.builder import Builder, about_y, paint
from evalib.rooms.rays import TUBE, times

ASIDE = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]])  # turns a tube's axis from y to x


@lru_cache(maxsize=8192)  # 3 kB each
def build(seed: int, fg: int, limit: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
    """Object `fg`, the same at every call: its parts; half width, height and half depth (3,) in m.

    Shrunk to `limit` m of half width and depth. (fg // 5) % 5 is its family: both splits have all.
    """
    s = Builder(np.random.Generator(np.random.Philox(key=[seed + 1, fg])))
    FAMILIES[(fg // 5) % 5](s)
    p = s.parts()
    reach = times(np.abs(p["turn"]), p["half"])
    size = np.maximum(p["centre"] + reach, np.abs(p["centre"] - reach)).max(0)
    scale = min(1, limit / max(size[0], size[2]))
    p["centre"] *= scale
    p["half"] *= scale
    if limit < 0.3:  # a toy has a toy's patterns
        p["paint"][:, 7] /= scale
    return p, size * scale


def _upper_body(s: Builder, hip: float, shoulder: float, forward: float) -> tuple:
    """Chest, arms, neck, head and hair above a hip at z = 0; returns (wide, shirt)."""
    shirt, skin = s.cloth(), paint(s.u(0.12, 1.0) * np.array([0.65, 0.42, 0.30]) + 0.02)
    hair, wide = s.tone(0.01, 0.3), s.u(0.18, 0.26)
    mid, reach = (hip + shoulder) / 2, (shoulder - hip) / 2
    s.ball((0, mid + 0.06, 0), (wide, reach + 0.1, wide * 0.62), shirt)
    s.tube((0, mid - 0.04, 0), (wide * 0.82, reach * 0.9, wide * 0.55), shirt)
    s.tube((0, shoulder + 0.06, 0), (0.055, 0.09, 0.055), skin)
    s.ball((0, shoulder + 0.22, 0.02), (0.085, 0.12, 0.1), skin)
    s.ball((0, shoulder + 0.25, -0.015), (0.095, 0.115, 0.105), hair)
    if s.maybe(0.2):  # a hat
        s.tube((0, shoulder + 0.31, 0), (0.12, 0.03, 0.13), s.cloth())
    sleeve = s.pick(skin, shirt, shirt)
    for side in (-1, 1):
        swing = 0.3 * (forward + s.u(-0.25, 0.25))
        elbow = (side * (wide + s.u(0.04, 0.1)), shoulder - 0.3, swing)
        hand = (side * (wide + s.u(-0.05, 0.1)), shoulder - s.u(0.3, 0.58), swing + s.u(0, 0.25))
        s.limb((side * wide * 0.95, shoulder - 0.03, 0), elbow, 0.055, shirt)
        s.limb(elbow, hand, 0.043, sleeve)
        s.ball(hand, (0.045, 0.06, 0.045), skin)
    return wide, shirt


def _leg(s: Builder, hip, knee, foot, trousers: np.ndarray, shoe: np.ndarray) -> None:
    s.limb(hip, knee, 0.095, trousers)
    s.limb(knee, foot, 0.07, trousers)
    s.box((foot[0], foot[1] - 0.055, foot[2] + 0.05), (0.05, 0.045, 0.13), shoe)


def standing(s: Builder) -> None:
    """Somebody who stands or walks, perhaps with a bag, perhaps in a long coat or skirt."""
    hip, shoulder, stride = s.u(0.82, 0.95), s.u(1.36, 1.5), s.u(-0.35, 0.35)
    wide, shirt = _upper_body(s, hip, shoulder, s.u(-0.2, 0.6))
    trousers, shoe = s.cloth(), s.tone(0.01, 0.4)
    for x, step in ((-0.1, -stride), (0.1, stride)):
        _leg(s, (x, hip, 0), (x, 0.48, step / 2 + 0.04), (x, 0.1, step), trousers, shoe)
    if s.maybe(0.25):
        coat = s.pick(shirt, trousers)
        s.tube((0, hip - 0.12, 0), (wide * 0.9, s.u(0.2, 0.4), wide * 0.75), coat)
    if s.maybe(0.3):
        s.box((0, shoulder - 0.22, -wide * 0.75), (0.16, 0.22, 0.09), s.cloth())


def sitting(s: Builder) -> None:
    """Somebody on a chair, a stool or a box."""
    seat, trousers, shoe, wood = s.u(0.4, 0.55), s.cloth(), s.tone(0.01, 0.4), s.cover()
    _upper_body(s.at(0, -0.15), seat + 0.06, seat + s.u(0.5, 0.6), s.u(0.3, 0.9))
    for side in (-0.1, 0.1):
        knee = (side * s.u(1, 1.8), seat + 0.06, 0.3)
        _leg(s, (side, seat + 0.06, -0.12), knee, (knee[0], 0.1, s.u(0.2, 0.42)), trousers, shoe)
    s.box((0, seat - 0.06, -0.15), (0.22, 0.04, 0.22), wood)
    if s.maybe(0.6):
        s.box((0, seat + 0.25, -0.37), (0.22, 0.22, 0.025), wood)
    if s.maybe(0.7):
        s.at(0, -0.15).legs(0.19, 0.19, seat - 0.1, 0.02, wood)
    else:
        s.box((0, seat / 2 - 0.05, -0.15), (0.2, seat / 2 - 0.05, 0.2), wood)


def animal(s: Builder) -> None:
    """A cat, a dog, a sheep, a horse: one body plan at many sizes."""
    size, coat = s.pick(0.3, 0.4, 0.55, 0.7, 1.1), s.colour((0.02, 0.7), 0.4)
    other = s.pick(s.colour((0.02, 0.7), 0.3), coat * 0.4, coat * 0.6)
    fur = paint(coat, other, s.pick("noise", "noise", "leaves", "stripes"), s.u(2, 5) / size)
    long, fat = s.u(0.5, 0.75) * size, s.u(0.17, 0.3) * size
    y = s.u(0.45, 0.6) * size + fat * 0.5
    neck = (0, y + s.u(0.1, 0.5) * size, long * s.u(0.65, 0.8))
    head = s.u(0.09, 0.14) * size + 0.03
    s.ball((0, y, -0.12 * long), (fat, fat, long * 0.62), fur)
    s.ball((0, y + fat * 0.2, long * 0.32), (fat * 0.95, fat * 1.05, fat * 1.1), fur)
    s.ball(neck, (head, head, head * 1.2), fur)
    s.limb((0, y + fat * 0.3, long * 0.4), neck, fat * 0.55, fur)
    s.limb(neck, (0, neck[1] - head * 0.6, neck[2] + head * 1.8), head * 0.55, fur)
    for side in (-1, 1):
        ear = (head * 0.3, head * 0.7, head * 0.2)
        s.ball((side * head * 0.7, neck[1] + head, neck[2]), ear, fur)
        for z in (-0.55 * long, 0.35 * long):
            paw = (side * fat * 0.6, 0.03, z + s.u(-0.1, 0.1) * size)
            s.limb((side * fat * 0.6, y, z), paw, fat * 0.27, fur)
    tail = (0, y + s.u(-0.3, 0.5) * size, -long * s.u(0.9, 1.2))
    s.limb((0, y + fat * 0.3, -0.6 * long), tail, fat * 0.2, fur)


def _wheel(s: Builder, x: float, z: float, r: float, thick: float) -> None:
    s.tube((x, r, z), (r, thick, r), s.grey(0.01, 0.05), ASIDE)
    s.tube((x, r, z), (r * 0.55, thick + 0.01, r * 0.55), s.grey(0.2), ASIDE)


def car(s: Builder, *_: float) -> None:
    """A car or a van."""
    body = paint(s.colour((0.02, 0.8), 1.0), tex=s.pick("plain", "plain", "stripes"))
    glass, van = paint([0.03, 0.04, 0.05], [0.12, 0.15, 0.18], "noise", 0.6), s.maybe(0.3)
    wide, long, r = s.u(0.75, 0.95), s.u(1.7, 2.4), s.u(0.27, 0.36)
    tall, back = (s.u(0.8, 1.1), -0.2) if van else (s.u(0.5, 0.65), s.u(-0.35, -0.1))
    back, cabin = back * long, long * (0.75 if van else s.u(0.42, 0.55))
    s.box((0, r + 0.33, 0), (wide, 0.3, long), body)
    s.box((0, r + 0.2, 0), (wide * 0.97, 0.2, long * 1.03), s.grey(0.02, 0.3))
    s.box((0, r + 0.6 + tall * 0.42, back), (wide * 0.86, tall * 0.42, cabin), glass)
    slope = min(cabin * 1.3, long + back)  # of the windscreens
    s.ball((0, r + 0.62, back), (wide * 0.9, tall * 0.85, slope), glass)
    s.box((0, r + 0.6 + tall * 0.86, back), (wide * 0.84, 0.05, cabin * 0.9), body)
    for x in (-wide, wide):
        s.box((x * 0.7, r + 0.38, long * 1.005), (0.14, 0.07, 0.03), paint(0.8))
        s.box((x * 0.75, r + 0.42, -long * 1.005), (0.12, 0.08, 0.03), paint([0.5, 0.02, 0.02]))
        for z in (-long * 0.62, long * 0.62):
            _wheel(s, x * 0.93, z, r, 0.1)


def bicycle(s: Builder) -> None:
    """A bicycle and its rider."""
    r, metal, trousers, shoe = s.u(0.28, 0.35), s.tone(vivid=1.0), s.cloth(), s.tone()
    saddle, bar, axle = (0, 0.75, -0.15), (0, 1.0, 0.38), (0, 0.3, 0)
    for z in (-0.5, 0.5):
        _wheel(s, 0, z, r, 0.02)
    for start, end in (((0, r, -0.5), saddle), (saddle, bar), ((0, r, 0.5), bar), (axle, bar)):
        s.limb(start, end, 0.025, metal, TUBE)
    s.tube((0, 1.02, 0.36), (0.3, 0.02, 0.02), metal)
    _upper_body(s.at(0, -0.1), 0.88, 1.4, 0.9)
    for x in (-0.11, 0.11):
        _leg(s, (x, 0.88, -0.1), (x, 0.7, 0.25), (x, 0.25 + x, 0.05), trousers, shoe)


def trolley(s: Builder) -> None:
    """A pram, a hand cart or a shopping trolley."""
    r, wide, long, tall = s.u(0.06, 0.14), s.u(0.2, 0.32), s.u(0.3, 0.5), s.u(0.12, 0.28)
    floor, metal = 2 * r + s.u(0.05, 0.3), s.grey()
    basket = paint(s.colour(), s.colour(), s.pick("checks", "plain", "stripes"), s.u(4, 15))
    s.box((0, floor + tall, 0), (wide, tall, long), basket)
    if s.maybe(0.5):
        s.ball((0, floor + 2 * tall, -long * 0.4), (wide, wide, long * 0.6), s.cloth())
    for x in (-wide * 0.9, wide * 0.9):
        s.limb((x, floor, -long), (x, 1.0, -long - 0.2), 0.02, metal, TUBE)
        for z in (-long, long):
            s.limb((x, r, z * 0.9), (x, floor, z * 0.7), 0.02, metal, TUBE)
            _wheel(s, x, z * 0.9, r, 0.025)
    s.box((0, 1.0, -long - 0.2), (wide * 0.9, 0.025, 0.025), metal)


def vehicle(s: Builder) -> None:
    s.pick(car, car, bicycle, trolley, trolley)(s)


def thing(s: Builder, *_: float) -> None:
    """A household thing."""
    what = s.pick("suitcase", "boxes", "chair", "lamp", "vase", "ball", "bin", "agave")
    if what == "suitcase":
        wide, tall, dark = s.u(0.17, 0.27), s.u(0.22, 0.36), paint(0.2)
        s.box((0, tall + 0.06, 0), (wide, tall, s.u(0.1, 0.16)), s.cloth())
        s.box((0, 2 * tall + 0.2, -0.05), (wide * 0.5, 0.015, 0.015), dark)
        for x in (-wide * 0.5, wide * 0.5):
            s.tube((x, 2 * tall + 0.13, -0.05), (0.012, 0.08, 0.012), dark)
            _wheel(s, x * 1.6, 0, 0.045, 0.02)
    elif what == "boxes":
        _boxes(s)
    elif what == "chair":
        chair(s)
    elif what == "lamp":
        tall, shade = s.u(1.1, 1.7), paint(s.colour((0.3, 0.8)), None, "stripes", s.u(3, 10))
        shade[9] = s.pick(0, 0.5, 0.9)  # lit or not
        s.tube((0, 0.02, 0), (0.16, 0.02, 0.16), paint(0.15))
        s.tube((0, tall / 2, 0), (0.018, tall / 2, 0.018), paint(0.25))
        s.pick(s.tube, s.ball)((0, tall, 0), (s.u(0.14, 0.26), s.u(0.12, 0.2), 0.2), shade)
    elif what == "vase":
        r, tall, cloth = s.u(0.1, 0.2), s.u(0.14, 0.26), s.cloth()
        s.ball((0, tall, 0), (r, tall, r), cloth)
        s.tube((0, 2 * tall, 0), (r * 0.45, 0.07, r * 0.45), cloth)
        s.tube((0, 0.03, 0), (r * 0.5, 0.03, r * 0.5), cloth)
    elif what == "ball":
        r = s.u(0.11, 0.35)
        skin = paint(s.colour(), s.colour(), s.pick("checks", "stripes"), 1 / r)
        s.ball((0, r, 0), (r, r, r), skin)
    elif what == "bin":
        r, tall = s.u(0.14, 0.3), s.u(0.2, 0.5)
        s.tube((0, tall, 0), (r, tall, r), s.cloth())
        s.ball((0, 2 * tall, 0), (r, r * 0.5, r), s.tone())
    else:  # ten long leaves in a pot
        s.tube((0, 0.17, 0), (0.16, 0.17, 0.16), s.cover())
        green = s.u(0.1, 0.35) * np.array([0.5, 1.0, 0.3])
        for _ in range(10):
            tip = (s.u(-0.35, 0.35), s.u(0.55, 1.3), s.u(-0.35, 0.35))
            s.limb((0, 0.3, 0), tip, s.u(0.03, 0.08), paint(green, green * 0.3, "leaves", 4))


def _boxes(s: Builder) -> None:
    """One to three, piled."""
    y, side = 0.0, s.u(0.18, 0.4)
    for _ in range(s.pick(1, 2, 3)):
        tall, card = s.u(0.1, 0.26), np.array(s.pick((0.42, 0.28, 0.16), s.colour()))
        turn = about_y(s.u(-0.4, 0.4))
        s.box((0, y + tall, 0), (side, tall, side * 0.8), paint(card, tex="noise"), turn)
        s.box((0, y + tall, 0), (side * 0.12, tall * 1.01, side * 0.81), paint(card * 0.6), turn)
        y, side = y + 2 * tall, side * s.u(0.6, 0.95)


def chair(s: Builder, *_: float) -> None:
    seat, back, cloth, wood = s.u(0.4, 0.5), s.u(0.1, 0.24), s.cover(vivid=0.8), s.cover()
    s.box((0, seat, 0), (0.22, 0.03, 0.22), cloth)
    s.box((0, seat + 0.16 + back, -0.2), (0.21, back, 0.02), s.pick(wood, cloth))
    for x in (-0.19, 0.19):
        s.tube((x, seat + 0.2, -0.2), (0.02, 0.2, 0.02), wood)
    s.legs(0.19, 0.19, seat, s.u(0.012, 0.025), wood)


FAMILIES = (standing, sitting, animal, vehicle, thing)


def somebody(s: Builder, rx: float, rz: float) -> None:
    """People and animals who were there all the time are not new."""
    s.pick(standing, standing, sitting, animal)(s)
