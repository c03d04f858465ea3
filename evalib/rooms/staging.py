"""Who stands where: objects on the floor, clear of the furniture, large or small, and seen."""

from typing import NamedTuple

import numpy as np

from evalib.manifest import N_FG, N_PLACEMENTS, held_out, index_of
from evalib.rooms import objects, places
from evalib.rooms.backdrop import PROBE, probe
from evalib.rooms.builder import chance
from evalib.rooms.kernels import kernel
from evalib.rooms.rays import PART, SEEN, mixed, project, raster, view

EMPTY_SHARE = 0.02
TRIES = 24
AREA = (0.007, 2.2)  # share of the picture an object is meant to fill, if the place allows


class Habits(NamedTuple):
    """How things stand in a place."""

    crowds: float  # share of the places that are crowded
    least: float  # share of the picture that the smallest are meant to fill
    least_there: float  # and do, where there is little room
    beyond: float  # where the middle of a thing may be, across the picture: 1 is its edge


BEFORE = Habits(crowds=0, least=AREA[0], least_there=0.002, beyond=0.95)
SINCE = Habits(crowds=0.12, least=0.35 * AREA[0], least_there=0.001, beyond=1.12)


def _habits(bg: int) -> Habits:
    return SINCE if bg >= places.MORE else BEFORE


def empty(ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N,) bool: which samples show nothing new, whatever object their number names."""
    return chance(seed, ids, "empty", 1)[:, 0] < EMPTY_SHARE


class Cast(NamedTuple):
    """k objects in the pictures of B samples, by sample, and their parts, by object."""

    at: np.ndarray  # (k, 3) float32 m, their feet
    reach: np.ndarray  # (k,) float32 m, of the shade at their feet
    parts: np.ndarray  # (n,) SEEN
    thing: np.ndarray  # (n,) int64, the object a part belongs to
    first_thing: np.ndarray  # (B + 1,) int64: sample i has the things first_thing[i : i + 1]
    first_part: np.ndarray  # (B + 1,) int64: and the parts


def nobody(n: int) -> Cast:
    """The cast of n empty pictures."""
    at = np.empty((0, 3), np.float32)
    none = np.zeros(n + 1, np.int64)
    return Cast(at, at[:, 0].copy(), np.empty(0, SEEN), none[:0], none, none)


def leaving(seed: int, bg: int, n: int) -> Cast:
    """The cast of n empty pictures: nobody, or in a few places what is there no more later."""
    luck = chance(seed, [bg], "left", 3)[0]
    if bg < places.MORE or luck[0] >= places.LEFT:
        return nobody(n)
    fg = int(luck[1] * 20) * 5 + bg % 4  # never of those that are held out
    which = (bg * N_FG + fg) * N_PLACEMENTS + int(luck[2] * N_PLACEMENTS)
    return cast(seed, bg, np.full(n, which))


def cast(seed: int, bg: int, ids: np.ndarray) -> Cast:
    """Choose objects and spots until each of the samples meant to show something does."""
    place = places.build(seed, bg)
    shown = np.flatnonzero(~empty(ids, seed))
    spot = ids // 2
    mirror = ids % 2 == 1
    fg = index_of(ids[shown])["fg"]
    first = shown, fg, *_settle(seed, bg, place, fg, spot[shown], mirror[shown])
    company = (0.25, 0.08)
    if chance(seed, [bg], "crowd", 1)[0, 0] < _habits(bg).crowds:
        company = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    more = [
        _company(seed, bg, place, *first, spot[shown], nth, share)
        for nth, share in enumerate(company, 1)
    ]
    owner, fg, at, yaw = (np.concatenate(columns) for columns in zip(first, *more, strict=True))
    order = np.argsort(owner, kind="stable")
    owner, fg, at, yaw = owner[order], fg[order], at[order], yaw[order]
    parts, thing, size = _things(seed, place, fg)
    _move(parts, thing, at, yaw, mirror[owner])
    colours = parts["paint"][:, :6]
    r = chance(seed, spot[owner], "clothes", 2)[thing]
    alike = r[:, 0] < 0.08  # in the colours of the walls or the floor
    shell = place.parts["paint"][: place.shell, :6]
    model = shell[(r[alike, 1] * len(shell)).astype(int)]
    colours[alike] = 0.3 * colours[alike] + 0.7 * model
    colours[r[:, 0] > 0.93] *= 0.15  # dark
    return Cast(
        at.astype(np.float32),
        (size[:, [0, 2]].max(1) * 1.5).astype(np.float32),
        view(parts, place.camera),
        thing,
        np.searchsorted(owner, np.arange(len(ids) + 1)),
        np.searchsorted(owner[thing], np.arange(len(ids) + 1)),
    )


def _settle(seed: int, bg: int, place, fg, spot, mirror) -> tuple[np.ndarray, np.ndarray]:
    """Feet (B, 3) and headings (B,) at which the camera sees enough of each object."""
    best = np.full((len(fg), 5), -1.0)  # rays that meet the object, feet, heading
    left = np.arange(len(fg))
    for attempt in range(10):
        parts, thing, size = _things(seed, place, fg[left])
        at, yaw = _stand(seed, bg, place, size, spot[left], attempt)
        _move(parts, thing, at, yaw, mirror[left])
        seen = view(parts, place.camera)
        first = np.searchsorted(thing, np.arange(len(left) + 1))
        found = np.c_[_visible(probe(seed, bg), seen, first), at, yaw]
        better = found[:, 0] > best[left, 0]
        best[left[better]] = found[better]
        left = left[best[left, 0] < 3]
        if not len(left):
            break
    return best[:, 1:4], best[:, 4]


def _company(seed: int, bg: int, place, owner, fg, at, yaw, spot, nth: int, share: float) -> tuple:
    """The nth companions: owner, object, feet, heading of those that keep clear of the first."""
    some = chance(seed, spot, "company", 1)[:, 0] < share
    owner, fg, at, spot = owner[some], fg[some], at[some], spot[some]
    other = _companion(fg, chance(seed, spot, f"companion {nth}", 1)[:, 0])
    size = _things(seed, place, other)[2]
    its_at, its_yaw = _stand(seed, bg, place, size, spot, -nth)
    room = size + _things(seed, place, fg)[2]
    apart = np.linalg.norm(its_at - at, axis=1) > 0.7 * room[:, [0, 2]].max(1, initial=0)
    return owner[apart], other[apart], its_at[apart], its_yaw[apart]


def _companion(fg: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Another of the same hundred objects, from the same side of the split, so that no held-out
    object slips in."""
    seen = (r * 80).astype(np.int64)
    unseen = (r * 20).astype(np.int64)
    return fg // N_FG * N_FG + np.where(held_out(fg), unseen * 5 + 4, seen // 4 * 5 + seen % 4)


