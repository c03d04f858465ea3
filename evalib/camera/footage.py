"""Pictures in a row: a photograph, a folder, a video or a camera, frame by frame; and a video out.

OpenCV reads and writes video, and is imported only where one is asked for.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from evalib import pictures
from evalib.camera import photos

FPS = 25.0  # where a source does not tell its own
TINT = np.array([255.0, 0.0, 80.0], np.float32)  # RGB of what is new in an overlay
NEEDED = "needed a picture, a folder of pictures, a video, or a camera (0, rtsp://...)"

Frames = Iterator[tuple[str, np.ndarray]]


def read(source: str | Path, *, every: int = 1) -> tuple[Frames, float]:
    """Frames as (name, (H, W, 3) uint8 RGB), and how many a second.

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
    is_camera = str(source).isdigit() or "://" in str(source)
    if path.is_dir():
        return _folder(path, every), FPS / every
    if path.is_file():
        try:
            return iter([("", photos.load_photo(path))]), FPS
        except ValueError as error:
            if not isinstance(error.__cause__, UnidentifiedImageError):
                raise  # a picture, and a broken one
    elif not is_camera:
        raise FileNotFoundError(f"there is no {source}, {NEEDED}: check its name")
    return _video(str(source), every)


def _folder(folder: Path, every: int) -> Frames:
    used = set()
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    for path in paths[::every]:
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


def _video(source: str, every: int) -> tuple[Frames, float]:
    import cv2

    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    fps = capture.get(cv2.CAP_PROP_FPS)
    if not 0 < fps < 1000:
        fps = FPS

    def frames() -> Frames:
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

    return frames(), fps / every


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
        frame = np.where(mask_pred[..., None] > 0.5, (img + TINT) / 2, img).astype(np.uint8)
        writer.write(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), size))

    try:
        yield show
    finally:
        writer.release()
