"""Render: photograph empty places and samples, ray-traced from (seed, id).

A sample is two shots of one fixed camera, an empty one and one with something new, and the exact
mask and depth of the second. What the place alone gives is kept by `backdrop`; per sample, rays are
traced only where the object or its shadow can be.
"""

from collections.abc import Sequence

import numpy as np

from evalib.manifest import N_FG, N_PLACEMENTS
from evalib.rooms.backdrop import backdrop, byte, shade
from evalib.rooms.kernels import kernel, scalar
from evalib.rooms.rays import clamp, f, raster
from evalib.rooms.sensor import develop, grain, halved, settings
from evalib.rooms.shadows import contact, lit, shadows
from evalib.rooms.staging import cast, leaving
from evalib.rooms.surfaces import TABLES, surface


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
    mask = np.zeros((len(bgs), size, size), np.uint8)
    depth = np.empty((len(bgs), size, size), np.uint8)
    shots = settings(seed, bgs, ids, size)
    for bg in np.unique(bgs).tolist():
        rows = np.flatnonzero(bgs == bg)
        rows = rows[np.lexsort(shots["shift"][rows].T)]  # cameras that moved alike come together
        them = leaving(seed, bg, len(rows)) if ids is None else cast(seed, bg, ids[rows])
        drop = backdrop(seed, bg, size)
        _draw(drop, them, shots[rows], grain(size), TABLES, rows, image, mask, depth)
    return image, mask, depth


@kernel
def _draw(drop, them, shots, grain, tables, rows, image, mask, depth):
    """Photograph k samples of a place: fill row rows[i] of the uint8 image, mask (0) and depth.

    drop: Backdrop; them: Cast; shots: (k,) SHOT.
    """
    n = mask.shape[1]
    part = np.empty(drop.z.shape, np.int32)
    dark = np.empty(drop.z.shape, np.float32)
    dim = np.empty(drop.z.shape, np.float32)
    reached = np.empty(len(them.at), np.float32)
    still = np.empty((7, n, n), np.float32)
    light = np.empty((3, n, n), np.float32)
    at = -1, -1
    for i in range(len(rows)):
        first, end = them.first_part[i], them.first_part[i + 1]
        one, last = them.first_thing[i], them.first_thing[i + 1]
        part[:] = -1
        z = drop.z.copy()
        raster(them.parts, first, end, drop.frame, z, part)
        shadows(them.parts, first, end, drop.lamp, drop.points, drop.balls, dark)
        contact(them.at, them.reach, one, last, drop.points, drop.balls, dim)
        for k in range(one, last):
            reached[k] = lit(drop.blockers, drop.lamp, them.at[k])
        shot = shots[i]
        change = shot.change
        left = drop.frame.margin + shot.shift[0]
        top = drop.frame.margin + shot.shift[1]
        if at != (left, top):
            at = left, top
            for c in range(7):
                halved(drop.light[c], top, left, still[c])
        for c in range(3):
            for y in range(n):
                for x in range(n):
                    light[c, y, x] = still[c, y, x] * change[0] + still[3 + c, y, x] * change[1]
        depth[rows[i]] = np.rint(still[6])
        maps = part, z, dark, dim
        _add(drop, them, reached, maps, shot, tables, light, mask[rows[i]], depth[rows[i]])
        develop(light, shot, grain, image[rows[i]])


@kernel
def _add(drop, them, reached, maps, shot, tables, light, mask, depth):
    """Draw what is new in a picture, and the shadows that it throws."""
    part, z, dark, dim = maps
    # out of their tuples once: each look into one counts references
    place, lamp, frame = drop.light, drop.lamp, drop.frame
    rays, step, at = frame.rays, frame.step, frame.at
    parts, thing = them.parts, them.thing
    shift, change = shot.shift, shot.change
    sums = np.empty((4, 5), np.float32)
    for y in range(len(mask)):
        top = 2 * y + shift[1] + frame.margin
        for x in range(len(mask)):
            left = 2 * x + shift[0] + frame.margin
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
                    ambient = place[0, v, u], place[1, v, u], place[2, v, u]
                    direct = place[3, v, u], place[4, v, u], place[5, v, u]
                    of_sky = change[0] * (f(1) - dim[v, u])
                    of_lamp = change[1] * (f(1) - dark[v, u])
                for c in range(3):
                    sums[corner, c] = ambient[c] * of_sky + direct[c] * of_lamp
            for c in range(3):
                light[c, y, x] = _sum(sums, c) * f(0.25)
            count = _sum(sums, 3)
            if count >= 2:  # of a pixel's four rays meet an object
                mask[y, x] = 255
                depth[y, x] = np.uint8(np.rint(byte(_sum(sums, 4) / count)))


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
