"""Rays against boxes, balls and tubes: which part a pixel's ray meets first, and how far away.

Every part is a unit box, ball or upright tube (a cylinder along y), scaled, turned and moved. A ray
is carried into the part's own coordinates, where a hit is a few lines. Only rays inside a part's
projected bounds are tried. Rays see only + - * / sqrt and comparisons, in float32.
"""

from typing import NamedTuple

import numpy as np

from evalib.rooms.kernels import kernel, scalar

BALL, BOX, TUBE = 0, 1, 2
TILE = 8  # rays along the side of a tile
NEAR_M = 0.05  # nothing nearer to the camera is seen
f = np.float32  # of constants: a bare 0.5 would make float64 of what it meets
INFINITE = f(np.inf)

# A part: BALL, BOX or TUBE; where, how large and how turned (its axes to the world's) it is, in m;
# its paint: colour a, colour b (linear RGB), texture, repeats per metre, phase, glow (own light)
PART = np.dtype(
    [("kind", "f8"), ("centre", "f8", 3), ("half", "f8", 3), ("turn", "f8", (3, 3))]
    + [("paint", "f8", 10)]
)
# The same as one camera sees it. `ray` holds o, a, b, c of its rays o + t (a u + b v + c) in the
# part's coordinates, `inward` the world's axes x, y, z and its origin in them; `radius` is of a
# ball around it, `bounds` are u0, u1, v0, v1 in the picture
SEEN = np.dtype(
    [("kind", "i4"), ("centre", "f4", 3), ("half", "f4", 3), ("radius", "f4"), ("paint", "f4", 10)]
    + [("inward", "f4", (4, 3)), ("ray", "f4", (4, 3)), ("bounds", "f4", 4)]
)


class Pinhole(NamedTuple):
    """A pinhole at `eye` (3,) m; `axes` (3, 3): right, up, forward; `tan` of half its angle."""

    eye: np.ndarray
    axes: np.ndarray
    tan: float

    @staticmethod
    def aim(eye: tuple, yaw: float, pitch: float, roll: float, tan: float) -> "Pinhole":
        """Look along +z turned by `yaw` to the right, `pitch` down, and rolled; radians."""
        cy, sy = np.cos(yaw), np.sin(yaw)
        cp, sp = np.cos(pitch), np.sin(pitch)
        cr, sr = np.cos(roll), np.sin(roll)
        right = np.array([cy, 0.0, -sy])
        up = np.array([sy * sp, cp, cy * sp])
        forward = np.array([sy * cp, -sp, cy * cp])
        axes = np.stack([cr * right + sr * up, cr * up - sr * right, forward])
        return Pinhole(np.array(eye, float), axes, float(tan))

    def rays(self) -> np.ndarray:
        """(4, 3) o, a, b, c of its rays o + t (a u + b v + c); t is the distance along the axis."""
        return np.vstack([self.eye, self.axes * [[self.tan], [self.tan], [1.0]]])


