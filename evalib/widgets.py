"""What notebook 05 lets a person do: move sliders, upload two photographs, or take them."""

import base64
import re
from collections.abc import Callable
from pathlib import Path

import ipywidgets
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure
from torch import nn

from evalib import camera as cameras
from evalib import colab, show

TAKE_PHOTOS_JS = Path(__file__).with_name("take_photos.js").read_text(encoding="utf-8")


def explorer(draw: Callable[[int, float], Figure], n: int) -> None:
    """Sliders over `n` samples and the mask threshold; `draw(sample, threshold)` is the picture."""
    sample = ipywidgets.IntSlider(0, 0, n - 1, description="sample")
    threshold = ipywidgets.FloatSlider(0.5, min=0.05, max=0.95, step=0.05, description="threshold")
    for slider in (sample, threshold):
        slider.continuous_update = False  # draw where it is let go, not on its way
    ipywidgets.interact(lambda s, t: display(draw(s, t)), s=sample, t=threshold)


def own_photos(model: nn.Module, *, camera: bool = False) -> object:
    """What the network says about two photographs of your own; to be a cell's last expression.

    Input: camera: on Colab, take them with the browser's camera. Where that gives none, or without
        it, there are two upload buttons, and the prediction appears below once both are used.
    Returns: a figure, or a widget.
    """
    if camera and not colab.on_colab():
        print("The browser's camera can be used on Colab only; upload two photographs instead.")
    elif camera:
        try:
            return show.pair(model, *take_photos(), align=True)
        except ValueError as error:
            print(f"{error}; or upload two photographs.")
    return _uploads(model)


def take_photos() -> tuple[np.ndarray, np.ndarray]:
    """The empty scene, then the scene with something new, by the browser's camera, on Colab. Waits
    until somebody has pressed the button below the camera's picture twice.

    Returns: (H, W, 3) uint8 each.
    Raises: ValueError: there is no camera, it was refused, or what came is no two photographs.
    """
    from google.colab import output

    answer = output.eval_js(TAKE_PHOTOS_JS)
    if not isinstance(answer, dict) or len(answer.get("photos", ())) != 2:
        reason = answer.get("error") if isinstance(answer, dict) else "no answer"
        raise ValueError(f"the camera gave no two photographs ({reason}): allow it and run again")
    return tuple(cameras.load_photo(_jpeg(url)) for url in answer["photos"])


def _jpeg(url: str) -> bytes:
    """The bytes of a data URL, which comes from a browser: input, never code."""
    match = re.fullmatch(r"data:image/jpeg;base64,([A-Za-z0-9+/]+={0,2})", str(url))
    if not match:
        raise ValueError(f"the camera gave {str(url)[:30]!r}, needed a JPEG as a data URL")
    return base64.b64decode(match[1])


def _uploads(model: nn.Module) -> ipywidgets.Widget:
    """Two upload buttons; once both pictures are there, the prediction appears below them."""
    empty = ipywidgets.FileUpload(accept="image/*", description="empty")
    new = ipywidgets.FileUpload(accept="image/*", description="with new")
    out = ipywidgets.Output()

    def update(_) -> None:
        photos = _uploaded(empty), _uploaded(new)
        if None in photos:
            return
        out.clear_output(wait=True)
        with out:
            try:
                display(show.pair(model, *map(cameras.load_photo, photos), align=True))
            except ValueError as error:
                print(error)

    for upload in (empty, new):
        upload.observe(update, names="value")
    return ipywidgets.VBox([ipywidgets.HBox([empty, new]), out])


def _uploaded(upload: object) -> bytes | None:
    """The bytes of the last upload: ipywidgets 8 gives a tuple of dicts, 7 a dict by file name."""
    value = upload.value
    files = list(value.values() if isinstance(value, dict) else value)
    return bytes(files[-1]["content"]) if files else None
