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

# n parts; `turn` takes a part's axes to the world's; lengths in m.
# Paint: colour a, colour b (linear RGB), texture, repeats per metre, phase, glow (own light)
PART = np.dtype(
    [
        ("kind", "f8"),  # BALL, BOX or TUBE
        ("centre", "f8", 3),
        ("half", "f8", 3),  # sizes
        ("turn", "f8", (3, 3)),
        ("paint", "f8", 10),
    ]
)
# The same parts as one camera sees them. A ray is o + t (a u + b v + c): `ray` holds o, a, b, c in
# the part's coordinates; `inward` the world's axes x, y, z and its origin in them
SEEN = np.dtype(
    [
        ("kind", "i4"),
        ("centre", "f4", 3),
        ("half", "f4", 3),
        ("radius", "f4"),  # of a ball around it
        ("paint", "f4", 10),
        ("inward", "f4", (4, 3)),
        ("ray", "f4", (4, 3)),
        ("bounds", "f4", 4),  # u0, u1, v0, v1 in the picture
    ]
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

    @staticmethod
    def of(camera: Pinhole, across: int, margin: int) -> "Frame":
        n = -(-(across + 2 * margin) // TILE) * TILE
        step = f(2 * camera.tan / across)
        return Frame(n, across, margin, camera.rays().astype(np.float32), step)


@scalar
def project(camera, x, y, z):
    """A point, m -> u, v in -1..1 across the picture (v up) and its distance along the axis, m."""
    x -= camera.eye[0]
    y -= camera.eye[1]
    z -= camera.eye[2]
    axes = camera.axes
    far = x * axes[2, 0] + y * axes[2, 1] + z * axes[2, 2]
    safe = max(far, 1e-6) * camera.tan
    u = x * axes[0, 0] + y * axes[0, 1] + z * axes[0, 2]
    v = x * axes[1, 0] + y * axes[1, 1] + z * axes[1, 2]
    return u / safe, v / safe, far


def view(parts: np.ndarray, camera: Pinhole) -> np.ndarray:
    """(n,) SEEN of parts (n,) PART."""
    seen = np.empty(len(parts), SEEN)
    for name in ("kind", "centre", "half", "paint"):
        seen[name] = parts[name]
    _aim(parts, camera, camera.rays(), seen)
    return seen


@kernel
def _aim(parts, camera, rays, seen):
    for p in range(len(parts)):
        part = parts[p]
        half = part.half
        turn = part.turn
        centre = part.centre
        for i in range(3):
            x = turn[0, i] / half[i]  # the part's axis i
            y = turn[1, i] / half[i]
            z = turn[2, i] / half[i]
            offset = -(x * centre[0] + y * centre[1] + z * centre[2])
            seen[p].inward[0, i] = x
            seen[p].inward[1, i] = y
            seen[p].inward[2, i] = z
            seen[p].inward[3, i] = offset
            for k in range(4):
                along = x * rays[k, 0] + y * rays[k, 1] + z * rays[k, 2]
                seen[p].ray[k, i] = along + offset if k == 0 else along
        if part.kind == BALL:
            seen[p].radius = max(half[0], half[1], half[2])
        else:
            seen[p].radius = np.sqrt(half[0] ** 2 + half[1] ** 2 + half[2] ** 2)
        bounds = np.array([9.0, -9.0, 9.0, -9.0])
        nearest = np.inf
        furthest = -np.inf
        for corner in range(8):
            x = half[0] * (2 * (corner & 1) - 1)
            y = half[1] * ((corner & 2) - 1)
            z = half[2] * ((corner & 4) // 2 - 1)
            u, v, far = project(
                camera,
                turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z + centre[0],
                turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z + centre[1],
                turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z + centre[2],
            )
            bounds[0] = min(bounds[0], u)
            bounds[1] = max(bounds[1], u)
            bounds[2] = min(bounds[2], v)
            bounds[3] = max(bounds[3], v)
            nearest = min(nearest, far)
            furthest = max(furthest, far)
        for i in range(4):
            edge = 9.0 if i % 2 else -9.0
            if furthest <= NEAR_M:  # all behind: no pixel
                bounds[i] = -edge
            elif nearest <= NEAR_M:  # reaches the eye: the whole picture
                bounds[i] = edge
            seen[p].bounds[i] = min(max(bounds[i], -9.0), 9.0)


@scalar
def _common(near, far, enter, leave):
    """What two ranges have in common; nothing if one of them is none, or NaN."""
    near = enter if enter > near else near
    far = leave if leave < far else far
    return near, far if enter <= leave else -INFINITE


@scalar
def _planes(o, d):
    """Where o + t d lies in -1..1; all or nothing, counted as nothing, if d = 0."""
    inverse = f(1) / d
    middle = -o * inverse
    half = abs(inverse)
    return middle - half, middle + half


@scalar
def span(kind, ox, oy, oz, dx, dy, dz):
    """Where a ray o + t d enters and leaves a unit part: near, far; a miss has not near < far.

    In the part's coordinates, in half sizes. NaN counts as a miss.
    """
    near = -INFINITE
    far = INFINITE
    if kind != BALL:
        near, far = _common(near, far, *_planes(oy, dy))
    if kind == BOX:
        near, far = _common(near, far, *_planes(ox, dx))
        near, far = _common(near, far, *_planes(oz, dz))
        return near, far
    a = dx * dx
    b = ox * dx
    c = ox * ox
    if kind == BALL:
        a = a + dy * dy
        b = b + oy * dy
        c = c + oy * oy
    a = a + dz * dz
    b = b + oz * dz
    c = c + oz * oz - f(1)
    root = np.sqrt(max(b * b - a * c, f(0)))  # no root: near = far, a miss
    return _common(near, far, (-b - root) / a, (root - b) / a)


@kernel
def raster(parts, first, end, frame, z, part):
    """Lower z to the nearest of parts first..end-1 that each ray meets, and note its number.

    parts: (k,) SEEN; z: (n, n) float32, m; part: (n, n) int32.
    """
    step = f(2.0 / frame.across)
    last = len(z) - 1
    at = grid(frame)
    for p in range(first, end):
        kind = parts[p].kind
        bounds = parts[p].bounds
        left = max(0, int(np.floor((bounds[0] + f(1)) / step - f(0.5))) + frame.margin)
        right = min(last, int(np.ceil((bounds[1] + f(1)) / step - f(0.5))) + frame.margin)
        top = max(0, int(np.floor((f(1) - bounds[3]) / step - f(0.5))) + frame.margin)
        bottom = min(last, int(np.ceil((f(1) - bounds[2]) / step - f(0.5))) + frame.margin)
        ray = parts[p].ray
        ox, oy, oz = three(ray[0])
        ax, ay, az = three(ray[1])
        for y in range(top, bottom + 1):
            ex = ray[2, 0] * -at[y] + ray[3, 0]
            ey = ray[2, 1] * -at[y] + ray[3, 1]
            ez = ray[2, 2] * -at[y] + ray[3, 2]
            for x in range(left, right + 1):  # no branches: eight or more at a time
                u = at[x]
                near, far = span(kind, ox, oy, oz, ax * u + ex, ay * u + ey, az * u + ez)
                hit = (near < far) & (near > f(NEAR_M)) & (near < z[y, x])
                z[y, x] = near if hit else z[y, x]
                part[y, x] = p if hit else part[y, x]


@scalar
def grid(frame):
    """(n,) float32: where rays stand, -1..1 from edge to edge of the picture."""
    at = np.empty(frame.n, np.float32)
    for i in range(frame.n):
        at[i] = (f(i - frame.margin) + f(0.5)) * f(2.0 / frame.across) - f(1)
    return at


@scalar
def three(a):
    return a[0], a[1], a[2]


@scalar
def dot(a, b):
    """Scalar product of two threes, always added in the same order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@scalar
def clamp(x, low, high):
    return min(max(x, f(low)), f(high))


@scalar
def way_of(frame, u, v):
    """Of the ray (u, v) in the world, m for each metre along the camera's axis."""
    a, b, c = frame.rays[1], frame.rays[2], frame.rays[3]
    return (
        c[0] + a[0] * u + b[0] * v,
        c[1] + a[1] * u + b[1] * v,
        c[2] + a[2] * u + b[2] * v,
    )


@scalar
def along_ray(frame, u, v, z):
    """The point of the world, m, where the ray (u, v) is z m away."""
    way = way_of(frame, u, v)
    eye = frame.rays[0]
    return z * way[0] + eye[0], z * way[1] + eye[1], z * way[2] + eye[2]
