"""From two photographs of one fixed camera: which pixels are new, and how far away is everything.

The notebooks tell the story; this package holds everything that is defined once. Read it in the
order of the data: manifest, rooms, dataset, stream, batches, augment, unet, losses, metrics,
training, weights, camera, show.
"""

import os
from importlib import import_module
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: it repeats itself

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`evalib.load`, imported when it is asked for: who only renders needs no torch, which takes
    seconds to import and 600 MB."""
    if name == "load":
        import_module("evalib.config")  # says how many threads torch computes with
        return import_module("evalib.weights").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
