"""What `evalib predict` does for imperfect footage, and with known distances, on rendered rooms,
where truth is known.

    python tests/benchmarks/bench_camera.py align [--n 200]
    python tests/benchmarks/bench_camera.py distances [--n 200]
    python tests/benchmarks/bench_camera.py daylight [--places 12]
    python tests/benchmarks/bench_camera.py film FILM.mp4

align: the empty scene is photographed by a camera that was turned by up to 2 % of the picture and
rolled by up to a degree, or moved by 3 cm besides. distances: of some random pixels of the empty
scene that are 1 to 8 m away, or of all of it. daylight: an hour of a street or yard, a frame
each 10 s, while the sun moves 15 degrees and fades by a third; every other frame shows something
new. film: frames a second of `predict` with its overlay alone, beside those of the network.
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one

import evalib
from evalib import camera, manifest, metrics, rng, timing, unet
from evalib.__main__ import main as evalib_main
from evalib.rooms import places, sensor, shots, staging
from evalib.rooms.backdrop import Backdrop, backdrop
from evalib.rooms.builder import Light, Place
from evalib.rooms.rays import Pinhole
from evalib.rooms.surfaces import TABLES

SIZE = 224
FRAMES = 360  # of an hour
MOVES = {"turned": 0.0, "moved": 0.03}  # m, and turned, too
REFRESH = 18  # frames: three minutes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    for name, command in {"align": aligned, "distances": distances}.items():
        p = commands.add_parser(name)
        p.add_argument("--n", type=int, default=200, help="samples of unseen both")
        p.set_defaults(command=lambda args, command=command: command(args.n))
    p = commands.add_parser("daylight")
    p.add_argument("--places", type=int, default=12)
    p.set_defaults(command=lambda args: daylight(args.places))
    p = commands.add_parser("film")
    p.add_argument("film", type=Path)
    p.set_defaults(command=lambda args: film(args.film))
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(timing.machine(), timing.utc_now()[:10], sep="; ")
    args.command(args)


def shot(place: Place, like: Backdrop, bg: int, ids: np.ndarray | None) -> tuple:
    """Image and mask of a changed place: empty, or of one sample; exposed as `like`."""
    drop = Backdrop.of(place, 2 * SIZE, like.exposure)
    image = np.empty((1, SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((1, SIZE, SIZE), np.uint8)
    depth = np.empty((1, SIZE, SIZE), np.uint8)
    settings = sensor.settings(0, np.array([bg]), ids, SIZE)
    settings["shift"] = 0
    settings["change"] = 1
    them = staging.nobody(1) if ids is None else staging.cast(0, bg, ids)
    row = np.zeros(1, np.int64)
    shots._draw(drop, them, settings, sensor.grain(SIZE), TABLES, row, image, mask, depth)
    return image[0], mask[0] > 0


def turned(at: Pinhole, chance: np.ndarray, metres: float) -> Pinhole:
    """A camera turned by up to 2 % of its picture in x and y and rolled by up to a degree, and
    moved by up to `metres` sideways and up; chance: (5,) in -1..1."""
    small = np.array([0.04 * at.tan, 0.04 * at.tan, np.deg2rad(1)]) * chance[:3]  # radians
    right, up, ahead = at.axes
    axes = np.stack([
        right + small[2] * up - small[0] * ahead,
        up - small[2] * right - small[1] * ahead,
        ahead + small[0] * right + small[1] * up,
    ])  # fmt: skip
    first = axes[0] / np.linalg.norm(axes[0])
    second = axes[1] - first * (first @ axes[1])
    second /= np.linalg.norm(second)
    axes = np.stack([first, second, axes[2] - first * (first @ axes[2])])
    axes[2] -= second * (second @ axes[2])
    axes[2] /= np.linalg.norm(axes[2])
    return Pinhole(at.eye + metres * (chance[3] * right + chance[4] * up), axes, at.tan)


def overlap(mask_pred: np.ndarray, mask: np.ndarray) -> float:
    """IoU of one picture."""
    pair = (torch.from_numpy(x)[None, None].float() for x in (mask_pred, mask))
    return metrics.mask_metrics(*pair)["iou"].item()


def unseen(n: int) -> list[tuple[int, int]]:
    """Samples whose background and object nobody trained on, and these backgrounds."""
    index = manifest.index_of(manifest.sample_ids("evaluation", 4 * n))
    both = manifest.subset_of(index) == manifest.SUBSETS.index("unseen_both")
    return index[["id", "bg"]][both].tolist()


def aligned(n: int) -> None:
    model = evalib.load(device="cpu")
    chance = 2 * rng.uniform(rng.sample_keys(0, 0, range(n)), "moved", 0, 1, 5) - 1
    found = {}
    refused = 0
    for number, (which, bg) in enumerate(unseen(n)):
        place, like = places.build(0, bg), backdrop(0, bg, SIZE)
        img, mask = shot(place, like, bg, np.array([which]))
        if not mask.any():
            continue
        still = place.camera
        moved = {name: turned(still, chance[number], m) for name, m in MOVES.items()}
        for name, at in ({"still": still} | moved).items():
            empty, _ = shot(place._replace(camera=at), like, bg, None)
            for align in (False, True):
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    mask_pred, _ = camera.predict_pair(model, empty, img, align=align)
                refused += len(told)
                row = f"{name}, aligned" if align else name
                found.setdefault(row, []).append(overlap(mask_pred, mask))
    n = len(found["still"])
    print(f"{SIZE} px, {n} unseen samples, mask IoU; {refused} of {3 * n} were not aligned")
    for name, values in found.items():
        low = np.mean(np.array(values) < 0.5)
        print(
            f"{name:16} mean {np.mean(values):.3f}, median {np.median(values):.3f}, < .5: {low:.0%}"
        )


def distances(n: int) -> None:
    model = evalib.load(device="cpu")
    chance = np.random.default_rng(0)
    found = {}
    for which, bg in unseen(n):
        raw = shots.render_backgrounds([bg], SIZE) | shots.render([which], SIZE)
        empty, bg_depth, img, mask, depth = (
            raw[k][0] for k in ("bg", "bg_depth", "fg_bg", "mask", "depth")
        )
        fixed = camera.Camera(model, empty)
        seen = fixed.depth()
        sure = (bg_depth > 25) & (bg_depth < 204) & (seen > 0.1) & (seen < 9.9)
        pixels = chance.permutation(np.argwhere(sure))[:10].tolist()
        points = [(x, y, bg_depth[y, x] / 25.5) for y, x in pixels]
        for known in (0, 1, 3, 10, "all"):
            if known == "all":
                fixed.anchor(bg_depth / 25.5)
            else:
                fixed.calibrate(*points[:known])
            error = 10 * np.minimum(fixed(img)[1], 1) - depth / 25.5  # m
            whole, new = np.mean(error**2), np.mean(error[mask > 0] ** 2) if mask.any() else np.nan
            found.setdefault(known, []).append((whole**0.5, new**0.5))
    print(f"{SIZE} px, {len(found[0])} unseen samples, mean RMSE in m: whole, on the new")
    for known, values in found.items():
        whole, new = np.nanmean(values, axis=0)
        print(f"{known!s:>4} distances known  {whole:.2f}  {new:.2f}")


def daylight(n_places: int) -> None:
    model = evalib.load(device="cpu")
    scenes = [bg for bg in range(4, 400, 5) if not places.build(0, bg).light.indoors][:n_places]
    ways = {"kept": 0, f"refresh {REFRESH} frames": REFRESH}
    false = {name: np.zeros((len(scenes), FRAMES // 2)) for name in ways}
    iou = {name: [] for name in ways}
    for row, bg in enumerate(scenes):
        place, like = places.build(0, bg), backdrop(0, bg, SIZE)
        empty, _ = shot(place, like, bg, None)
        cameras = {name: camera.Camera(model, empty, refresh=wait) for name, wait in ways.items()}
        for frame in range(FRAMES):
            day = frame / FRAMES
            ids = None if frame % 2 == 0 else np.array([(bg * 100 + 4 + 5 * (frame % 20)) * 40])
            img, mask = shot(place._replace(light=later(place.light, day)), like, bg, ids)
            for name, fixed in cameras.items():
                mask_pred, _ = fixed(img)
                if ids is None:
                    false[name][row, frame // 2] = np.mean(mask_pred > 0.5)
                elif mask.any():
                    iou[name].append(overlap(mask_pred, mask))
    print(f"{len(scenes)} unseen streets and yards, {SIZE} px")
    quarters = [slice(i * FRAMES // 8, (i + 1) * FRAMES // 8) for i in range(4)]
    for name, shares in false.items():
        text = ", ".join(f"{shares[:, q].mean():.3%}" for q in quarters)
        print(f"{name:18} false area by quarter of an hour {text}; IoU {np.mean(iou[name]):.3f}")


def later(light: Light, day: float) -> Light:
    """The same sun `day` hours later: 15 degrees an hour about the vertical, a third darker and
    warmer; what the sky gives darkens alike."""
    angle = np.deg2rad(15 * day)
    x, y, z = light.lamp
    c, s = np.cos(angle), np.sin(angle)
    lamp = np.array([c * x + s * z, y * (1 - 0.2 * day), c * z - s * x])
    fade = 1 - np.array([0.2, 0.33, 0.45]) * day
    colours = {name: getattr(light, name) * fade for name in ("direct", "bounce", "rise", "haze")}
    return light._replace(lamp=lamp, **colours)


def film(path: Path) -> None:
    n = camera.read(path).n
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        evalib_main(["predict", "first", str(path), "--overlay", f"{folder}/seen.mp4"])
        film_s = time.perf_counter() - start
    model = evalib.load(device="cpu")
    _, frame = next(camera.read(path).frames)
    h, w = (max(16, round(camera.LONG_SIDE * side / max(frame.shape))) for side in frame.shape[:2])
    bg, img = torch.rand(2, 1, 3, h, w)
    kept = unet.encode(model, bg)
    alone = timing.rate(lambda: unet.predict(model, bg, img, kept))
    print(f"predict: {n / film_s:.1f} frames a second, its start with them; network: {alone:.1f}")


if __name__ == "__main__":
    main()