class Frame(NamedTuple):
    """A square of n x n rays of a camera, `across` of them the picture, `margin` on each side."""

    n: int
    across: int
    margin: int
    rays: np.ndarray  # (4, 3) float32, the camera's
    step: float  # float32, m between neighbouring rays 1 m away
    at: np.ndarray  # (n,) float32: where columns (and rows) stand, -1..1 across the picture

    @staticmethod
    def of(camera: Pinhole, across: int, margin: int) -> "Frame":
        n = -(-(across + 2 * margin) // TILE) * TILE
        step = f(2 * camera.tan / across)
        at = (np.arange(-margin, n - margin, dtype=np.float32) + f(0.5)) * f(2 / across) - f(1)
        return Frame(n, across, margin, camera.rays().astype(np.float32), step, at)


@scalar
def project(camera, point):
    """A point, m -> u, v in -1..1 across the picture (v up) and its distance along the axis, m."""
    way = minus(point, camera.eye)
    far = dot(way, three(camera.axes, 2))
    safe = max(far, 1e-6) * camera.tan
    return dot(way, three(camera.axes, 0)) / safe, dot(way, three(camera.axes, 1)) / safe, far


def times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """(..., 3, 3) by (..., 3), always added in the same order, which `@` does not promise."""
    x, y, z = vector[..., :1], vector[..., 1:2], vector[..., 2:]
    return matrix[..., 0] * x + matrix[..., 1] * y + matrix[..., 2] * z


def view(parts: np.ndarray, camera: Pinhole) -> np.ndarray:
    """(n,) SEEN of parts (n,) PART."""
    seen = np.empty(len(parts), SEEN)
    for name in ("kind", "centre", "half", "paint"):
        seen[name] = parts[name]
    _aim(parts, camera, camera.rays(), seen)
    return seen


@kernel
def _aim(parts, camera, rays, seen):
    """Fill in what depends on the camera."""
    for p in range(len(parts)):
        half, turn, centre = parts[p].half, parts[p].turn, parts[p].centre
        inward, ray, bounds = seen[p].inward, seen[p].ray, seen[p].bounds
        longest = max(half[0], half[1], half[2])
        seen[p].radius = longest if parts[p].kind == BALL else np.sqrt(dot(half, half))
        for i in range(3):
            axis = turn[0, i] / half[i], turn[1, i] / half[i], turn[2, i] / half[i]
            inward[0, i], inward[1, i], inward[2, i] = axis
            inward[3, i] = -dot(axis, centre)
            ray[0, i] = dot(axis, three(rays, 0)) - dot(axis, centre)
            for k in range(1, 4):
                ray[k, i] = dot(axis, three(rays, k))
        left = bottom = nearest = np.inf
        right = top = furthest = -np.inf
        for corner in range(8):
            point = centre[0], centre[1], centre[2]
            for i in range(3):
                point = mixed(point, three(turn.T, i), half[i] * (2 * (corner >> i & 1) - 1))
            u, v, far = project(camera, point)
            left, right = min(left, u), max(right, u)
            bottom, top = min(bottom, v), max(top, v)
            nearest, furthest = min(nearest, far), max(furthest, far)
        if furthest <= NEAR_M:  # all behind: no pixel
            left, right, bottom, top = 9.0, -9.0, 9.0, -9.0
        elif nearest <= NEAR_M:  # reaches the eye: the whole picture
            left, right, bottom, top = -9.0, 9.0, -9.0, 9.0
        bounds[0], bounds[1] = max(left, -9.0), min(right, 9.0)
        bounds[2], bounds[3] = max(bottom, -9.0), min(top, 9.0)


@scalar
def span(kind, o, d):
    """Where a ray o + t d enters and leaves a unit part: near, far; a miss has not near < far.

    o, d: threes in the part's coordinates, in half sizes. NaN counts as a miss.
    """
    near = -INFINITE
    far = INFINITE
    if kind != BALL:
        near, far = _between_planes(near, far, o[1], d[1])
    if kind == BOX:
        near, far = _between_planes(near, far, o[0], d[0])
        near, far = _between_planes(near, far, o[2], d[2])
        return near, far
    if kind == TUBE:  # as seen from above
        o = o[0], f(0), o[2]
        d = d[0], f(0), d[2]
    a = dot(d, d)
    b = dot(o, d)
    c = dot(o, o) - f(1)
    root = np.sqrt(max(b * b - a * c, f(0)))  # no root: near = far, a miss
    return _common(near, far, (-b - root) / a, (root - b) / a)


@scalar
def _between_planes(near, far, o, d):
    """What of a range has o + t d in -1..1; nothing if d = 0."""
    inverse = f(1) / d
    middle = -o * inverse
    half = abs(inverse)
    return _common(near, far, middle - half, middle + half)


@scalar
def _common(near, far, enter, leave):
    """What two ranges have in common; nothing if the second is none, or NaN."""
    near = enter if enter > near else near
    far = leave if leave < far else far
    return near, far if enter <= leave else -INFINITE


@kernel
def raster(parts, first, end, frame, z, part):
    """Lower z to the nearest of parts first..end-1 that each ray meets, and note its number.

    parts: (k,) SEEN; z: (n, n) float32, m; part: (n, n) int32.
    """
    step = f(2.0 / frame.across)
    last = len(z) - 1
    at = frame.at
    for p in range(end - 1, first - 1, -1):  # of equally near parts the first is seen
        kind = parts[p].kind
        bounds = parts[p].bounds
        left = max(0, int(np.floor((bounds[0] + f(1)) / step - f(0.5))) + frame.margin)
        right = min(last, int(np.ceil((bounds[1] + f(1)) / step - f(0.5))) + frame.margin)
        top = max(0, int(np.floor((f(1) - bounds[3]) / step - f(0.5))) + frame.margin)
        bottom = min(last, int(np.ceil((f(1) - bounds[2]) / step - f(0.5))) + frame.margin)
        ray = parts[p].ray
        o = three(ray, 0)
        a = three(ray, 1)
        for y in range(top, bottom + 1):
            row = mixed(three(ray, 3), three(ray, 2), -at[y])
            for x in range(left, right + 1):  # no branches: eight or more at a time
                near, far = span(kind, o, mixed(row, a, at[x]))
                hit = (near < far) & (near > f(NEAR_M)) & (near <= z[y, x])
                z[y, x] = near if hit else z[y, x]
                part[y, x] = p if hit else part[y, x]


@scalar
def three(a, row):
    return a[row, 0], a[row, 1], a[row, 2]


@scalar
def mixed(a, b, share):
    """a + b * share, of threes."""
    return a[0] + b[0] * share, a[1] + b[1] * share, a[2] + b[2] * share


@scalar
def minus(a, b):
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


@scalar
def dot(a, b):
    """Scalar product of two threes, always added in the same order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@scalar
def clamp(x, low, high):
    return min(max(x, f(low)), f(high))
