"""What stands about in rooms, yards and streets and what hangs on walls: a new kind goes here.

Furniture stands at the origin with its back to -z, in a box of half sizes rx, rz, which
objects ignore; things on walls have the wall at z = 0 and `day`, the brightness outside.
"""

import math

import numpy as np

from evalib.rooms.builder import Builder, about_y, paint
from evalib.rooms.objects import car, chair, thing

BLACK = paint(0.015)


def table(s: Builder, rx: float, rz: float) -> None:
    h = s.u(0.4, 0.78)
    s.box((0, h, 0), (rx, 0.025, rz), s.cover())
    s.legs(rx - 0.05, rz - 0.05, h, 0.03, s.cover())
    for _ in range(s.pick(0, 1, 3, 5)):
        x, z, t = s.u(-0.8, 0.8) * rx, s.u(-0.8, 0.8) * rz, s.u(0.03, 0.15)
        s.pick(s.box, s.tube, s.ball)((x, h + 0.025 + t, z), (s.u(0.03, 0.14), t, 0.07), s.bright())


def desk(s: Builder, rx: float, rz: float) -> None:
    """A table with screens and a keyboard, and a chair in front."""
    h, z = 0.73, -0.4 * rz
    s.box((0, h, 0), (rx, 0.02, rz), s.cover())
    s.box((-rx + 0.2, h / 2, 0), (0.18, h / 2, rz * 0.9), s.cover())
    s.box((rx - 0.03, h / 2, 0), (0.03, h / 2, rz * 0.9), s.cover())
    for x in s.pick((0,), (-0.3, 0.3)):
        screen = s.bright()
        screen[9] = s.pick(0.0, 0.4)
        s.box((x, h + 0.28, z), (0.27, 0.17, 0.015), BLACK)
        s.box((x, h + 0.28, z + 0.012), (0.25, 0.15, 0.01), screen)
        s.tube((x, h + 0.06, z), (0.03, 0.06, 0.03), BLACK)
    s.box((0, h + 0.03, rz * 0.3), (0.2, 0.012, 0.07), s.grey())
    chair(s.at(s.u(-0.2, 0.2), rz + s.u(0.1, 0.4), np.pi + s.u(-0.6, 0.6)))


def school_desk(s: Builder, rx: float, rz: float) -> None:
    """A table for one or two, its chairs, and what lies on it."""
    s.box((0, 0.73, -0.1), (rx, 0.02, 0.25), s.cover(kinds=("wood", "plain")))
    s.at(0, -0.1).legs(rx - 0.05, 0.2, 0.72, 0.02, s.grey())
    for x in s.pick((0,), (-0.3, 0.3)):
        chair(s.at(x, s.u(0.3, 0.45), np.pi + s.u(-0.3, 0.3)))
    for _ in range(s.pick(0, 1, 3)):
        book = (s.u(0.06, 0.15), 0.015, s.u(0.06, 0.12))
        s.box((s.u(-0.8, 0.8) * rx, 0.765, -0.1), book, s.bright())


def sofa(s: Builder, rx: float, rz: float) -> None:
    cloth, back = s.cover(vivid=0.8, kinds=("plain", "noise", "stripes")), s.u(0.4, 0.5)
    s.box((0, 0.22, 0.05), (rx, 0.2, rz - 0.05), cloth)
    s.box((0, back, -rz + 0.13), (rx, back - 0.05, 0.13), cloth)
    for x in (-rx + 0.1, rx - 0.1):
        s.box((x, 0.31, 0), (0.1, 0.29, rz), cloth)
    for _ in range(s.pick(0, 1, 2, 3)):
        s.ball((s.u(-0.7, 0.7) * rx, 0.58, -0.3 * rz), (0.22, 0.2, 0.1), s.bright())


def bed(s: Builder, rx: float, rz: float) -> None:
    sheet = s.cover((0.2, 0.8), 0.8, ("plain", "stripes", "checks", "noise"))
    s.box((0, 0.2, 0), (rx, 0.18, rz), s.cover())
    s.box((0, 0.45, 0), (rx * 0.96, 0.1, rz * 0.97), sheet)
    s.box((0, s.u(0.4, 0.6), -rz), (rx, s.u(0.4, 0.6), 0.04), s.cover())
    for x in (-0.45, 0.45):
        s.ball((x * rx, 0.6, -rz * 0.75), (0.38 * rx, 0.1, 0.25), s.tone(0.5, 0.85, vivid=0.2))


