"""Who stands where: objects on the floor, clear of the furniture, large or small, and seen."""

from typing import NamedTuple

import numpy as np
import torch

from evalib.manifest import N_FG, N_PLACEMENTS, held_out
from evalib.rooms import objects
from evalib.rooms.backdrop import PROBE, Backdrop, probe
from evalib.rooms.builder import chance
from evalib.rooms.rays import NOTHING, Parts, View, about_y, depth_of, raster

EMPTY_SHARE = 0.02
TRIES = 24
INDOORS_M = 0.65  # half of the largest thing in a room: a car there is a child's
AREA = (0.007, 2.2)  # share of the picture an object is meant to fill, if the place allows


def empty(ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N,) bool: which samples show nothing new, whatever object their number names."""
    return chance(seed, ids, "empty", 1)[:, 0] < EMPTY_SHARE


class Cast(NamedTuple):
    """k objects in the pictures of a group."""

    owner: np.ndarray  # (k,) the picture an object is in
    at: np.ndarray  # (k, 3) m, its feet
    wide: np.ndarray  # (k,) m, its half width
    parts: Parts
    which: np.ndarray  # (parts,) the object a part belongs to


def cast(seed: int, bg: int, ids: np.ndarray) -> Cast | None:
    """Choose objects and spots until each sample meant to show something does; None: all empty."""
    drop = probe(seed, bg)
    owner = np.flatnonzero(~empty(ids, seed))
    if not len(owner):
        return None
    spot = ids // 2
    mirror = ids % 2 == 1
    fg = ids // N_PLACEMENTS % N_FG
    first = owner, fg[owner], *_settle(seed, drop, fg[owner], spot[owner], mirror[owner])
    more = [_company(seed, drop, *first, spot[owner], *which) for which in ((1, 0.25), (2, 0.08))]
    owner, fg, at, yaw = (np.concatenate(columns) for columns in zip(first, *more, strict=True))
    them = _assemble(seed, drop, owner, fg, at, yaw, mirror[owner])
    colours = them.parts.paint[:, :6]
    r = chance(seed, spot[owner], "clothes", 2)[them.which]
    alike = r[:, 0] < 0.08  # in the colours of the walls or the floor
    shell = drop.place.parts.paint[: drop.place.shell, :6]
    model = shell[(r[alike, 1] * len(shell)).astype(int)]
    colours[alike] = 0.3 * colours[alike] + 0.7 * model
    colours[r[:, 0] > 0.93] *= 0.15  # dark
    return them


def _settle(seed: int, drop: Backdrop, fg, spot, mirror) -> tuple[np.ndarray, np.ndarray]:
    """Feet (B, 3) and headings (B,) at which the camera sees enough of each object."""
    best = np.full((len(fg), 5), -1.0)  # rays that meet the object, feet, heading
    left = np.arange(len(fg))
    for attempt in range(10):
        at, yaw = _stand(seed, drop, fg[left], spot[left], attempt)
        alone = _assemble(seed, drop, np.arange(len(left)), fg[left], at, yaw, mirror[left])
        found = np.c_[_visible(drop, alone), at, yaw]
        better = found[:, 0] > best[left, 0]
        best[left[better]] = found[better]
        left = left[best[left, 0] < 3]
        if not len(left):
            break
    return best[:, 1:4], best[:, 4]


def _company(seed: int, drop: Backdrop, owner, fg, at, yaw, spot, nth: int, share: float) -> tuple:
    """The nth companions: owner, object, feet, heading of those that keep clear of the first."""
    some = chance(seed, spot, "company", 1)[:, 0] < share
    if not some.any():
        return owner[:0], fg[:0], at[:0], yaw[:0]
    owner, fg, at, spot = owner[some], fg[some], at[some], spot[some]
    other = _companion(fg, chance(seed, spot, f"companion {nth}", 1)[:, 0])
    its_at, its_yaw = _stand(seed, drop, other, spot, -nth)
    room = _things(seed, drop, other)[1] + _things(seed, drop, fg)[1]
    apart = np.linalg.norm(its_at - at, axis=1) > 0.7 * room[:, [0, 2]].max(1)
    return owner[apart], other[apart], its_at[apart], its_yaw[apart]


def _companion(fg: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Another object from the same side of the split, so that no held-out object slips in."""
    seen = (r * 80).astype(np.int64)
    unseen = (r * 20).astype(np.int64)
    return np.where(held_out(fg), unseen * 5 + 4, seen // 4 * 5 + seen % 4)


def _things(seed: int, drop: Backdrop, fg: np.ndarray) -> tuple[list[Parts], np.ndarray]:
    """Parts of objects, no larger than the place allows; half width, height, half depth (k, 3)."""
    limit = INDOORS_M if drop.place.indoors else np.inf
    parts, sizes = zip(*(objects.build(seed, int(i), limit) for i in fg), strict=True)
    return parts, np.stack(sizes)


def _assemble(seed: int, drop: Backdrop, owner, fg, at, yaw, mirror) -> Cast:
    """Move every object's parts to its place: mirrored in x, turned about y, shifted."""
    things, size = _things(seed, drop, fg)
    which = np.repeat(np.arange(len(fg)), [len(parts.kind) for parts in things])
    parts = Parts(*(np.concatenate(columns) for columns in zip(*things, strict=True)))
    turn = np.stack([about_y(angle) for angle in yaw])[which]
    hand = np.where(mirror[which, None], (-1.0, 1.0, 1.0), 1.0)
    centre = (turn @ (parts.centre * hand)[:, :, None])[..., 0] + at[which]
    turn = turn @ (hand[:, :, None] * parts.turn * hand[:, None, :])
    return Cast(owner, at, size[:, [0, 2]].max(1), parts._replace(centre=centre, turn=turn), which)


def _stand(seed: int, drop: Backdrop, fg, keys, attempt: int) -> tuple[np.ndarray, np.ndarray]:
    """Pick from TRIES spots on the floor (B, 3) the first that is free and seen; headings (B,)."""
    place = drop.place
    camera = place.camera
    r = chance(seed, keys, f"spot {attempt}", 3 + 2 * TRIES)
    turn, size, luck, depths, sides = np.split(r, [1, 2, 3, 3 + TRIES], axis=1)
    across, tall, deep = _things(seed, drop, fg)[1].T[:, :, None]  # (B, 1)
    yaw = 2 * np.pi * turn
    c, s = np.abs(np.cos(yaw)), np.abs(np.sin(yaw))
    wide = c * across + s * deep
    long = s * across + c * deep
    drift = (depths - 0.5) * np.linspace(0.2, 3 + attempt % 4, TRIES)  # then any size
    area = AREA[0] * (AREA[1] / AREA[0]) ** size**0.75 * np.exp(drift)
    z = np.sqrt(0.3 * wide * tall / area.clip(0.002, 0.8)) / camera.tan  # (B, TRIES)
    slope = camera.tan * camera.axes[1, 1] - camera.axes[2, 1]  # of the lowest ray, down per metre
    feet = 1.03 * camera.eye[1] / max(slope, 0.05)  # nearest spot whose floor is in the picture
    hidden = z < feet - 0.7 * tall / max(slope, 0.05)  # all but the top below the picture
    z = np.where(hidden, feet * (1 + 0.3 * depths), z)
    z = z.clip(np.maximum(0.5, long + 0.25), place.reach)
    u = (1.9 * sides - 0.95) * camera.tan * z
    down = -(z * camera.axes[2, 1] + u * camera.axes[0, 1] + camera.eye[1]) / camera.axes[1, 1]
    at = camera.eye + np.stack([u, down, z], -1) @ camera.axes  # (B, TRIES, 3)
    left, right = at[..., 0] - wide, at[..., 0] + wide
    near, far = at[..., 2] - long, at[..., 2] + long
    x0, x1, z0, z1 = place.floor
    score = 4.0 * ((left > x0) & (right < x1)) + 4.0 * ((near > z0) & (far < z1))
    for x0, x1, z0, z1 in place.blocks if attempt < 6 else ():
        score -= 3.0 * ((right > x0) & (left < x1) & (far > z0) & (near < z1))
    # of nine points: of the large ones few need be seen, of the others half are wholly seen
    wanted = np.where(size > 0.5, 3, np.minimum(3 + np.floor(13 * luck), 9))
    seen, hidden = _glimpses(drop, at, wide[..., None] * 0.85, tall[..., None])
    score += np.minimum(seen, wanted) + 4 * ((luck < 0.3) & (seen > 2) & (hidden > 1))
    best = score.argmax(1)  # the first of the best
    return at[np.arange(len(fg)), best] * [1, 0, 1], yaw[:, 0]


def _glimpses(drop: Backdrop, at: np.ndarray, wide, tall) -> tuple[np.ndarray, np.ndarray]:
    """(B, TRIES) how many of a thing's nine points in the picture are seen, and how many hidden."""
    side, height = np.meshgrid((-1, 0, 1), (0.08, 0.5, 0.92))
    camera = drop.place.camera
    p = at[..., None, :] + (wide * side.ravel())[..., None] * camera.axes[0]
    p = p + (tall * height.ravel())[..., None] * np.array([0, 1.0, 0])
    u, v, z = camera.project(p)
    x = ((u + 1) * PROBE / 2).clip(0, PROBE - 1).astype(int) + drop.margin
    y = ((1 - v) * PROBE / 2).clip(0, PROBE - 1).astype(int) + drop.margin
    inside = (np.abs(u) < 0.97) & (np.abs(v) < 0.97) & (z > 0.1)
    clear = z < drop.z.numpy()[y * drop.n + x]
    return (inside & clear).sum(-1), (inside & ~clear).sum(-1)


def _visible(drop: Backdrop, them: Cast) -> np.ndarray:
    """(k,) rays of the coarse picture that meet each object; 0 if hardly seen, 1 if too near."""
    k = len(them.owner)
    keys = torch.full((k * PROBE**2,), NOTHING, dtype=torch.int64)
    view = View(them.parts, drop.place.camera, "cpu")
    first = torch.zeros(k, 2, dtype=torch.int64)
    raster(view, torch.from_numpy(them.which), first, PROBE, PROBE, keys)
    z = depth_of(keys).view(k, PROBE, PROBE)
    behind = drop.cut(drop.z[None], np.zeros((1, 2), int))
    hit = (z < 1e9).sum((1, 2)).numpy()
    seen = (z < behind).sum((1, 2)).numpy()
    return np.where(seen > 0.65 * PROBE**2, 1, np.where(seen * 5 >= hit, seen, 0))
