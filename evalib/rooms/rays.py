"""Rays against boxes, balls and tubes: which part a pixel's ray meets first, and how far away.

Every part is a unit box, ball or upright tube (a cylinder along y), scaled, turned and moved. A ray
is carried into the part's own coordinates, where a hit is a few lines. Only pixels inside a part's
projected bounds are tried, in tiles of 8 x 8 rays laid out (8, 8, tiles), so that parameters are
broadcast, not gathered per ray. Pixels see only + - * / sqrt, comparisons and exact minima: the
same bits come out whatever else is in the batch.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BALL, BOX, TUBE = 0, 1, 2
TILE = 8  # rays along the side of a tile
NEAR_M = 0.05  # nothing nearer to the camera is seen
CHUNK = 512  # tiles at a time: 64 rays x 512 x 4 bytes stay in a core's cache
PART = 0xFFFFFFFF  # the half of a ray's key that holds the part it meets; all bits set: none
NOTHING = (0x7F800000 << 32) | PART  # key of a ray that meets nothing: infinite depth


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
        return Pinhole(np.array(eye, float), axes, tan)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points (..., 3) m -> u, v in -1..1 across the picture (v up) and z along the axis, m."""
        p = (points - self.eye) @ self.axes.T
        z = p[..., 2]
        safe = np.maximum(z, 1e-6) * self.tan
        return p[..., 0] / safe, p[..., 1] / safe, z


class Parts(NamedTuple):
    """n parts; `turn` takes a part's axes to the world's.

    Paint: colour a, colour b (linear RGB), texture, repeats per metre, phase, glow (own light).
    """

    kind: np.ndarray  # (n,) BALL, BOX or TUBE
    centre: np.ndarray  # (n, 3) m
    half: np.ndarray  # (n, 3) m, half sizes
    turn: np.ndarray  # (n, 3, 3)
    paint: np.ndarray  # (n, 10)


