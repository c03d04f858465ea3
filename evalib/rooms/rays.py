"""Rays against boxes, balls and tubes: which part a pixel sees, how far it is, what it looks like.

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
NOTHING = (0x7F800000 << 32) | 0xFFFFFFFF  # key of a ray that meets nothing: infinite depth
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


class Camera(NamedTuple):
    """A pinhole at `eye` (3,) m; `axes` (3, 3): right, up, forward; `tan` of half its angle."""

    eye: np.ndarray
    axes: np.ndarray
    tan: float

    @staticmethod
    def aim(eye: tuple, yaw: float, pitch: float, roll: float, tan: float) -> "Camera":
        """Look along +z turned by `yaw` to the right, `pitch` down, and rolled; radians."""
        cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        right, up = np.array([cy, 0.0, -sy]), np.array([sy * sp, cp, cy * sp])
        forward = np.array([sy * cp, -sp, cy * cp])
        cr, sr = np.cos(roll), np.sin(roll)
        axes = np.stack([cr * right + sr * up, cr * up - sr * right, forward])
        return Camera(np.array(eye, float), axes, tan)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points (..., 3) m -> u, v in -1..1 across the picture (v up) and z along the axis, m."""
        p = (points - self.eye) @ self.axes.T
        z = p[..., 2]
        safe = np.maximum(z, 1e-6) * self.tan
        return p[..., 0] / safe, p[..., 1] / safe, z


class Parts(NamedTuple):
    """n parts: `kind` (n,), `centre` and `half` sizes (n, 3) m, `turn` (n, 3, 3), `paint` (n, 10).

    `turn` takes the part's axes to the world's. Paint: colour a, colour b (linear RGB), texture,
    repeats per metre, phase, glow (light of its own).
    """

    kind: np.ndarray
    centre: np.ndarray
    half: np.ndarray
    turn: np.ndarray
    paint: np.ndarray


