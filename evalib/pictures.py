"""Pictures of strangers: input, never code.

Only plain formats are decoded, by what is in the file, whatever its name says (Pillow would hand
PostScript to Ghostscript); sizes are bounded before pixels are unpacked, and whatever a broken file
makes a decoder raise becomes a `ValueError` that names it.
"""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Source = str | Path | bytes | memoryview
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
NEEDED = f"a whole {', '.join(FORMATS)} (not HEIC) of at most 89 million pixels"


def read(
    source: Source,
    convert: Callable,
    formats: tuple[str, ...] = FORMATS,
    needed: str = f"{NEEDED}; export it again as JPEG or 8-bit PNG",
):
    """`convert` of a picture that is opened, but not loaded. `source` is a path, or the bytes of a
    file (an upload, a member of an archive).

    Raises: FileNotFoundError; ValueError: not one of `formats`, damaged, too large, or `convert`
    raised.
    """
    is_bytes = isinstance(source, (bytes, memoryview))
    name = f"the picture of {len(source)} bytes" if is_bytes else str(source)
    if not is_bytes and not Path(source).is_file():
        raise FileNotFoundError(f"no picture at {name}: give the path of an existing image file")
    try:
        with warnings.catch_warnings():
            # up to twice its limit of 89 million pixels Pillow only warns
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if is_bytes else source, formats=formats) as image:
                return convert(image)
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise ValueError(f"cannot read {name} ({error}): needed {needed}") from error


def rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8, as a person sees it: turned upright by EXIF; grey, palette and CMYK become
    RGB; transparent parts lie on white; of 16 bits the high 8 are kept, never stretched, so that
    two shots stay comparable; of an animation the first frame is taken."""
    image = upright(image)
    if _is_deep(image):
        # Pillow's own conversion clips at 255 where it should scale; RGB of 16 bits it reads right
        return np.stack([(_checked(image) >> 8).astype(np.uint8)] * 3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def grey(image: Image.Image) -> np.ndarray:
    """(H, W) float32 in 0..1, of 8 or 16 bits, turned upright; transparent parts are 0."""
    image = upright(image)
    if _is_deep(image):
        return _checked(image).astype(np.float32) / 65535
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return np.asarray(image.convert("L"), np.float32) / 255


def upright(image: Image.Image) -> Image.Image:
    """Loaded, and turned by EXIF."""
    image.load()  # TIFF is turned upright here already
    return ImageOps.exif_transpose(image)


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _checked(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("its values are not whole numbers of 16 bits")
    return values


def rgb_square(image: Image.Image, size: int) -> np.ndarray:
    """(size, size, 3) uint8: `square` of `rgb`, of a picture that is not loaded yet."""
    image.draft(None, (size, size))  # JPEG: decoded at 1/2, 1/4 or 1/8 if that is enough
    return square(rgb(image), size)


def square(image: np.ndarray, size: int) -> np.ndarray:
    """`resized` to (size, size[, 3])."""
    return resized(image, (size, size))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(*size[, 3]), rows first, uint8 or float32: means of areas, or bilinear if it grows."""
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(size[::-1], how))
