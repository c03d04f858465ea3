"""The command `predict`: footage in, pictures and a video out, at the speed of the footage."""

import argparse
import itertools
import sys
import warnings
from pathlib import Path

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from evalib import timing
from evalib.camera import footage, photos
from evalib.camera.camera import LONG_SIDE, Camera


def add_arguments(p: argparse.ArgumentParser) -> None:
    empty = "picture of the empty scene; or, of INPUT: first, its first frame, or median, what "
    p.add_argument("bg", help=empty + "each pixel mostly shows")
    p.add_argument("input", help="a picture, a folder of them, a video, or a camera (0, rtsp://..)")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="for pictures")
    kinds = {"choices": photos.KINDS, "default": photos.KINDS, "metavar": "KIND"}
    which = f"which pictures (default: {' '.join(photos.KINDS)})"
    p.add_argument("--write", nargs="+", **kinds, help=which)
    p.add_argument("--overlay", type=Path, metavar="FILE.mp4", help="video, what is new tinted")
    size = f"pixels of the long side, in the network (default {LONG_SIDE})"
    p.add_argument("--size", type=int, default=LONG_SIDE, help=size)
    p.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth frame")
    moves = p.add_mutually_exclusive_group()
    moved = "the camera moved a little since the empty scene: undo that, for each frame"
    moves.add_argument("--align", action="store_true", help=moved)
    light = "the empty scene follows the light: what TIME (3min, or a number of frames) mostly "
    light += "showed where nothing is new"
    moves.add_argument("--refresh", default="0", metavar="TIME", help=light)
    known = p.add_mutually_exclusive_group()
    points = {"type": _point, "nargs": "+", "metavar": "X,Y,METRES"}
    known.add_argument("--calibrate", **points, help="pixels of bg and their distances")
    depth = "the empty scene's depth: 16 bits, millimetres; or what another network sees there "
    depth += "(pip install transformers): teacher, or teacher:MODEL"
    known.add_argument("--bg-depth", metavar="PNG", help=depth)


def _point(text: str) -> tuple[int, int, float]:
    try:
        x, y, metres = text.split(",")
        return int(x), int(y), float(metres)
    except ValueError:
        needed = "needed X,Y,METRES such as 320,400,3.2: a pixel of bg and its distance"
        raise argparse.ArgumentTypeError(f"{text!r} came, {needed}") from None


def predict(model: nn.Module, args: argparse.Namespace) -> None:
    """What `add_arguments` understood, done; where to look for it is printed.

    Raises: ValueError, OSError: a mistake of the user, in one sentence.
    """
    if not (args.out or args.overlay):
        raise ValueError("needed where to write: --out FOLDER, --overlay FILE.mp4, or both")
    film = footage.read(args.input, every=args.every)
    refresh = _frames(args.refresh, film)
    first = next(film.frames)
    if args.bg == "median":
        bg = footage.median(args.input)
    else:
        bg = first[1] if args.bg == "first" else photos.load_photo(args.bg)
    camera = Camera(model, bg, long_side=args.size, align=args.align, refresh=refresh)
    if args.calibrate:
        before = camera.depth()
        camera.calibrate(*args.calibrate)
        factor = np.median(camera.depth() / before)
        text = f"the empty scene's depth is multiplied by {factor:.2f} (median of its pixels)"
        print(text, file=sys.stderr)
    if args.bg_depth:
        camera.anchor(_empty_depth(args.bg_depth, camera))
    progress = tqdm(total=film.n, unit=" frames", disable=film.n == 1)
    with footage.overlay(args.overlay, film.fps) as show, progress:
        for name, img in itertools.chain([first], film.frames):
            try:
                mask_pred, depth_pred = camera(img)
            except ValueError as error:  # of other proportions: which one?
                raise ValueError(f"{name or args.input}: {error}") from error
            show(img, mask_pred)
            if args.out:
                what = {"img": img, "name": name, "kinds": args.write}
                paths = photos.write_prediction(args.out, mask_pred, depth_pred, **what)
                if name == first[0]:  # of a film the folders: it has thousands of pictures
                    print(*(path.parent if name else path for path in paths), sep="\n", flush=True)
            progress.update()
    if args.overlay:
        print(args.overlay)


def _empty_depth(what: str, camera: Camera) -> np.ndarray:
    """(H, W) metres, of a file or as a teacher sees the empty scene.

    Raises: ImportError, OSError, ValueError: with what to do about it.
    """
    how, _, model = what.partition(":")
    if how != "teacher":
        return photos.load_depth(what)
    from evalib.sources import teacher  # loads a library that few need

    seeing = teacher.Teacher(model)
    (seen,) = seeing([camera.bg])
    return seen if seeing.is_metric else teacher.fitted(seen, camera.depth())


def _frames(refresh: str, film: footage.Film) -> float:
    """How many frames of a film a time is, or that number itself.

    Raises: ValueError: no time, or the film tells none. Warns: the film is shorter.
    """
    if refresh.isdigit():
        n = float(refresh)
    elif not film.timed:
        raise ValueError(f"--refresh {refresh}: a folder tells no time; give a number of frames")
    else:
        n = timing.seconds(refresh) * film.fps
    if film.n and n > film.n:
        warnings.warn(f"--refresh {refresh} is longer than all {film.n} frames", stacklevel=2)
    return n
