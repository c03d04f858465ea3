"""People's own photographs: read them, and write what the network saw.

A photo is input, never code: only plain picture formats are decoded (Pillow would hand PostScript
to Ghostscript), sizes are bounded before pixels are unpacked, and whatever a broken file makes a
decoder raise becomes a `ValueError` that names the file.
"""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageOps

from evalib.camera.camera import METRES

Source = str | Path | bytes | memoryview
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")


def load_photo(source: Source) -> np.ndarray:
    """A photo as a person sees it, (H, W, 3) uint8: turned upright, RGB.

    EXIF rotation is applied; grey, palette and CMYK become RGB; transparent parts lie on white; of
    16 bits the high 8 are kept, never stretched, so that two shots stay comparable; of an animation
    the first frame is taken. `source` is a path, or the bytes of a file (an upload).

    Raises: FileNotFoundError; ValueError: not one of `FORMATS`, damaged, too large, no known range.
    """
    needed = f"a whole {', '.join(FORMATS)} (not HEIC) of at most 89 million pixels"
    return _read(source, FORMATS, _rgb, f"{needed}; export it again as JPEG or 8-bit PNG")


def load_depth(source: Source) -> np.ndarray:
    """A depth map as depth cameras write it, and `write_prediction`: one channel of 16 bits in
    millimetres, to (H, W) float32 metres; 0 where it is not known.

    Raises: FileNotFoundError; ValueError: no such picture.
    """
    needed = "a PNG or TIFF of one channel of 16 bits, in millimetres"
    return _read(source, ("PNG", "TIFF"), _metres, needed)


def _read(source: Source, formats: tuple[str, ...], convert: Callable, needed: str) -> np.ndarray:
    is_upload = isinstance(source, (bytes, memoryview))
    name = f"the upload of {len(source)} bytes" if is_upload else str(source)
    if not is_upload and not Path(source).is_file():
        raise FileNotFoundError(f"no picture at {name}: give the path of an existing image file")
    try:
        with warnings.catch_warnings():
            # up to twice its limit of 89 million pixels Pillow only warns
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if is_upload else source, formats=formats) as image:
                image.load()  # TIFF is turned upright here already
                return convert(image)
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise ValueError(f"cannot read {name} ({error}): needed {needed}") from error


def _rgb(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 where it should scale; RGB of 16 bits it reads right
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError("its values are not whole numbers of 16 bits")
        return np.stack([(values >> 8).astype(np.uint8)] * 3, axis=-1)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


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
) -> list[Path]:
    """Write pictures to `out_dir`, made if missing: KIND.png, or with a `name` KIND/NAME.png.

    Input:
        mask_pred:  (H, W) in 0..1; "mask" is 255 where something is new (> 0.5), else 0 (8 bits).
        depth_pred: (H, W), z / 10 m; "depth" is in millimetres, 0..65535 (16 bits), and
                    "depth_colour" is viridis from dark (0 m) to bright (10 m), never stretched.
        img:        (H, W, 3) uint8, for "cutout": its new pixels, the others transparent.
    Returns: the paths, in this order.
    Raises: ValueError: `out_dir` is a file, or a map holds nan or inf; OSError: it cannot be made.
    """
    out_dir = Path(out_dir)
    if out_dir.is_file():
        raise ValueError(f"{out_dir} is a file, needed a folder: name another one")
    if not np.isfinite([mask_pred, depth_pred]).all():
        raise ValueError("the prediction holds nan or inf: these weights are broken, load others")
    viridis = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]  # (256, 3) uint8
    mask = (mask_pred > 0.5).astype(np.uint8) * 255
    pictures = {
        "mask": mask,
        "depth": np.round(np.clip(depth_pred * METRES * 1000, 0, 65535)).astype(np.uint16),
        "depth_colour": viridis[np.round(np.clip(depth_pred, 0, 1) * 255).astype(np.uint8)],
    }
    if img is not None:  # what is not new is emptied, too: no hidden colours
        pictures["cutout"] = np.dstack([img * (mask[..., None] > 0), mask])
    paths = []
    for kind, pixels in pictures.items():
        path = out_dir / (f"{kind}/{name}.png" if name else f"{kind}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths
