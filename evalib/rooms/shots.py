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
from evalib.rooms.rays import clamp, f, raster
from evalib.rooms.sensor import develop, grain, settings
from evalib.rooms.shadows import contact, lit, shadows
from evalib.rooms.staging import cast, nobody
from evalib.rooms.surfaces import TABLES, surface

DEPTH_M = 10.0  # byte 255
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
    still = np.empty((2, 7, n, n), np.float32)  # as the camera stands, and shaken
    known = False
    for i in range(len(rows)):
        first, end = them.first_part[i], them.first_part[i + 1]
        one, last = them.first_thing[i], them.first_thing[i + 1]
        _reset(drop.z, z, part)
        raster(them.parts, first, end, frame, z, part)
        shadows(them.parts, first, end, drop.lamp, drop.points, drop.balls, dark)
        contact(them.at, them.reach, one, last, drop.points, drop.balls, dim)
        for k in range(one, last):
            reached[k] = lit(drop.parts, drop.shell, drop.lamp, them.at[k])
        shaken = int(shift[i, 0] != 0 or shift[i, 1] != 0)
        if shaken or not known:
            _halve(drop.light, drop.z, frame.margin, shift[i], still[shaken])
            known |= not shaken
        out = light[i], mask[rows[i]], depth[rows[i]]
        _expose(still[shaken], change[i], *out)
        maps = part, z, dark, dim
        _add(drop, them.parts, them.thing, reached, maps, shift[i], change[i], tables, *out)


@kernel
def _add(drop, parts, thing, reached, maps, shift, change, tables, light, mask, depth):
    """Draw what is new in a picture, and the shadows that it throws."""
    part, z, dark, dim = maps
    # out of their tuple once: each look into it counts references
    place, lamp, rays, step = drop.light, drop.lamp, drop.frame.rays, drop.frame.step
    at = drop.frame.at
    sums = np.empty((4, 5), np.float32)
    for y in range(len(mask)):
        top = 2 * y + shift[1] + drop.frame.margin
        for x in range(len(mask)):
            left = 2 * x + shift[0] + drop.frame.margin
            if not _touched(part, dark, dim, top, left):
                continue
            for corner in range(4):
                v = top + corner // 2
                u = left + corner % 2
                p = part[v, u]
                sums[corner, 3] = p >= 0
                sums[corner, 4] = z[v, u] if p >= 0 else f(0)
                if p >= 0:
                    s = surface(parts[p], rays, step, at[u], -at[v], z[v, u], tables)
                    # the floor hides half of the sky near the feet
                    sky = f(0.5) + f(0.5) * clamp(s[0][1] / f(0.9), 0, 1)
                    ambient, direct = shade(lamp, s, sky)
                    of_sky = change[0] * drop.exposure
                    of_lamp = reached[thing[p]] * (change[1] * drop.exposure)
                else:
                    ambient = place[v, u, 0], place[v, u, 1], place[v, u, 2]
                    direct = place[v, u, 3], place[v, u, 4], place[v, u, 5]
                    of_sky = change[0] * (f(1) - dim[v, u])
                    of_lamp = change[1] * (f(1) - dark[v, u])
                for c in range(3):
                    sums[corner, c] = ambient[c] * of_sky + direct[c] * of_lamp
            for c in range(3):
                light[c, y, x] = _sum(sums, c) * f(0.25)
            count = _sum(sums, 3)
            if count >= 2:  # of a pixel's four rays meet an object
                mask[y, x] = 255
                depth[y, x] = np.uint8(np.rint(_byte(_sum(sums, 4) / count)))


@kernel
def _reset(place_z, z, part):
    for y in range(len(z)):
        for x in range(len(z)):
            z[y, x] = place_z[y, x]
            part[y, x] = -1


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


@kernel
def _halve(light, z, margin, shift, still):
    """Fill (7, S, S) with the empty place's light and depth byte, means of four rays each."""
    for y in range(still.shape[1]):
        top = 2 * y + shift[1] + margin
        for x in range(still.shape[1]):
            left = 2 * x + shift[0] + margin
            for c in range(6):
                one = light[top, left, c] + light[top + 1, left, c]
                other = light[top, left + 1, c] + light[top + 1, left + 1, c]
                still[c, y, x] = (one + other) * f(0.25)
            one = _byte(z[top, left]) + _byte(z[top + 1, left])
            other = _byte(z[top, left + 1]) + _byte(z[top + 1, left + 1])
            still[6, y, x] = (one + other) * f(0.25)


@scalar
def _byte(z):
    """Depth as it is stored, not rounded yet: 255 at 10 m or more."""
    return min(z * f(255 / DEPTH_M), f(255))


@kernel
def _expose(still, change, light, mask, depth):
    """Fill light (3, S, S), mask and depth (S, S) with the empty place in changed light."""
    n = len(depth)
    for y in range(n):
        for c in range(3):
            for x in range(n):
                light[c, y, x] = still[c, y, x] * change[0] + still[3 + c, y, x] * change[1]
        for x in range(n):
            mask[y, x] = 0
            depth[y, x] = np.uint8(np.rint(still[6, y, x]))