def about_y(angle: float) -> np.ndarray:
    """(3, 3) turn that takes +z towards +x by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


class View:
    """n parts as one camera sees them: float32 columns on a device."""

    def __init__(self, parts: Parts, camera: Pinhole, device: torch.device | str):
        def send(x: np.ndarray) -> Tensor:  # (n, ...) -> (..., n)
            x = np.ascontiguousarray(np.moveaxis(x, 0, -1), np.float32)
            return torch.from_numpy(x).to(device)

        self.camera = camera
        self.kind = torch.from_numpy(parts.kind.astype(np.int64)).to(device)  # (n,)
        self.half = send(parts.half)  # (3, n) m
        self.paint = send(parts.paint)  # (10, n)
        self.centre = send(parts.centre)  # (3, n) m
        reach = np.where(parts.kind == BALL, parts.half.max(1), np.linalg.norm(parts.half, axis=1))
        self.radius = send(reach)  # (n,) m, of a ball around each
        inward = parts.turn.swapaxes(1, 2) / parts.half[:, :, None]
        offset = -(inward @ parts.centre[:, :, None])  # (n, 3, 1)
        # (4, 3, n) the world's axes x, y, z and its origin in the part's coordinates; the axes'
        # transpose takes a normal from the part to the world
        self.inward = send(np.c_[inward, offset].swapaxes(1, 2))
        # rays are o + t (a u + b v + c): o, a, b, c in the world, and in each part's coordinates
        basis = camera.axes * np.array([[camera.tan], [camera.tan], [1.0]])
        self.world_ray = send(np.stack([camera.eye, *basis])[None])  # (4, 3, 1)
        eye = inward @ camera.eye[:, None] + offset
        self.ray = send(np.c_[eye, inward @ basis.T].swapaxes(1, 2))  # (4, 3, n)
        signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
        corners = (signs * parts.half[:, None]) @ parts.turn.swapaxes(1, 2)  # (n, 8, 3)
        u, v, z = camera.project(corners + parts.centre[:, None])
        bounds = np.stack([u.min(1), u.max(1), v.min(1), v.max(1)], 1)
        bounds[z.min(1) <= NEAR_M] = (-9, 9, -9, 9)  # reaches the eye: the whole picture
        bounds[z.max(1) <= NEAR_M] = (9, -9, 9, -9)  # all behind: no pixel
        self.bounds = send(bounds.clip(-9, 9))  # (4, n) u0, u1, v0, v1


def dot(a: Sequence | Tensor, b: Sequence | Tensor) -> Tensor:
    """Scalar product over the first axis, of size 3, always added in the same order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def span(kind: int, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays o + t d enter and leave a unit part: near, far; a miss has not near < far.

    o, d: (3, ...), broadcast; the part's coordinates, in half sizes. NaN counts as a miss.
    """
    ranges = []
    for i in {BALL: (), BOX: (0, 1, 2), TUBE: (1,)}[kind]:  # between two planes
        inverse = 1 / d[i]
        middle = -o[i] * inverse
        half = inverse.abs()
        ranges.append((middle - half, middle + half))
    if kind != BOX:
        axes = (0, 1, 2) if kind == BALL else (0, 2)
        a = sum(d[i] * d[i] for i in axes)
        b = sum(o[i] * d[i] for i in axes)
        c = sum(o[i] * o[i] for i in axes) - 1
        root = (b * b - a * c).clamp(min=0).sqrt()  # no root: near = far, a miss
        ranges.append(((-b - root) / a, (root - b) / a))
    near, far = ranges[0]
    for enter, leave in ranges[1:]:
        near = torch.maximum(near, enter)
        far = torch.minimum(far, leave)
    return near, far


def by_kind(kinds: Tensor) -> Iterator[tuple[int, Tensor]]:
    """A kind and where it stands in `kinds` (n,), at most CHUNK of them at a time."""
    for kind in (BALL, BOX, TUBE):
        for some in (kinds == kind).nonzero()[:, 0].split(CHUNK):
            if len(some):
                yield kind, some


def raster(view: View, owner: Tensor, offset: Tensor, n: int, across: int, keys: Tensor) -> None:
    """Lower `keys` to the nearest part each ray meets.

    Input:
        owner:  (parts,) int64, the picture a part belongs to.
        offset: (pictures, 2) int64 x, y of a picture's first ray in the camera's grid.
        n:      rays along a side of each picture; across: rays across the camera's whole view.
        keys:   (pictures * n * n,) int64: float32 bits of z in the upper half, the part below.
    """
    shift_x, shift_y = offset[owner].T
    step = 2.0 / across
    u0, u1, v0, v1 = view.bounds
    x0 = (((u0 + 1) / step - 0.5).floor().long() - shift_x).clamp(min=0)
    x1 = (((u1 + 1) / step - 0.5).ceil().long() - shift_x).clamp(max=n - 1)
    y0 = (((1 - v1) / step - 0.5).floor().long() - shift_y).clamp(min=0)
    y1 = (((1 - v0) / step - 0.5).ceil().long() - shift_y).clamp(max=n - 1)
    # cover the bounds by tiles: of which part each is, its left and top ray
    wide = ((x1 - x0) // TILE + 1).clamp(min=0) * (x1 >= x0)
    count = wide * ((y1 - y0) // TILE + 1).clamp(min=0)
    which = torch.arange(len(count), device=count.device).repeat_interleave(count)  # (tiles,)
    nth = torch.arange(len(which), device=count.device) - (count.cumsum(0) - count)[which]
    row = nth // wide[which]
    left = (x0[which] + TILE * (nth - row * wide[which])).clamp(max=n - TILE)
    top = (y0[which] + TILE * row).clamp(max=n - TILE)
    first = (owner[which] * n + top) * n + left
    left = left + shift_x[which]
    top = top + shift_y[which]
    side = torch.arange(TILE, device=keys.device)[:, None]
    inside = (side * n + side.T).view(-1, 1)  # (64, 1) a tile's rays, counted from its first
    for kind, some in by_kind(view.kind[which]):
        part = which[some]
        o, a, b, c = view.ray.index_select(2, part)[:, :, None]  # (3, 1, tiles)
        u = grid(left[some] + side, across)  # (8, tiles)
        v = -grid(top[some] + side, across)
        d = (a * u)[:, None] + (b * v + c)[:, :, None]  # (3, 8, 8, tiles)
        near, far = span(kind, o, d)  # (8, 8, tiles)
        hit = ((near < far) & (near > NEAR_M)).view(-1).nonzero()[:, 0]
        pixel = (first[some] + inside).view(-1).index_select(0, hit)
        z = near.view(-1).index_select(0, hit).view(torch.int32).long()
        key = (z << 32) | part.index_select(0, hit % len(part))
        keys.scatter_reduce_(0, pixel, key, "amin")


def depth_of(keys: Tensor) -> Tensor:
    """Metres along the camera's axis to what rays meet; inf for nothing."""
    return (keys >> 32).int().view(torch.float32)


def grid(index: Tensor, across: int) -> Tensor:
    """Number of a ray, counted from the picture's edge -> -1..1 (float32)."""
    return (index + 0.5) * (2.0 / across) - 1
