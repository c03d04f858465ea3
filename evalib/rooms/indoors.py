"""Rooms: living rooms, bedrooms, offices, halls, corridors, classrooms."""

import numpy as np

from evalib.rooms import furniture, objects
from evalib.rooms.builder import Builder, Light, Place, about_y, paint
from evalib.rooms.rays import Pinhole


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
            x, z = s.u(0.1, 0.9) * wide, s.u(0.25, 0.95) * deep
            s.stand(objects.somebody, x, z, s.u(0, 6), 0.3, 0.3)
    camera = _camera(s, kind, wide, deep, tall)
    light = _light(s, kind, wide, deep, tall, floor)
    return Place(s.parts(), shell, 9.0, camera, light)


def _camera(s: Builder, kind: str, wide: float, deep: float, tall: float) -> Pinhole:
    """In a hand, or high in a corner; or on the ceiling, looking down."""
    eye = (s.u(0.2, 0.8) * wide, s.pick(s.u(1.1, 1.8), s.u(1.5, 1.8), tall - 0.25), s.u(0.15, 0.5))
    goal_x, goal_z = s.u(0.35, 0.65) * wide, s.u(0.5, 0.75) * deep
    yaw = np.arctan2(goal_x - eye[0], goal_z - eye[2])
    pitch = np.arctan2(eye[1] - s.u(0.5, 1), goal_z)
    camera = Pinhole.aim(eye, yaw, pitch, s.u(-0.03, 0.03), s.u(0.45, 0.85))  # always drawn
    if kind == "ceiling":
        eye = (s.u(0.3, 0.7) * wide, tall - s.u(0.1, 0.4), s.u(0.2, 0.6) * deep)
        camera = Pinhole.aim(eye, s.u(-0.5, 0.5), s.u(0.8, 1.57), s.u(-0.1, 0.1), s.u(0.6, 1.1))
    return camera


def _light(
    s: Builder, kind: str, wide: float, deep: float, tall: float, floor: np.ndarray
) -> Light:
    """Daylight from a window, panels in the ceiling, or a lamp; floor: its paint."""
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
    return Light(
        indoors=True,
        floor=np.array([0.05, wide - 0.05, 0.05, deep - 0.05]),
        blocks=np.array(s.blocks, float).reshape(-1, 4),
        lamp=lamp,
        soft=s.u(0.08, 0.3),
        direct=share * 1.9 * tint,
        bounce=bounce,
        rise=sky - bounce,
    )


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
