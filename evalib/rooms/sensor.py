"""From light to a photograph: exposure, white balance, tone curve, sensor noise, JPEG.

JPEG is its loss, not its file: 8 x 8 cosine transform, rounding by the standard's tables, back. The
transform is made of products of integers small enough to be exact in float32, so that no codec's
version changes a byte.
"""

from functools import lru_cache

import numpy as np

from evalib.rooms.builder import chance
from evalib.rooms.kernels import kernel, scalar
from evalib.rooms.places import MORE, night
from evalib.rooms.rays import clamp, f

# ITU-T T.81, Annex K: how coarsely luminance and colour are rounded at quality 50
LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]], float)  # fmt: skip
CHROMA = np.full((8, 8), 99.0)
CHROMA[:4, :4] = [17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]
_k = np.arange(8)[:, None]
_cosines = 512 * np.cos((2 * _k.T + 1) * _k * np.pi / 16) * np.where(_k == 0, 0.5**0.5, 1)
COSINES = np.round(_cosines).astype(np.float32)  # (8, 8), whole numbers
WAVES = np.ascontiguousarray(COSINES.T)
ONES = np.ones((8, 8), np.float32)

SHAKE = np.array([-2, -1, -1, 0, 0, 1, 1, 2])  # halves of a pixel at 64 px
# A shot: rays x, y that the camera moved and factors of the ambient and direct light since the
# empty one; gains of red, green, blue; noise, tone curve, dark corners; where in the grain its
# stretch starts; quality of JPEG, 1..100, 0: not packed
SHOT = np.dtype(
    [("shift", "i8", 2), ("change", "f4", 2), ("gain", "f4", 3), ("noise", "f4")]
    + [("contrast", "f4"), ("vignette", "f4"), ("start", "i8"), ("quality", "f8")]
    + [("grey", "f4"), ("soft", "f4")]  # no colours; share of a blur by a pixel
)


def settings(seed: int, bg: np.ndarray, ids: np.ndarray | None, size: int) -> np.ndarray:
    """(B,) SHOT: how places `bg` (B,), or samples `ids` (B,) in them, are photographed.

    A camera's habits go with its place; samples differ from the empty shot.
    """
    own = chance(seed, bg, "camera", 6)
    r = chance(seed, bg, "first shot", 8) if ids is None else chance(seed, ids, "shot", 8)
    gain = np.exp(0.12 * (own[:, :3] - 0.5))
    shots = np.zeros(len(bg), SHOT)
    shots["change"] = 1
    if ids is not None:
        hand = chance(seed, ids, "hand", 6)
        shakes = hand[:, 5:] < 0.25  # most cameras stand still
        shots["shift"] = np.round(shakes * SHAKE[(hand[:, :2] * 8).astype(int)] * size / 64)
        strong = np.where(hand[:, 2:3] < 0.25, 0.5, 0.06)
        shots["change"] = 1 + strong * (hand[:, 3:5] - 0.5)
        wild = 1 + 2.5 * (r[:, 7:] < 0.12)  # one in eight: exposure or white balance jumped
        gain *= np.exp(0.16 * wild * (r[:, :1] - 0.5) + 0.06 * wild * (r[:, 1:4] - 0.5))
    shots["gain"] = gain
    shots["noise"] = 0.003 + 0.025 * own[:, 3] ** 2 * (0.7 + 0.6 * r[:, 4])
    shots["contrast"] = 0.3 + 0.9 * own[:, 4]
    shots["vignette"] = 0.13 * own[:, 5]
    shots["start"] = r[:, 5] * 2**20
    shots["quality"] = np.where(r[:, 6] < 0.25, 0, np.floor(40 + 70 * r[:, 6]))
    more = bg >= MORE
    kind = chance(seed, bg, "camera's kind", 5)
    shots["grey"] = more & (kind[:, 0] < 0.08)
    shots["soft"] = np.where(more & (kind[:, 1] < 0.2), 0.3 + 0.7 * kind[:, 2], 0)
    shots["noise"] *= 1 + 1.5 * night(seed, bg)
    poor = more & (kind[:, 3] < 0.2)  # an old codec: blocks, and colours of blocks
    shots["quality"] = np.where(
        poor, np.floor(10 + 25 * kind[:, 4] + 8 * r[:, 6]), shots["quality"]
    )
    return shots


@lru_cache(maxsize=4)
def grain(size: int) -> np.ndarray:
    """(2**20 + n,) float32 noise with mean 0 and std 1; a shot takes n = 3 S S in a row."""
    raw = np.random.Generator(np.random.Philox(key=3)).random((3, 2**20 + 3 * size * size))
    return ((raw.sum(0) - 1.5) * 2).astype(np.float32)


@kernel
def develop(light, shot, grain, image):
    """Photograph linear light (3, S, S) float32, which is used up -> image (S, S, 3) uint8."""
    n = len(image)
    noise, contrast, vignette = shot.noise, shot.contrast, shot.vignette
    if shot.grey > 0:
        for y in range(n):
            for x in range(n):
                tone = f(0.3) * light[0, y, x] + f(0.59) * light[1, y, x]
                tone += f(0.11) * light[2, y, x]
                for c in range(3):
                    light[c, y, x] = tone
    if shot.soft > 0:
        _soften(light, shot.soft)
    edge = (np.arange(n).astype(np.float32) + f(0.5)) * f(2.0 / n) - f(1)
    at = edge * edge
    for c in range(3):
        gain = shot.gain[c]
        for y in range(n):
            start = shot.start + (c * n + y) * n
            for x in range(n):
                tone = light[c, y, x] * gain
                tone *= f(1) - vignette * (at[y] + at[x])
                tone = np.sqrt(clamp(tone * f(1.6) / (f(1) + tone * f(0.6)), 0, 1))  # a film's
                tone += contrast * tone * (f(1) - tone) * (f(2) * tone - f(1))
                tone += grain[start + x] * (noise * (f(1.3) - tone))
                light[c, y, x] = clamp(np.rint(tone * f(255)), 0, 255)
    if shot.quality > 0:
        jpeg(light, shot.quality)
    for c in range(3):
        image[:, :, c] = light[c]


