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
from evalib.rooms.rays import clamp, f, grid, raster
from evalib.rooms.sensor import develop, grain, settings
from evalib.rooms.shadows import contact, lit, shadows
from evalib.rooms.staging import cast
from evalib.rooms.surfaces import TABLES, surface

DEPTH_M = 10.0  # byte 255
BYTES = f(255 / DEPTH_M)  # a metre
SHAKE = np.array([-2, -1, -1, 0, 0, 1, 1, 2])  # halves of a pixel at 64 px


def render_backgrounds(bg: Sequence[int], size: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Photograph empty places `bg` (0..99 for the built-in tiers), `size` pixels along a side.

    Returns:
        bg: (B, S, S, 3) uint8; bg_depth: (B, S, S) uint8, 255 at 10 m or more.
    Raises:
        ValueError: a size below 16, a negative background.
    """
    bg = _checked(bg, size)
    image = np.empty((len(bg), size, size, 3), np.uint8)
    depth = np.empty((len(bg), size, size), np.uint8)
    shots = settings(seed, bg)
    for row, number in enumerate(bg.tolist()):
        drop = backdrop(seed, number, size)
        _empty(drop, shots[row], grain(size), image[row], depth[row])
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
    image = np.empty((len(ids), size, size, 3), np.uint8)
    mask = np.empty((len(ids), size, size), np.uint8)
    depth = np.empty((len(ids), size, size), np.uint8)
    bgs = ids // (N_FG * N_PLACEMENTS)
    shots = settings(seed, bgs, ids)
    shift, change = _hands(seed, ids, size)
    for bg in np.unique(bgs).tolist():
        rows = np.flatnonzero(bgs == bg)
        drop = backdrop(seed, bg, size)
        them = cast(seed, bg, ids[rows])
        how = shift[rows], change[rows], shots[rows], grain(size), TABLES
        _samples(drop, them, *how, rows, image, mask, depth)
    return {"fg_bg": image, "mask": mask, "depth": depth}


def _checked(numbers: Sequence[int], size: int) -> np.ndarray:
    numbers = np.asarray(numbers, np.int64)
    if size < 16:
        raise ValueError(f"size {size} is too small: ask for at least 16 pixels")
    if len(numbers) and numbers.min() < 0:
        raise ValueError(f"{numbers.min()} is not a sample or background: numbers start at 0")
    return numbers


def _hands(seed: int, ids: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, 2) int64 x, y rays that the camera moved since the empty shot; (B, 2) float32 factors of
    the ambient and the direct light."""
    r = chance(seed, ids, "hand", 6)
    shakes = r[:, 5:] < 0.25  # most cameras stand still
    shift = np.round(shakes * SHAKE[(r[:, :2] * 8).astype(int)] * size / 64)
    strong = np.where(r[:, 2:3] < 0.25, 0.5, 0.06)
    change = 1 + strong * (r[:, 3:5] - 0.5)
    return shift.astype(np.int64), change.astype(np.float32)


@kernel
def _empty(drop, shot, grain, image, depth):
    """Photograph the place alone: image (S, S, 3), depth (S, S), both uint8."""
    n = len(depth)
    light = np.empty((3, n, n), np.float32)
    for y in range(n):
        for x in range(n):
            top = 2 * y + drop.frame.margin
            left = 2 * x + drop.frame.margin
            depth[y, x] = _still_depth(drop.z, top, left)
            for c in range(3):
                ambient = _still(drop.light, top, left, c)
                light[c, y, x] = ambient + _still(drop.light, top, left, 3 + c)
    develop(light, shot, grain, image)


@kernel
def _samples(drop, them, shift, change, shots, grain, tables, rows, image, mask, depth):
    """Photograph k samples of a place, the i-th into row rows[i] of the uint8 arrays.

    drop: Backdrop; them: Cast; shift, change: (k, 2); shots: (k,) SHOT.
    """
    frame = drop.frame
    at = grid(frame)
    n = mask.shape[1]
    light = np.empty((3, n, n), np.float32)
    part = np.empty((frame.n, frame.n), np.int32)
    dark = np.empty((frame.n, frame.n), np.float32)
    dim = np.empty((frame.n, frame.n), np.float32)
    reached = np.empty(len(them.at), np.float32)
    rays = np.empty((4, 5), np.float32)
    for i in range(len(rows)):
        row = rows[i]
        z = drop.z.copy()
        part[:] = -1
        raster(them.parts, them.first_part[i], them.first_part[i + 1], frame, z, part)
        shadows(
            them.parts,
            them.first_part[i],
            them.first_part[i + 1],
            frame,
            drop.lamp,
            drop.z,
            drop.balls,
            dark,
        )
        contact(
            them.at,
            them.reach,
            them.first_thing[i],
            them.first_thing[i + 1],
            frame,
            drop.z,
            drop.balls,
            dim,
        )
        for k in range(them.first_thing[i], them.first_thing[i + 1]):
            reached[k] = lit(drop.parts, drop.shell, drop.lamp, them.at[k])
        for y in range(n):
            for x in range(n):
                top = 2 * y + shift[i, 1] + frame.margin
                left = 2 * x + shift[i, 0] + frame.margin
                mask[row, y, x] = 0
                depth[row, y, x] = _still_depth(drop.z, top, left)
                if not _touched(part, dark, dim, top, left):
                    for c in range(3):
                        ambient = _still(drop.light, top, left, c) * change[i, 0]
                        direct = _still(drop.light, top, left, 3 + c) * change[i, 1]
                        light[c, y, x] = ambient + direct
                    continue
                for corner in range(4):
                    v = top + corner // 2
                    u = left + corner % 2
                    p = part[v, u]
                    rays[corner, 3:] = 0
                    if p < 0:
                        ambient_share = change[i, 0] * (f(1) - dim[v, u])
                        direct_share = change[i, 1] * (f(1) - dark[v, u])
                        for c in range(3):
                            ambient = drop.light[v, u, c] * ambient_share
                            rays[corner, c] = ambient + drop.light[v, u, 3 + c] * direct_share
                        continue
                    s = surface(them.parts[p], frame, at[u], -at[v], z[v, u], tables)
                    # the floor hides half of the sky near the feet
                    sky = f(0.5) + f(0.5) * clamp(s[0][1] / f(0.9), 0, 1)
                    ambient_light, direct_light = shade(drop.lamp, s, sky)
                    ambient_share = change[i, 0] * drop.exposure
                    direct_share = reached[them.thing[p]] * (change[i, 1] * drop.exposure)
                    for c in range(3):
                        ambient = ambient_light[c] * ambient_share
                        rays[corner, c] = ambient + direct_light[c] * direct_share
                    rays[corner, 3] = 1
                    rays[corner, 4] = z[v, u]
                for c in range(3):
                    light[c, y, x] = _sum(rays, c) * f(0.25)
                count = _sum(rays, 3)
                if count >= 2:  # of a pixel's four rays meet an object
                    mask[row, y, x] = 255
                    depth[row, y, x] = np.uint8(np.rint(min(_sum(rays, 4) / count * BYTES, f(255))))
        develop(light, shots[i], grain, image[row])


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
