"""Shadows: what parts take from the lamp's light, and feet from the light all around.

A shadow is tried only on tiles of 8 x 8 rays that it can reach, a ball around each telling which.
"""

import numpy as np

from evalib.rooms.kernels import kernel, scalar
from evalib.rooms.rays import INFINITE, TILE, clamp, dot, f, minus, mixed, span, three

HEIGHTS = (0.3, 0.8, 1.3)  # m above its feet: where a thing asks how much of the lamp reaches it


@scalar
def _inside(inward, point):
    """A point of the world in a part's coordinates."""
    a, b, c, origin = inward
    return dot(a, point) + origin[0], dot(b, point) + origin[1], dot(c, point) + origin[2]


@scalar
def shade_of(part, lamp):
    """What `opacity` needs to know of a part."""
    ways = part.inward.T
    inward = three(ways, 0), three(ways, 1), three(ways, 2), three(part.inward, 3)
    return part.kind, inward, _inside(inward, lamp)


@scalar
def opacity(shade, soft, point):
    """How much of the lamp a part hides from a point, 0..1.

    Near enough is the chord inside the part over the width of the lamp's cone; `soft` is the lamp's
    radius over its distance.
    """
    kind, inward, end = shade
    o = _inside(inward, point)
    near, far = span(kind, o, minus(end, o))
    near = max(near, f(5e-4))  # in ways from the point to the lamp
    far = min(far, f(1))
    share = (far - near) / (soft * (near + far) * f(0.5) + f(5e-4))
    return min(share, f(1)) if far > near else f(0)


@kernel
def lit(parts, light, foot):
    """How much of the lamp reaches a thing on its `foot` past the parts."""
    lamp, soft = light.lamp, light.soft
    total = f(0)
    for height in HEIGHTS:
        point = f(foot[0]), f(foot[1] + height), f(foot[2])
        dark = f(0)
        for p in range(len(parts)):
            dark = max(dark, opacity(shade_of(parts[p], lamp), soft, point))
        total += dark
    return f(1) - total / f(len(HEIGHTS))


@kernel
def enclose(frame, z):
    """Of what rays meet z (n, n) m away, by tiles: points (tiles, 3, 64) m, at most a kilometre
    off, and the middle and radius of a ball around them (tiles, 4), -inf if there is only sky."""
    rays, at = frame.rays, frame.at
    side = frame.n // TILE
    points = np.empty((side * side, 3, TILE * TILE), np.float32)
    balls = np.empty((side * side, 4), np.float32)
    for tile in range(len(balls)):
        low = np.full(3, f(1e9))
        high = np.full(3, f(-1e9))
        for i in range(TILE * TILE):
            y = tile // side * TILE + i // TILE
            x = tile % side * TILE + i % TILE
            way = mixed(mixed(three(rays, 3), three(rays, 1), at[x]), three(rays, 2), -at[y])
            point = mixed(three(rays, 0), way, min(z[y, x], f(1e3)))
            for axis in range(3):
                points[tile, axis, i] = point[axis]
                if z[y, x] < np.inf:
                    low[axis] = min(low[axis], point[axis])
                    high[axis] = max(high[axis], point[axis])
        size = minus(high, low)
        balls[tile, :3] = (low + high) * f(0.5)
        # a little larger, as sums are rounded
        balls[tile, 3] = np.sqrt(dot(size, size)) * f(0.501) if size[0] >= 0 else -INFINITE
    return points, balls


@scalar
def _reaches(part, lamp, middle, radius):
    """Whether a part can stand between the lamp and something in a ball."""
    way = minus(lamp, middle)
    gap = minus(part.centre, middle)
    length = np.sqrt(dot(way, way))
    along = dot(gap, way) / length
    reach = part.radius + radius
    if reach <= f(0) or along < -reach or along > length + part.radius:
        return False
    return dot(gap, gap) - along * along < reach * reach


@scalar
def _darken(dark, tile, share):
    """Raise a tile of dark (n, n) to the share (64,) of each of its rays."""
    top = tile // (len(dark) // TILE) * TILE
    left = tile % (len(dark) // TILE) * TILE
    for i in range(TILE * TILE):
        y = top + i // TILE
        x = left + i % TILE
        dark[y, x] = max(dark[y, x], share[i])


@kernel
def shadows(parts, first, end, light, points, balls, dark):
    """Fill dark (n, n) with the share of the lamp's light that parts first..end-1 take."""
    lamp, soft = light.lamp, light.soft
    share = np.zeros(TILE * TILE, np.float32)
    dark[:] = f(0)
    for tile in range(len(balls)):
        met = False
        for p in range(first, end):
            if _reaches(parts[p], lamp, three(balls, tile), balls[tile, 3]):
                met = True
                shade = shade_of(parts[p], lamp)
                for i in range(TILE * TILE):  # no branches: eight or more at a time
                    point = three(points[tile].T, i)
                    share[i] = max(share[i], opacity(shade, soft, point))
        if met:
            _darken(dark, tile, share)
            share[:] = f(0)


@kernel
def contact(feet, reach, first, end, points, balls, dim):
    """Fill dim (n, n) with the share of the sky that things first..end-1 hide from the floor.

    feet: (k, 3) float32 m; reach: (k,) float32 m, how far from them.
    """
    share = np.empty(TILE * TILE, np.float32)
    dim[:] = f(0)
    for tile in range(len(balls)):
        for k in range(first, end):
            gap = minus(three(feet, k), three(balls, tile))
            if np.sqrt(dot(gap, gap)) >= reach[k] + balls[tile, 3]:
                continue
            for i in range(TILE * TILE):
                x, y, z = three(points[tile].T, i)
                a = (x - feet[k, 0]) / reach[k]
                b = (z - feet[k, 2]) / reach[k]
                close = max(f(1) - (a * a + b * b), f(0))
                low = clamp(f(1) - y / f(0.5), 0, 1)
                share[i] = f(0.6) * close * close * low
            _darken(dim, tile, share)
