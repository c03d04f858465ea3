"""Footage of a fixed camera: photographs, folders and videos in, masks and depth out.

`camera` holds the camera and its empty scene: `Camera(model, bg)(frame)`. `anchor` uses the empty
scene's depth where it is known, `measured` the distances of a few points of it, `align` brings the
empty scene to where the camera was moved, `photos` reads and writes pictures, `footage` folders and
videos, `command` is `evalib predict`.
"""

from evalib.camera.align import aligned
from evalib.camera.anchor import anchored, predictor
from evalib.camera.camera import LONG_SIDE, METRES, Camera, predict_pair
from evalib.camera.command import add_arguments, predict
from evalib.camera.footage import median, overlay, read
from evalib.camera.photos import KINDS, load_depth, load_photo, write_prediction

__all__ = ["KINDS", "LONG_SIDE", "METRES", "Camera", "add_arguments", "aligned", "anchored"]
__all__ += ["load_depth", "load_photo", "median", "overlay", "predict", "predict_pair"]
__all__ += ["predictor", "read", "write_prediction"]
