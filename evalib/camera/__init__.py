"""Footage of a fixed camera: photographs, folders and videos in, masks and depth out.

`camera` holds the camera and its empty scene: `Camera(model, bg)(frame)`. `anchor` uses the empty
scene's depth where it is known, `photos` reads and writes pictures, `footage` folders and videos.
"""

from evalib.camera.anchor import anchored, predictor
from evalib.camera.camera import LONG_SIDE, METRES, Camera, predict_pair
from evalib.camera.footage import overlay, read
from evalib.camera.photos import load_depth, load_photo, write_prediction

__all__ = ["LONG_SIDE", "METRES", "Camera", "anchored", "load_depth", "load_photo", "overlay"]
__all__ += ["predict_pair", "predictor", "read", "write_prediction"]
