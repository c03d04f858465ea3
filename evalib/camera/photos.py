"""People's own photographs: read them, and write what the network saw."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from evalib import pictures
from evalib.camera.camera import METRES
from evalib.pictures import Source

KINDS = ("mask", "depth", "depth_colour", "cutout")  # of pictures of a prediction


def load_photo(source: Source) -> np.ndarray:
    """A photo as a person sees it, (H, W, 3) uint8, as `pictures.rgb` has it. `source` is a path,
    or the bytes of a file (an upload).

    Raises: FileNotFoundError; ValueError: no picture, damaged, too large, no known range.
    """
    return pictures.read(source, pictures.rgb)


def load_depth(source: Source) -> np.ndarray:
    """A depth map as depth cameras write it, and `write_prediction`: one channel of 16 bits in
    millimetres, to (H, W) float32 metres; 0 where it is not known.

    Raises: FileNotFoundError; ValueError: no such picture.
    """
    needed = "a PNG or TIFF of one channel of 16 bits, in millimetres"
    return pictures.read(source, _metres, ("PNG", "TIFF"), needed)


def _metres(image: Image.Image) -> np.ndarray:
    if not image.mode.startswith("I"):
        raise ValueError(f"its pixels are {image.mode}, not one channel of 16 bits")
    return np.asarray(image).astype(np.float32) / 1000


def write_prediction(
    out_dir: str | Path,
    mask_pred: np.ndarray,
    depth_pred: np.ndarray,
    *,
    img: np.ndarray | None = None,
    name: str = "",
    kinds: Sequence[str] = KINDS,
) -> list[Path]:
    """Write pictures to `out_dir`, made if missing: KIND.png, or with a `name` KIND/NAME.png.

    Input:
        mask_pred:  (H, W) in 0..1; "mask" is 255 where something is new (> 0.5), else 0 (8 bits).
        depth_pred: (H, W), z / 10 m; "depth" is in millimetres, 0..65535 (16 bits), and
                    "depth_colour" is viridis from dark (0 m) to bright (10 m), never stretched.
        img:        (H, W, 3) uint8, for "cutout": its new pixels, the others transparent.
        kinds:      those of KINDS to write; no cut-out without `img`.
    Returns: the paths, in the order of `kinds`.
    Raises: ValueError: an unknown kind, `out_dir` is a file, or a map holds nan or inf; OSError: it
        cannot be made.
    """
    out_dir = Path(out_dir)
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(
            f"{', '.join(sorted(unknown))} came, needed one or more of {', '.join(KINDS)}"
        )
    if out_dir.is_file():
        raise ValueError(f"{out_dir} is a file, needed a folder: name another one")
    if not np.isfinite([mask_pred, depth_pred]).all():
        raise ValueError("the prediction holds nan or inf: these weights are broken, load others")
    paths = []
    for kind in kinds:
        if kind == "cutout" and img is None:
            continue
        path = out_dir / (f"{kind}/{name}.png" if name else f"{kind}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_picture(kind, mask_pred, depth_pred, img)).save(path)
        paths.append(path)
    return paths


def _picture(kind: str, mask_pred: np.ndarray, depth_pred: np.ndarray, img) -> np.ndarray:
    mask = (mask_pred > 0.5).astype(np.uint8) * 255
    if kind == "mask":
        return mask
    if kind == "depth":
        return np.round(np.clip(depth_pred * METRES * 1000, 0, 65535)).astype(np.uint16)
    if kind == "depth_colour":
        viridis = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]  # (256, 3) uint8
        return viridis[np.round(np.clip(depth_pred, 0, 1) * 255).astype(np.uint8)]
    return np.dstack([img * (mask[..., None] > 0), mask])  # emptied, too: no hidden colours