def _things(seed: int, place, fg: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objects fg (k,), no larger than the place allows: parts (n,) PART, whose each is (n,),
    half width, height, half depth (k, 3) m."""
    built = [objects.build(seed, i, place.limit) for i in fg.tolist()]
    rows = [np.empty(0)] + [parts.view("f8") for parts, _ in built]  # fast, as no field is touched
    parts = np.concatenate(rows).view(PART)
    size = np.array([size for _, size in built]).reshape(-1, 3)
    return parts, np.repeat(np.arange(len(fg)), [len(parts) for parts, _ in built]), size


@kernel
def _move(parts, thing, at, yaw, mirror):
    """Bring every object's parts to its place: mirrored in x, turned about y, shifted."""
    for p in range(len(parts)):
        k = thing[p]
        c = np.cos(yaw[k])
        s = np.sin(yaw[k])
        hand = -1.0 if mirror[k] else 1.0
        centre = parts[p].centre
        x = centre[0] * hand
        z = centre[2]
        centre[0] = c * x + s * z + at[k, 0]
        centre[1] += at[k, 1]
        centre[2] = c * z - s * x + at[k, 2]
        turn = parts[p].turn
        for axis in range(3):
            flip = hand if axis == 0 else 1.0
            x = turn[0, axis] * flip * hand
            z = turn[2, axis] * flip
            turn[0, axis] = c * x + s * z
            turn[1, axis] *= flip
            turn[2, axis] = c * z - s * x


def _stand(seed: int, bg: int, place, size, keys, attempt: int) -> tuple[np.ndarray, np.ndarray]:
    """Pick from TRIES spots on the floor (B, 3) the first that is free and seen; headings (B,).

    size: (B, 3) m, of the objects.
    """
    r = chance(seed, keys, f"spot {attempt}", 3 + 2 * TRIES)
    large, luck, depths = r[:, 1:2], r[:, 2:3], r[:, 3 : 3 + TRIES]
    yaw = 2 * np.pi * r[:, 0]
    drift = (depths - 0.5) * np.linspace(0.2, 3 + attempt % 4, TRIES)  # then any size
    habits = _habits(bg)
    area = habits.least * (AREA[1] / habits.least) ** large**0.75 * np.exp(drift)
    # of nine points: of the large ones few need be seen, of the others half are wholly seen
    wanted = np.where(large > 0.5, 3, np.minimum(3 + np.floor(13 * luck), 9))
    light = place.light
    blocks = light.blocks if attempt < 6 else light.blocks[:0]
    room = place.camera, light.floor, blocks, place.nearest, place.reach, probe(seed, bg)
    return _choose(
        *room,
        size,
        yaw,
        area.clip(habits.least_there, 0.8),
        wanted.ravel(),
        r,
        habits.beyond,
    ), yaw


@kernel
def _choose(camera, floor, blocks, nearest, reach, drop, size, yaw, area, wanted, r, beyond):
    """(B, 3): the best of TRIES spots; r: chance, as `_stand` draws it."""
    chosen = np.empty((len(size), 3))
    eye = camera.eye
    right, up, ahead = camera.axes[0], camera.axes[1], camera.axes[2]
    slope = max(camera.tan * up[1] - ahead[1], 0.05)  # of the lowest ray, down per metre
    feet = 1.03 * eye[1] / slope  # nearest spot whose floor is in the picture
    for k in range(len(size)):
        across, tall, deep = size[k, 0], size[k, 1], size[k, 2]
        c = abs(np.cos(yaw[k]))
        s = abs(np.sin(yaw[k]))
        wide = c * across + s * deep
        long = s * across + c * deep
        best = -np.inf
        for t in range(TRIES):
            z = np.sqrt(0.3 * wide * tall / area[k, t]) / camera.tan
            if z < feet - 0.7 * tall / slope:  # all but the top below the picture
                z = feet * (1 + 0.3 * r[k, 3 + t])
            z = min(max(z, max(nearest, long + nearest / 2)), reach)
            u = (2 * beyond * r[k, 3 + TRIES + t] - beyond) * camera.tan
            if up[1] > 0.5:  # by its distance
                u *= z
                down = -(z * ahead[1] + u * right[1] + eye[1]) / up[1]
            else:  # seen from above, all are about as far: anywhere in the picture
                v = (2 * r[k, 3 + (t + TRIES // 2) % TRIES] - 1) * camera.tan
                z = -eye[1] / min(ahead[1] + u * right[1] + v * up[1], -0.05)
                down = v * z
                u *= z
            foot = mixed(mixed(mixed(eye, right, u), up, down), ahead, z)
            x, _, z = foot
            score = 4.0 * (x - wide > floor[0] and x + wide < floor[1])
            score += 4.0 * (z - long > floor[2] and z + long < floor[3])
            for b in blocks:
                beside = x + wide > b[0] and x - wide < b[1]
                score -= 3.0 * (beside and z + long > b[2] and z - long < b[3])
            seen, hidden = _glimpses(camera, drop, foot, wide * 0.85, tall)
            score += min(seen, wanted[k])
            score += 4.0 * (r[k, 2] < 0.3 and seen > 2 and hidden > 1)
            if score > best:
                best = score
                chosen[k] = x, 0.0, z
    return chosen


@kernel
def _glimpses(camera, drop, foot, wide, tall):
    """How many of a thing's nine points in the picture are seen, and how many hidden."""
    seen = 0
    hidden = 0
    for side in (-wide, 0.0, wide):
        x, y, z = mixed(foot, camera.axes[0], side)
        for height in (0.08, 0.5, 0.92):
            u, v, far = project(camera, (x, y + height * tall, z))
            if abs(u) < 0.97 and abs(v) < 0.97 and far > 0.1:
                column = int((u + 1) * PROBE / 2) + drop.frame.margin
                row = int((1 - v) * PROBE / 2) + drop.frame.margin
                if far < drop.z[row, column]:
                    seen += 1
                else:
                    hidden += 1
    return seen, hidden


@kernel
def _visible(drop, parts, first):
    """(k,) rays of the coarse picture that meet each object; 0: hardly seen, 1: too near.

    Object k has the parts first[k : k + 1].
    """
    frame = drop.frame
    part = np.empty((frame.n, frame.n), np.int32)
    z = np.empty((frame.n, frame.n), np.float32)
    rays = np.empty(len(first) - 1)
    picture = slice(frame.margin, frame.margin + PROBE)
    for k in range(len(rays)):
        z[:] = np.inf
        raster(parts, first[k], first[k + 1], frame, z, part)
        hit = np.count_nonzero(z[picture, picture] < np.inf)
        seen = np.count_nonzero(z[picture, picture] < drop.z[picture, picture])
        rays[k] = seen if seen * 5 >= hit else 0
        if seen > 0.65 * PROBE**2:
            rays[k] = 1
    return rays