@kernel
def _soften(light, share):
    """Blur (3, S, S) by [1 2 1] / 4 in both directions, and mix with what was there."""
    line = np.empty(light.shape[1], np.float32)
    for c in range(3):
        _soften_rows(light[c], share, line)
        _soften_rows(light[c].T, share, line)


@scalar
def _soften_rows(plane, share, line):
    n = len(line)
    kept = f(1) - share * f(0.5)
    beside = share * f(0.25)
    for y in range(n):
        for x in range(n):
            line[x] = plane[y, x]
        for x in range(n):
            plane[y, x] = kept * line[x] + beside * (line[max(x - 1, 0)] + line[min(x + 1, n - 1)])


@kernel
def jpeg(picture, quality):
    """Leave of a picture (3, S, S) of whole 0..255 what JPEG leaves at a quality 1..100."""
    n = picture.shape[1]
    wide = -(-n // 16) * 16  # edges are repeated up to here
    luma = np.empty((wide, wide), np.float32)
    blue = np.empty((wide, wide), np.float32)
    red = np.empty((wide, wide), np.float32)
    for y in range(wide):
        for x in range(wide):
            r = picture[0, min(y, n - 1), min(x, n - 1)]
            g = picture[1, min(y, n - 1), min(x, n - 1)]
            b = picture[2, min(y, n - 1), min(x, n - 1)]
            grey = np.rint(f(0.299) * r + f(0.587) * g + f(0.114) * b)
            luma[y, x] = grey - f(128)
            blue[y, x] = (b - grey) * f(0.564)
            red[y, x] = (r - grey) * f(0.713)
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    half = np.empty((wide // 2, wide // 2), np.float32)
    luma = _round_trip(luma, LUMA, scale)
    blue = _doubled(_round_trip(np.rint(halved(blue, 0, 0, half)), CHROMA, scale))
    red = _doubled(_round_trip(np.rint(halved(red, 0, 0, half)), CHROMA, scale))
    for y in range(n):
        for x in range(n):
            grey = luma[y, x] + f(128)
            green = grey - f(0.344) * blue[y, x] - f(0.714) * red[y, x]
            picture[0, y, x] = clamp(np.rint(grey + red[y, x] * f(1.402)), 0, 255)
            picture[1, y, x] = clamp(np.rint(green), 0, 255)
            picture[2, y, x] = clamp(np.rint(grey + blue[y, x] * f(1.772)), 0, 255)


@scalar
def halved(a, top, left, out):
    """Fill out (S, S) with means of 2 x 2, from a row and a column of `a` on; returns it."""
    for y in range(len(out)):
        for x in range(len(out)):
            v = top + 2 * y
            u = left + 2 * x
            one = a[v, u] + a[v + 1, u]
            other = a[v, u + 1] + a[v + 1, u + 1]
            out[y, x] = (one + other) * f(0.25)
    return out


@kernel
def _doubled(a):
    """Between neighbours, 3/4 of the nearer: (S, S) whole numbers -> (2 S, 2 S), exact."""
    n = len(a)
    out = np.empty((2 * n, 2 * n), np.float32)
    row = np.empty(n, np.float32)
    for y in range(2 * n):
        other = min(max(y // 2 + 2 * (y % 2) - 1, 0), n - 1)
        for x in range(n):
            row[x] = f(0.75) * a[y // 2, x] + f(0.25) * a[other, x]
        for x in range(n):
            out[y, 2 * x] = f(0.75) * row[x] + f(0.25) * row[max(x - 1, 0)]
            out[y, 2 * x + 1] = f(0.75) * row[x] + f(0.25) * row[min(x + 1, n - 1)]
    return out


@kernel
def _round_trip(plane, table, scale):
    """Round (S, S) whole numbers in -128..128 in the cosine domain; the same array comes back.

    Sums stay below 2**24, where float32 is exact.
    """
    step = np.clip(np.floor(table * scale + 0.5), 1.0, 255.0).astype(np.float32)
    a = np.empty((8, 8), np.float32)
    b = np.empty((8, 8), np.float32)
    for top in range(0, len(plane), 8):
        for left in range(0, len(plane), 8):
            block = plane[top : top + 8, left : left + 8]
            _product(block, WAVES, f(128), ONES, a)
            _product(COSINES, a, f(8192), step, b)
            _product(b, COSINES, f(128), ONES, a)
            _product(WAVES, a, f(8192), ONES, block)
    return plane


@scalar
def _product(a, b, unit, step, out):
    """Matrix product of (8, 8), in units, to the nearest multiples of steps (8, 8)."""
    for i in range(8):
        for j in range(8):
            left = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j] + a[i, 3] * b[3, j]
            right = a[i, 4] * b[4, j] + a[i, 5] * b[5, j] + a[i, 6] * b[6, j] + a[i, 7] * b[7, j]
            out[i, j] = np.rint((left + right) / unit / step[i, j]) * step[i, j]
