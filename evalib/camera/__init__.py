"""Footage of a fixed camera: photographs, folders and videos in, masks and depth out.

`Camera(model, bg)(frame)` is the door. Behind it: `photos` reads and writes pictures, `fixed` is
the camera and its empty scene, `anchor` uses the empty scene's depth where that is known, `footage`
goes through folders and videos.
"""

from evalib.camera.anchor import anchored, predictor
from evalib.camera.fixed import LONG_SIDE, METRES, Camera, predict_pair
from evalib.camera.footage import overlay, read
from evalib.camera.photos import load_depth, load_photo, write_prediction

__all__ = ["LONG_SIDE", "METRES", "Camera", "anchored", "load_depth", "load_photo", "overlay"]
__all__ += ["predict_pair", "predictor", "read", "write_prediction"]
