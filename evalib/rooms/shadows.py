"""Shadows: what parts take from the lamp's light, and feet from the light all around.

A shadow is tried only on tiles of 8 x 8 rays that it can reach, a ball around each telling which.
"""

import numpy as np

from evalib.rooms.kernels import kernel, scalar
from evalib.rooms.rays import TILE, along_ray, clamp, dot, f, minus, span, three

HEIGHTS = (0.3, 0.8, 1.3)  # m above its feet: where a thing asks how much of the lamp reaches it


@scalar
def _inside(inward, point):
    """A point of the world in a part's coordinates."""
    x, y, z, origin = inward
    return (
        x[0] * point[0] + y[0] * point[1] + z[0] * point[2] + origin[0],
        x[1] * point[0] + y[1] * point[1] + z[1] * point[2] + origin[1],
        x[2] * point[0] + y[2] * point[1] + z[2] * point[2] + origin[2],
    )


@scalar
def shade_of(part, lamp):
    """What `opacity` needs to know of a part."""
    way = part.inward
    inward = three(way, 0), three(way, 1), three(way, 2), three(way, 3)
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
def lit(parts, shell, light, foot):
    """How much of the lamp reaches a thing on its `foot` past the parts from `shell` on."""
    lamp, soft = light.lamp, light.soft
    total = f(0)
    for height in HEIGHTS:
        point = f(foot[0]), f(foot[1] + height), f(foot[2])
        dark = f(0)
        for p in range(shell, len(parts)):
            dark = max(dark, opacity(shade_of(parts[p], lamp), soft, point))
        total += dark
    return f(1) - total / f(len(HEIGHTS))


@kernel
def _points(frame, at, z, tile, points):
    """Fill (3, 64) with the points, m, that a tile's rays meet; at most a kilometre off."""
    side = frame.n // TILE
    top = tile // side * TILE
    left = tile % side * TILE
    for i in range(TILE * TILE):
        y = top + i // TILE
        x = left + i % TILE
        point = along_ray(frame.rays, at[x], -at[y], min(z[y, x], f(1e3)))
        points[0, i], points[1, i], points[2, i] = point


@kernel
def enclose(frame, z, balls):
    """Fill (tiles, 4) with a ball around what each tile's rays meet, radius -1 if nothing."""
    at = frame.at
    points = np.empty((3, TILE * TILE), np.float32)
    side = frame.n // TILE
    for tile in range(len(balls)):
        _points(frame, at, z, tile, points)
        square = f(0)
        found = False
        for axis in range(3):
            low = f(1e9)
            high = f(-1e9)
            for i in range(TILE * TILE):
                if z[tile // side * TILE + i // TILE, tile % side * TILE + i % TILE] < np.inf:
                    low = min(low, points[axis, i])
                    high = max(high, points[axis, i])
                    found = True
            balls[tile, axis] = (low + high) * f(0.5)
            square += (high - low) ** 2
        # a little larger, as sums are rounded
        balls[tile, 3] = np.sqrt(square) * f(0.501) if found else f(-1)


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


@kernel
def shadows(parts, first, end, frame, light, z, balls, dark):
    """Fill dark (n, n) with the share of the lamp's light that parts first..end-1 take."""
    at = frame.at
    points = np.empty((3, TILE * TILE), np.float32)
    hidden = np.empty(TILE * TILE, np.float32)
    lamp, soft = light.lamp, light.soft
    side = frame.n // TILE
    dark[:] = f(0)
    for tile in range(len(balls)):
        if balls[tile, 3] < f(0):
            continue
        met = False
        for p in range(first, end):
            if not _reaches(parts[p], lamp, three(balls, tile), balls[tile, 3]):
                continue
            if not met:
                _points(frame, at, z, tile, points)
                hidden[:] = f(0)
                met = True
            shade = shade_of(parts[p], lamp)
            for i in range(TILE * TILE):  # no branches: eight or more at a time
                point = points[0, i], points[1, i], points[2, i]
                hidden[i] = max(hidden[i], opacity(shade, soft, point))
        if met:
            top = tile // side * TILE
            left = tile % side * TILE
            for i in range(TILE * TILE):
                dark[top + i // TILE, left + i % TILE] = hidden[i]


@kernel
def contact(feet, reach, first, end, frame, z, balls, dim):
    """Fill dim (n, n) with the share of the sky that things first..end-1 hide from the floor.

    feet: (k, 3) float32 m; reach: (k,) float32 m, how far from them.
    """
    at = frame.at
    points = np.empty((3, TILE * TILE), np.float32)
    side = frame.n // TILE
    dim[:] = f(0)
    for tile in range(len(balls)):
        if balls[tile, 3] < f(0):
            continue
        for k in range(first, end):
            gap = minus(three(feet, k), three(balls, tile))
            if np.sqrt(dot(gap, gap)) >= reach[k] + balls[tile, 3]:
                continue
            _points(frame, at, z, tile, points)
            for i in range(TILE * TILE):
                x = (points[0, i] - feet[k, 0]) / reach[k]
                y = (points[2, i] - feet[k, 2]) / reach[k]
                close = max(f(1) - (x * x + y * y), f(0))
                low = clamp(f(1) - points[1, i] / f(0.5), 0, 1)
                share = f(0.6) * close * close * low
                row = tile // side * TILE + i // TILE
                column = tile % side * TILE + i % TILE
                dim[row, column] = max(dim[row, column], share)
