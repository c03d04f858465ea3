"""From two photographs of one fixed camera: which pixels are new, and how far away is everything.

The notebooks tell the story; this package holds everything that is defined once. Read it in the
order of the data: manifest, rooms, dataset, batches, augment, unet, losses, metrics, training,
weights, camera, show.
"""

import os

import torch

from evalib import config
from evalib.weights import load

torch.set_num_threads(config.threads())  # here, once, before torch starts any
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: it repeats itself

__all__ = ["load"]
__version__ = "0.1.0"
