"""Pictures in a row: a photograph, a folder, a video or a camera, frame by frame; and a video out.

OpenCV reads and writes video, and is imported only where one is asked for.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import UnidentifiedImageError
from tqdm.auto import tqdm

from evalib import pictures
from evalib.camera import photos

FPS = 25.0  # where a source does not tell its own
TINT = np.array([255.0, 0.0, 80.0], np.float32)  # RGB of what is new in an overlay
NEEDED = "needed a picture, a folder of pictures, a video, or a camera (0, rtsp://...)"
KEPT, KEPT_BYTES = 64, 400 << 20  # frames for a median at most, and no more memory than this


class Film(NamedTuple):
    """What was opened: `frames` as (name, (H, W, 3) uint8 RGB), `fps` of them a second, `n` of them
    in all (None where the source does not tell); a folder is not `timed`, its fps is a guess."""

    frames: Iterator[tuple[str, np.ndarray]]
    fps: float
    n: int | None
    timed: bool = True


def read(source: str | Path, *, every: int = 1) -> Film:
    """Open pictures in a row.

    Input:
        source: a photo (its name is ""), a folder of photos (in the order of their names), a video
                or a camera (`0`, `rtsp://...`), whose frames are named by number.
        every:  1 for all frames, N for frames 0, N, 2N, ...
    Warns: UserWarning: a file of a folder was skipped, and why.
    Raises: FileNotFoundError, ValueError: nothing there that can be read.
    """
    if every < 1:
        raise ValueError(f"every is {every}, needed 1 or more: 1 takes all frames")
    path = Path(source)
    if path.is_dir():
        return _folder(path, every)
    if path.is_file():
        try:
            return Film(iter([("", photos.load_photo(path))]), FPS, 1)
        except ValueError as error:
            if not isinstance(error.__cause__, UnidentifiedImageError):
                raise  # a picture, and a broken one
    elif not _is_camera(source):
        raise FileNotFoundError(f"there is no {source}, {NEEDED}: check its name")
    return _video(str(source), every)


def median(source: str | Path) -> np.ndarray:
    """The empty scene of a film that never shows it: the median of each pixel, (H, W, 3) uint8,
    over up to KEPT frames from all its length. Right where most of the time nothing new is seen.

    Raises: ValueError: a camera, which has no end; less than 3 frames, or of several sizes; what
        `read` raises.
    """
    if _is_camera(source):
        raise ValueError(f"{source} is a camera, needed a film or a folder that ends: record one")
    film = read(source)
    kept, step = [], 1
    for number, (_, frame) in enumerate(tqdm(film.frames, "median", film.n, unit=" frames")):
        if number % step == 0:
            kept.append(frame)
        if len(kept) >= max(9, min(KEPT, KEPT_BYTES // frame.nbytes)):
            kept = kept[::2]  # every second one stays, of the rest every second one comes
            step *= 2
    sizes = sorted({frame.shape for frame in kept})
    if len(kept) < 3 or len(sizes) > 1:
        came = f"{len(kept)} frames, (height, width, colours) {', '.join(map(str, sizes))}"
        raise ValueError(f"{source} has {came}; needed 3 or more of one size for a median")
    kept = kept[: len(kept) - 1 + len(kept) % 2]  # of an odd number one is in the middle
    middle = len(kept) // 2
    bg = np.empty_like(kept[0])
    for y in range(len(bg)):
        bg[y] = np.partition([frame[y] for frame in kept], middle, axis=0)[middle]
    return bg


def _is_camera(source: str | Path) -> bool:
    return not Path(source).exists() and (str(source).isdigit() or "://" in str(source))


def _folder(folder: Path, every: int) -> Film:
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    paths = paths[::every]

    def frames() -> Iterator[tuple[str, np.ndarray]]:
        used = set()
        for path in paths:
            try:
                photo = photos.load_photo(path)
            except ValueError as error:
                warnings.warn(f"skipped: {error}", stacklevel=2)
                continue
            name = path.name if path.stem in used else path.stem  # a.jpg beside a.png
            used.add(name)
            yield name, photo
        if not used:
            needed = f"needed photos ({', '.join(pictures.FORMATS)})"
            raise ValueError(f"no readable picture in {folder}, {needed}")

    return Film(frames(), FPS / every, len(paths), timed=False)


def _video(source: str, every: int) -> Film:
    import cv2

    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    fps = capture.get(cv2.CAP_PROP_FPS)
    if not 0 < fps < 1000:
        fps = FPS
    n = capture.get(cv2.CAP_PROP_FRAME_COUNT)  # 0, or nonsense, where the file does not tell

    def frames() -> Iterator[tuple[str, np.ndarray]]:
        number = 0
        try:
            while capture.grab():
                whole, frame = capture.retrieve() if number % every == 0 else (False, None)
                if whole:
                    yield f"{number:06d}", cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                number += 1
        finally:
            capture.release()
        if not number:
            raise ValueError(f"no frame comes from {source}, {NEEDED}: convert it")

    return Film(frames(), fps / every, math.ceil(n / every) if 0 < n < 1e9 else None)


@contextlib.contextmanager
def overlay(path: str | Path | None, fps: float) -> Iterator[Callable]:
    """An MP4 (MPEG-4 part 2): `with overlay(path, fps) as show: show(img, mask_pred)` adds a frame.

    What is new (mask_pred > 0.5) is tinted. All frames get the size of the first. The video is
    whole after any end, also by Ctrl-C. Without a path nothing is written.
    Raises: ValueError: it cannot be written there.
    """
    if not path:
        yield lambda img, mask_pred: None
        return
    import cv2

    writer = cv2.VideoWriter()
    size = None

    def show(img: np.ndarray, mask_pred: np.ndarray) -> None:
        nonlocal size
        if not writer.isOpened():
            size = img.shape[1::-1]
            if not writer.open(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, size):
                raise ValueError(f"cannot write {path}: needed NAME.mp4 in an existing folder")
        frame = img.copy()
        new = mask_pred > 0.5
        frame[new] = (frame[new] + TINT) / 2
        writer.write(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), size))

    try:
        yield show
    finally:
        writer.release()
