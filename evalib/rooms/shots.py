"""Render: photograph empty places and samples, ray-traced from (seed, id).

A sample is two shots of one fixed camera, an empty one and one with something new, and the exact
mask and depth of the second. What the place alone gives is kept by `backdrop`; per sample, rays are
traced only where the object or its shadow can be.
"""

from collections.abc import Sequence

import numpy as np

from evalib.manifest import N_FG, N_PLACEMENTS
from evalib.rooms.backdrop import backdrop, shade
from evalib.rooms.builder import chance
from evalib.rooms.kernels import kernel, scalar
from evalib.rooms.rays import clamp, f, place_of, raster
from evalib.rooms.sensor import develop, grain, settings
from evalib.rooms.shadows import contact, lit, shadows
from evalib.rooms.staging import cast, nobody
from evalib.rooms.surfaces import TABLES, surface

DEPTH_M = 10.0  # byte 255
BYTES = f(255 / DEPTH_M)  # a metre
TOGETHER = 64  # samples whose light is in memory
SHAKE = np.array([-2, -1, -1, 0, 0, 1, 1, 2])  # halves of a pixel at 64 px


def render_backgrounds(bg: Sequence[int], size: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Photograph empty places `bg` (0..99 for the built-in tiers), `size` pixels along a side.

    Returns:
        bg: (B, S, S, 3) uint8; bg_depth: (B, S, S) uint8, 255 at 10 m or more.
    Raises:
        ValueError: a size below 16, a negative background.
    """
    bg = _checked(bg, size)
    image, _, depth = _photograph(seed, bg, None, size)
    return {"bg": image, "bg_depth": depth}


def render(ids: Sequence[int], size: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Photograph samples, `size` pixels along a side; fastest when one background's are together.

    ids: `(bg * 100 + fg) * 40 + 2 * spot + mirrored`, each with the same pixels in any company.
    Returns:
        fg_bg: (B, S, S, 3) uint8; mask: (B, S, S) uint8 in {0, 255}, shadows excluded;
        depth: (B, S, S) uint8, 255 at 10 m or more. A share EMPTY_SHARE of samples has no object.
    Raises:
        ValueError: a size below 16, a negative id.
    """
    ids = _checked(ids, size)
    image, mask, depth = _photograph(seed, ids // (N_FG * N_PLACEMENTS), ids, size)
    return {"fg_bg": image, "mask": mask, "depth": depth}


def _checked(numbers: Sequence[int], size: int) -> np.ndarray:
    numbers = np.asarray(numbers, np.int64)
    if size < 16:
        raise ValueError(f"size {size} is too small: ask for at least 16 pixels")
    if len(numbers) and numbers.min() < 0:
        raise ValueError(f"{numbers.min()} is not a sample or background: numbers start at 0")
    return numbers


def _photograph(seed: int, bgs: np.ndarray, ids: np.ndarray | None, size: int) -> tuple:
    """Images, masks and depths of samples `ids` (B,) of places `bgs` (B,); None: empty places."""
    image = np.empty((len(bgs), size, size, 3), np.uint8)
    mask = np.empty((len(bgs), size, size), np.uint8)
    depth = np.empty((len(bgs), size, size), np.uint8)
    shots = settings(seed, bgs, ids)
    shift, change = _hands(seed, bgs, ids, size)
    for bg in np.unique(bgs).tolist():
        rows = np.flatnonzero(bgs == bg)
        for some in np.split(rows, range(TOGETHER, len(rows), TOGETHER)):
            them = nobody(len(some)) if ids is None else cast(seed, bg, ids[some])
            light = np.empty((len(some), 3, size, size), np.float32)
            how = shift[some], change[some], TABLES
            _draw(backdrop(seed, bg, size), them, *how, some, light, mask, depth)
            develop(light, shots[some], grain(size), some, image)
    return image, mask, depth


def _hands(seed: int, bgs: np.ndarray, ids: np.ndarray | None, size: int) -> tuple:
    """(B, 2) int64 x, y rays that the camera moved since the empty shot; (B, 2) float32 factors of
    the ambient and the direct light."""
    if ids is None:
        return np.zeros((len(bgs), 2), np.int64), np.ones((len(bgs), 2), np.float32)
    r = chance(seed, ids, "hand", 6)
    shakes = r[:, 5:] < 0.25  # most cameras stand still
    shift = np.round(shakes * SHAKE[(r[:, :2] * 8).astype(int)] * size / 64)
    strong = np.where(r[:, 2:3] < 0.25, 0.5, 0.06)
    change = 1 + strong * (r[:, 3:5] - 0.5)
    return shift.astype(np.int64), change.astype(np.float32)


@kernel
def _draw(drop, them, shift, change, tables, rows, light, mask, depth):
    """Fill the light (k, 3, S, S) of k samples of a place, and row rows[i] of the uint8 maps.

    drop: Backdrop; them: Cast; shift, change: (k, 2).
    """
    n = mask.shape[1]
    frame = drop.frame
    part = np.empty((frame.n, frame.n), np.int32)
    z = np.empty((frame.n, frame.n), np.float32)
    dark = np.empty((frame.n, frame.n), np.float32)
    dim = np.empty((frame.n, frame.n), np.float32)
    reached = np.empty(len(them.at), np.float32)
    rays = np.empty((4, 5), np.float32)
    for i in range(len(rows)):
        first, end = them.first_part[i], them.first_part[i + 1]
        one, last = them.first_thing[i], them.first_thing[i + 1]
        for y in range(frame.n):
            for x in range(frame.n):
                part[y, x] = -1
                z[y, x] = drop.z[y, x]
        raster(them.parts, first, end, frame, z, part)
        shadows(them.parts, first, end, frame, drop.lamp, drop.z, drop.balls, dark)
        contact(them.at, them.reach, one, last, frame, drop.z, drop.balls, dim)
        for k in range(one, last):
            reached[k] = lit(drop.parts, drop.shell, drop.lamp, them.at[k])
        for y in range(n):
            top = 2 * y + shift[i, 1] + frame.margin
            for x in range(n):
                left = 2 * x + shift[i, 0] + frame.margin
                depth[rows[i], y, x] = _still_depth(drop.z, top, left)
                mask[rows[i], y, x] = 0
                if not _touched(part, dark, dim, top, left):
                    for c in range(3):
                        ambient = _still(drop.light, top, left, c) * change[i, 0]
                        direct = _still(drop.light, top, left, 3 + c) * change[i, 1]
                        light[i, c, y, x] = ambient + direct
                    continue
                for corner in range(4):
                    row = top + corner // 2
                    column = left + corner % 2
                    p = part[row, column]
                    if p < 0:  # the place, perhaps in a shadow
                        ambient = change[i, 0] * (f(1) - dim[row, column])
                        direct = change[i, 1] * (f(1) - dark[row, column])
                        for c in range(3):
                            old = drop.light[row, column, c] * ambient
                            rays[corner, c] = old + drop.light[row, column, 3 + c] * direct
                        rays[corner, 3] = 0
                        rays[corner, 4] = 0
                        continue
                    far = z[row, column]
                    around, lamp = _light(drop, them.parts[p], row, column, far, tables)
                    ambient = change[i, 0] * drop.exposure
                    direct = reached[them.thing[p]] * (change[i, 1] * drop.exposure)
                    for c in range(3):
                        rays[corner, c] = around[c] * ambient + lamp[c] * direct
                    rays[corner, 3] = 1
                    rays[corner, 4] = far
                for c in range(3):
                    light[i, c, y, x] = _sum(rays, c) * f(0.25)
                count = _sum(rays, 3)
                if count >= 2:  # of a pixel's four rays meet an object
                    byte = np.rint(min(_sum(rays, 4) / count * BYTES, f(255)))
                    mask[rows[i], y, x] = 255
                    depth[rows[i], y, x] = np.uint8(byte)


@kernel
def _light(drop, part, row, column, z, tables):
    """Light r, g, b off an object z m away, from all around and from the lamp, unshadowed."""
    u = place_of(drop.frame, column)
    v = -place_of(drop.frame, row)
    s = surface(part, drop.frame, u, v, z, tables)
    sky = f(0.5) + f(0.5) * clamp(s[0][1] / f(0.9), 0, 1)  # the floor hides half near the feet
    return shade(drop.lamp, s, sky)


@scalar
def _sum(rays, c):
    """Over a pixel's four rays, in a fixed order."""
    return (rays[0, c] + rays[1, c]) + (rays[2, c] + rays[3, c])


@scalar
def _touched(part, dark, dim, top, left):
    """Whether an object or its shadow changes a pixel."""
    for y in range(top, top + 2):
        for x in range(left, left + 2):
            if part[y, x] >= 0 or dark[y, x] > 0 or dim[y, x] > 0:
                return True
    return False


@scalar
def _still(maps, top, left, c):
    """Mean over a pixel's four rays of channel c."""
    one = maps[top, left, c] + maps[top + 1, left, c]
    other = maps[top, left + 1, c] + maps[top + 1, left + 1, c]
    return (one + other) * f(0.25)


@scalar
def _still_depth(z, top, left):
    """Byte: 255 at 10 m or more."""
    one = min(z[top, left] * BYTES, f(255)) + min(z[top + 1, left] * BYTES, f(255))
    other = min(z[top, left + 1] * BYTES, f(255)) + min(z[top + 1, left + 1] * BYTES, f(255))
    return np.uint8(np.rint((one + other) * f(0.25)))
