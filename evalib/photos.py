"""People's own photographs: read a pair, run the network on it, write what it saw.

A photo is input, never code: only plain picture formats are decoded (Pillow would hand PostScript
to Ghostscript), sizes are bounded before pixels are unpacked, and whatever a broken file makes a
decoder raise becomes a `ValueError` that names the file.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image, ImageOps
from torch import nn

from evalib import unet

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
SAME_ASPECT = 0.01  # relative; rounding alone (6000x4000 as 640x427) gives 0.001


def load_photo(source: str | Path | bytes | memoryview) -> np.ndarray:
    """Read a photo as a person sees it: turned upright, 8-bit RGB.

    EXIF rotation is applied; grey, palette and CMYK become RGB; transparent parts lie on white; of
    16 bits the high 8 are kept, never stretched, so that two shots stay comparable; of an animation
    the first frame is taken. `source` is a path, or the bytes of a file (an upload).

    Returns:
        (H, W, 3) uint8.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not one of `FORMATS`, damaged, without a known range, or too large.
    """
    upload = isinstance(source, (bytes, memoryview))
    name = f"the upload of {len(source)} bytes" if upload else str(source)
    if not upload and not Path(source).is_file():
        raise FileNotFoundError(f"no photo at {name}: give the path of an existing image file")
    try:
        with warnings.catch_warnings():
            # up to twice its limit of 89 million pixels Pillow only warns
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if upload else source, formats=FORMATS) as image:
                image.load()  # TIFF is turned here already, the others below
                return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        needed = f"a whole {', '.join(FORMATS)} (not HEIC) of at most 89 million pixels"
        todo = "export it again as JPEG or 8-bit PNG"
        raise ValueError(f"cannot read {name} ({error}): needed {needed}; {todo}") from error


def _rgb(image: Image.Image) -> np.ndarray:
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


def predict_pair(
    model: nn.Module, bg: np.ndarray, img: np.ndarray, *, long_side: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    """Tell what is new in `img` and how far away everything is, on the device of `model`.

    The network sees both photos shrunk to `long_side` (enlarged only where a side would be below
    what it needs): it was trained on small pictures, and what it learnt of sizes holds near that.

    Input:
        bg:        (H', W', 3) uint8, the empty scene.
        img:       (H, W, 3) uint8, the same view with something new in it.
        long_side: pixels of the longer side inside the network.
    Returns:
        mask_pred (H, W) float32, probability of new; depth_pred (H, W) float32 in 0..1, z / 10 m.
    Warns:
        UserWarning: sizes differ, proportions agree within 1 %; `bg` is scaled to `img`.
    Raises:
        ValueError: not uint8 RGB arrays, `long_side` too small, or two different proportions.
    """
    _check_pair(bg, img, long_side)
    full = img.shape[:2]
    scale = min(long_side, max(bg.shape[:2]), max(full)) / max(full)
    size = tuple(max(unet.MIN_SIZE, round(side * scale)) for side in full)
    inputs = (_shrink(photo, size) for photo in (bg, img))
    maps = torch.cat(unet.predict(model, *inputs), dim=1).float()  # (1, 2, h, w)
    maps = F.interpolate(maps, full, mode="bilinear", align_corners=False)  # (1, 2, H, W)
    mask_pred, depth_pred = maps[0].cpu().numpy()
    return mask_pred, depth_pred


def _check_pair(bg: np.ndarray, img: np.ndarray, long_side: int) -> None:
    for name, photo in (("bg", bg), ("img", img)):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            got = f"{photo.dtype} {photo.shape}"
            raise ValueError(f"{name} is {got}, needed uint8 (H, W, 3): read it with load_photo")
    if long_side < unet.MIN_SIZE:
        raise ValueError(f"long_side is {long_side}, needed {unet.MIN_SIZE} or more: take 128")
    (bg_h, bg_w), (h, w) = bg.shape[:2], img.shape[:2]
    sizes = f"bg is {bg_w}x{bg_h}, img is {w}x{h} (width x height)"
    if abs(bg_w * h / (bg_h * w) - 1) > SAME_ASPECT:
        todo = "take both with one fixed camera and one setting, or crop them to the same view"
        raise ValueError(f"{sizes}: the proportions differ; {todo}")
    if (bg_h, bg_w) != (h, w):
        warnings.warn(f"{sizes}: bg is scaled to the size of img", stacklevel=3)


def _shrink(photo: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    # a box filter averages what falls into a pixel, as a sensor does; 8 bits as in training
    small = Image.fromarray(photo).resize(size[::-1], Image.Resampling.BOX)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255


def write_prediction(
    out_dir: str | Path, mask_pred: np.ndarray, depth_pred: np.ndarray, *, threshold: float = 0.5
) -> list[Path]:
    """Write and return `mask.png`, `depth.png`, `depth_colour.png` in `out_dir`, made if missing.

    Input:
        mask_pred:  (H, W) in 0..1; mask.png is 255 where it is > `threshold`, else 0 (8 bits).
        depth_pred: (H, W), z / 10 m; depth.png is in millimetres, 0..10000 (16 bits), and
                    depth_colour.png is viridis from dark (0 m) to bright (10 m), never stretched.
    Raises:
        ValueError: `out_dir` is a file, or a map holds nan or inf.
    """
    out_dir = Path(out_dir)
    if out_dir.is_file():
        raise ValueError(f"{out_dir} is a file, needed a folder: name another one")
    if not np.isfinite([mask_pred, depth_pred]).all():
        raise ValueError("the prediction holds nan or inf: these weights are broken, load others")
    out_dir.mkdir(parents=True, exist_ok=True)
    depth = np.clip(depth_pred, 0, 1)
    viridis = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]  # (256, 3) uint8
    pictures = {
        "mask.png": (mask_pred > threshold).astype(np.uint8) * 255,
        "depth.png": np.round(depth * 10_000).astype(np.uint16),
        "depth_colour.png": viridis[np.round(depth * 255).astype(np.uint8)],
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(out_dir / name)
    return [out_dir / name for name in pictures]