def cupboard(s: Builder, rx: float, rz: float) -> None:
    h, body, n = s.pick(0.4, 0.5, 0.9, 1.05), s.cover(), s.pick(1, 2, 3)
    s.box((0, h, 0), (rx, h, rz), body)
    front = paint(body[:3] * s.u(0.75, 1.2), body[3:6], s.pick("plain", "wood"), 5)
    for x in (2 * np.arange(n) + 1 - n) / n * rx:
        s.box((x, h, rz), (rx / n - 0.02, h - 0.04, 0.012), front)
        s.box((x + rx / n * 0.7, h, rz + 0.02), (0.012, 0.07, 0.012), s.grey())
    if h < 0.6 and s.maybe(0.7):  # a screen on a sideboard
        s.box((0, 2 * h + 0.33, 0), (min(rx, 0.55), 0.31, 0.03), BLACK)


def shelf(s: Builder, rx: float, rz: float) -> None:
    h, wood, n = s.u(0.6, 1.05), s.cover(), s.pick(3, 4, 5)
    s.box((0, h, -rz + 0.02), (rx, h, 0.02), paint(wood[:3] * 0.6))
    for x in (-rx, rx):
        s.box((x, h, 0), (0.02, h, rz), wood)
    for y in np.arange(n + 1) * 2 * h / n:
        s.box((0, y, 0), (rx, 0.015, rz), wood)
        if y < 1.9 * h and s.maybe(0.85):
            tall, wide = s.u(0.5, 0.85) * h / n, rx * s.u(0.4, 0.95)
            books = paint(s.colour(vivid=1), s.colour(vivid=1), "cells", s.u(14, 35), s.u(0, 90))
            s.box((s.u(-1, 1) * (rx - wide), y + tall, 0), (wide, tall, rz * 0.7), books)


def plant(s: Builder, rx: float, rz: float) -> None:
    s.tube((0, 0.17, 0), (0.17, 0.17, 0.17), s.cover())
    _leaves(s.at(0, 0, y=0.25), 0.35, s.u(0.5, 1.3), 40)


def tree(s: Builder, rx: float, rz: float) -> None:
    h, bark = s.u(1.8, 4), paint([0.16, 0.11, 0.07], tex="noise", rate=3)
    s.tube((0, h / 2, 0), (s.u(0.08, 0.2), h / 2, 0.14), bark)
    _leaves(s.at(0, 0, y=h * 0.7), s.u(0.9, 1.9), s.u(1.5, 3), 70)


def bush(s: Builder, rx: float, rz: float) -> None:
    _leaves(s, rx * 1.2, s.u(0.6, 1.9), 40)


def _leaves(s: Builder, wide: float, tall: float, n: int) -> None:
    """A heap of n leafy balls, `tall` metres high; brighter outside and on top."""
    green = s.u(0.08, 0.4) * np.array([s.u(0.4, 1.1), 1.0, s.u(0.15, 0.5)])
    for _ in range(n):
        y, out, turn, r = s.u(0, 1), s.u(0, 1) ** 0.4, s.u(0, 2 * np.pi), s.u(0.14, 0.3) * wide
        tone = green * (0.35 + 0.5 * out * s.u(0.5, 1.2) + 0.4 * y)
        leaf = paint(tone * 0.2, tone * 1.2, "leaves", s.u(1.5, 4), s.u(0, 50))
        room = wide * out * (1 - 0.5 * y * y)
        centre = (room * math.cos(turn), tall * (0.08 + 0.85 * y), room * math.sin(turn))
        s.ball(centre, (r, s.u(0.07, 0.14) * tall, r), leaf, about_y(turn))


