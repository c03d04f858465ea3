"""From two photographs of one fixed camera: which pixels are new, and how far away is everything.

The notebooks tell the story; this package holds everything that is defined once. Read it in the
order of the data: manifest, rooms, packs, augment, unet, losses, metrics, training, photos, show.
"""

from evalib.weights import load

__all__ = ["load"]
__version__ = "0.1.0"