def about_y(angle: float) -> np.ndarray:
    """(3, 3) turn that takes +z towards +x by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


class View:
    """Parts as one camera sees them: tables of float32 columns on a device.

    `kind` (n,) int64; `bounds` (4, n) u0, u1, v0, v1; `centre` (3, n) and `radius` (n,) m; `table`
    (46, n) of columns: rays in the part's coordinates, origin 0:3 and direction A u + B v + C 3:12;
    normal to the world 12:21; half 21:24; paint 24:34; world to part, matrix and offset 34:46.
    """

    def __init__(self, parts: Parts, camera: Camera, device: torch.device | str):
        inward = np.swapaxes(parts.turn, 1, 2) / parts.half[:, :, None]
        offset = -(inward @ parts.centre[:, :, None])[..., 0]
        eye = inward @ camera.eye + offset
        basis = camera.axes * np.array([[camera.tan], [camera.tan], [1.0]])
        direction = (inward @ basis.T).transpose(0, 2, 1).reshape(-1, 9)
        normal = (parts.turn / parts.half[:, None, :]).reshape(-1, 9)
        table = [eye, direction, normal, parts.half, parts.paint, inward.reshape(-1, 9), offset]
        corners = (_CORNERS * parts.half[:, None]) @ parts.turn.swapaxes(1, 2)
        u, v, z = camera.project(corners + parts.centre[:, None])
        bounds = np.stack([u.min(1), u.max(1), v.min(1), v.max(1)], 1)
        bounds[z.min(1) <= NEAR_M] = (-9, 9, -9, 9)  # reaches the eye: the whole picture
        bounds[z.max(1) <= NEAR_M] = (9, -9, 9, -9)  # all behind: no pixel
        reach = np.where(parts.kind == BALL, parts.half.max(1), np.linalg.norm(parts.half, axis=1))

        def send(x: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(x.T, np.float32)).to(device)

        self.table, self.bounds = send(np.concatenate(table, 1)), send(bounds.clip(-9, 9))
        self.centre, self.radius = send(parts.centre), send(reach)
        self.kind = torch.from_numpy(parts.kind.astype(np.int64)).to(device)
        self.camera = camera


def dot(a: Sequence, b: Sequence) -> Tensor:
    """Scalar product of vectors given as three tensors each."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def span(kind: int, o: Sequence[Tensor], d: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Where rays o + t d enter and leave a unit part: near, far; a miss has not near < far.

    o, d: three tensors each that broadcast; local coordinates in half sizes. NaN counts as a miss.
    """
    ranges = []
    for i in {BALL: (), BOX: (0, 1, 2), TUBE: (1,)}[kind]:  # between two planes
        inverse = 1 / d[i]
        middle, half = -o[i] * inverse, inverse.abs()
        ranges.append((middle - half, middle + half))
    if kind != BOX:
        axes = (0, 1, 2) if kind == BALL else (0, 2)
        a = sum(d[i] * d[i] for i in axes)
        b = sum(o[i] * d[i] for i in axes)
        c = sum(o[i] * o[i] for i in axes) - 1
        root = (b * b - a * c).clamp(min=0).sqrt()  # no root: near = far, a miss
        ranges.append(((-b - root) / a, (root - b) / a))
    near, far = ranges[0]
    for n, f in ranges[1:]:
        near, far = torch.maximum(near, n), torch.minimum(far, f)
    return near, far


def by_kind(kinds: Tensor) -> Iterator[tuple[int, Tensor]]:
    """A kind and where it stands in `kinds` (n,), at most CHUNK of them at a time."""
    for kind in (BALL, BOX, TUBE):
        for some in (kinds == kind).nonzero()[:, 0].split(CHUNK):
            if len(some):
                yield kind, some


def raster(view: View, owner: Tensor, offset: Tensor, n: int, across: int, buffer: Tensor) -> None:
    """Lower `buffer` to the nearest part each ray meets.

    Input:
        owner:  (parts,) int64, the picture a part belongs to.
        offset: (pictures, 2) int64 x, y of a picture's first ray in the camera's grid.
        n:      rays along a side of each picture; across: rays across the camera's whole view.
        buffer: (pictures * n * n,) int64 keys: float32 bits of z in the upper half, the part below.
    """
    shift, step = offset[owner].T, 2.0 / across
    u0, u1, v0, v1 = view.bounds
    x0 = (((u0 + 1) / step - 0.5).floor().long() - shift[0]).clamp(min=0)
    x1 = (((u1 + 1) / step - 0.5).ceil().long() - shift[0]).clamp(max=n - 1)
    y0 = (((1 - v1) / step - 0.5).floor().long() - shift[1]).clamp(min=0)
    y1 = (((1 - v0) / step - 0.5).ceil().long() - shift[1]).clamp(max=n - 1)
    # cover the bounds by tiles: of which part each is, its left and top ray
    wide = ((x1 - x0) // TILE + 1).clamp(min=0) * (x1 >= x0)
    count = wide * ((y1 - y0) // TILE + 1).clamp(min=0)
    which = torch.arange(len(count), device=count.device).repeat_interleave(count)
    nth = torch.arange(len(which), device=count.device) - (count.cumsum(0) - count)[which]
    row = nth // wide[which]
    left = (x0[which] + TILE * (nth - row * wide[which])).clamp(max=n - TILE)
    top = (y0[which] + TILE * row).clamp(max=n - TILE)
    start = (owner[which] * n + top) * n + left
    left, top = left + shift[0, which], top + shift[1, which]
    side = torch.arange(TILE, device=buffer.device)[:, None]
    inside = (side * n + side.T).view(-1, 1)
    for kind, some in by_kind(view.kind[which]):
        part = which[some]
        row = view.table[:12].index_select(1, part)
        u, v = grid(left[some] + side, across), -grid(top[some] + side, across)  # (8, T)
        d = [row[3 + i] * u[None] + (row[6 + i] * v + row[9 + i])[:, None] for i in range(3)]
        near, far = span(kind, row[:3], d)
        hit = ((near < far) & (near > NEAR_M)).view(-1).nonzero()[:, 0]
        pixel = (start[some] + inside).view(-1).index_select(0, hit)
        z = near.view(-1).index_select(0, hit).view(torch.int32).long()
        key = (z << 32) | part.index_select(0, hit % len(part))
        buffer.scatter_reduce_(0, pixel, key, "amin")


def grid(index: Tensor, across: int) -> Tensor:
    """Number of a ray, counted from the picture's edge -> -1..1 (float32)."""
    return (index + 0.5) * (2.0 / across) - 1


def opacity(
    view: View, kind: int, some: Tensor, light: Tensor, soft: float, point: Sequence[Tensor]
) -> Tensor:
    """How much of a light each part hides from points: 0 nothing .. 1 all.

    Input:
        some:  (k,) int64 parts, all of one kind, broadcast against `point`.
        light: (3,) where the light is, m; soft: its radius over its distance.
        point: three tensors (..., k) or (n, 1).
    Source: the chord inside a convex part, over the width of the light's cone, is near enough.
    """
    row = view.table[34:].index_select(1, some)
    lamp = [dot(row[3 * i : 3 * i + 3], light) + row[9 + i] for i in range(3)]
    o = [dot(row[3 * i : 3 * i + 3], point) + row[9 + i] for i in range(3)]
    d = [lamp[i] - o[i] for i in range(3)]
    near, far = span(kind, o, d)
    near, far = near.clamp(min=5e-4), far.clamp(max=1.0)  # t counts in ways from point to light
    share = (far - near) / (soft * (near + far) * 0.5 + 5e-4)
    return torch.where(far > near, share, torch.zeros_like(share)).clamp(0, 1)