def post(s: Builder, rx: float, rz: float) -> None:
    h = s.u(1.0, 4)
    s.tube((0, h / 2, 0), (0.06, h / 2, 0.06), s.tone(0.02, 0.5))
    if h > 2:
        s.box((0, h, 0), (s.u(0.2, 0.4), s.u(0.15, 0.4), 0.03), s.bright())


def bench(s: Builder, rx: float, rz: float) -> None:
    wood = s.cover(kinds=("wood",))
    s.box((0, 0.45, 0), (rx, 0.03, 0.22), wood)
    s.box((0, 0.75, -0.2), (rx, 0.14, 0.03), wood)
    s.legs(rx * 0.8, 0.18, 0.45, 0.03, BLACK)


def crate(s: Builder, rx: float, rz: float) -> None:
    h = s.u(0.3, 0.7)
    s.box((0, h, 0), (rx, h, rz), s.cover(vivid=0.8))
    s.box((0, 2 * h, 0), (rx * 1.04, 0.04, rz * 1.04), s.tone())


def picture(s: Builder, day: float) -> None:
    """A picture, a poster or a board."""
    w, h, y = s.u(0.15, 0.7), s.u(0.15, 0.45), s.u(1.3, 1.8)
    s.box((0, y, 0), (w, h, 0.02), s.tone(0.01, 0.8))
    s.box((0, y, 0), (w * 0.9, h * 0.9, 0.025), s.bright())


def door(s: Builder, day: float = 0.0) -> None:
    s.box((0, 1.0, 0), (0.5, 1.05, 0.02), s.tone(0.05, 0.8, vivid=0.2))
    s.box((0, 1.0, 0), (0.44, 1.0, 0.035), s.cover())


def window(s: Builder, day: float) -> None:
    """Panes full of daylight (or of night), framed, perhaps with curtains or a radiator."""
    w, h, y, frame = s.u(0.4, 1.1), s.u(0.5, 0.75), s.u(1.4, 1.6), s.tone(0.3, 0.85, vivid=0.2)
    sky = day * np.array([0.75, 0.85, 1.0])
    s.box((0, y, 0), (w + 0.06, h + 0.06, 0.02), frame)
    s.box((0, y, 0), (w, h, 0.03), paint(sky, sky * 0.65, "noise", 0.4, 3, glow=1))
    s.box((0, y, 0), (0.025, h, 0.05), frame)
    s.box((0, y, 0), (w, 0.02, 0.05), frame)
    if s.maybe(0.5):
        cloth = s.cover(vivid=0.8, kinds=("plain", "noise", "checks"))
        for x in (-w - 0.12, w + 0.12):
            s.box((x, y - 0.1, 0.06), (0.2, h + 0.35, 0.04), cloth)
    if s.maybe(0.4):
        s.box((0, 0.4, 0.06), (w, 0.28, 0.05), paint(0.7, tex="cells", rate=12))


# half sizes rx, rz before some chance
SIZES = {sofa: (0.95, 0.42), bed: (0.8, 1.0), cupboard: (0.5, 0.25), shelf: (0.5, 0.16),
         table: (0.6, 0.4), desk: (0.7, 0.36), plant: (0.3, 0.3), chair: (0.25, 0.25),
         thing: (0.3, 0.3)}  # fmt: skip
USUAL = {
    "living": (sofa, sofa, cupboard, shelf, plant, table, thing),
    "bedroom": (bed, bed, cupboard, shelf, cupboard, plant, thing),
    "office": (desk, desk, desk, shelf, cupboard, plant, thing),
    "hall": (cupboard, plant, chair, table, thing, desk),
    "corridor": (cupboard, plant, chair, thing, shelf),
    "class": (cupboard, shelf, table, plant, chair),
    "ceiling": (sofa, desk, cupboard, shelf, plant, table, bed),
}
LOOSE = (), (chair,), (chair, chair), (thing,), (chair, thing)
ON_SIDES = (window, window, picture, picture, door, None)
AT_BACK = (window, picture, picture, door, None)
OUTSIDE = ((tree, 0.4, 0.4), (post, 0.2, 0.2), (bench, 0.8, 0.3), (bush, 0.6, 0.6),
           (crate, 0.7, 0.5), (thing, 0.4, 0.4), (car, 1.1, 2.3))  # fmt: skip
