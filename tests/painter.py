"""Stands in for the rooms in tests of streams: `python -m painter` answers as `python -m
evalib.rooms` does, in no time, with pictures whose bytes tell the number of the sample. What the
environment variable PAINTER says goes wrong."""

import os
import sys
import time

import numpy as np

from evalib.worker import serve


def render_backgrounds(bg, size, *, seed):
    grey = (np.array(bg) % 256).astype(np.uint8)[:, None, None]
    depth = np.broadcast_to(grey, (len(bg), size, size))
    return {"bg": np.stack([depth] * 3, -1), "bg_depth": depth}


def render(ids, size, *, seed):
    _go_wrong()
    low, high = (np.array([i // n % 256 for i in ids], np.uint8)[:, None, None] for n in (1, 256))
    depth = np.broadcast_to(low, (len(ids), size, size))
    mask = np.broadcast_to(high, depth.shape)
    return {"fg_bg": np.stack([depth] * 3, -1), "mask": mask, "depth": depth}


def _go_wrong():
    what, _, arg = os.environ.get("PAINTER", "").partition(" ")
    if what == "sleep":
        time.sleep(float(arg))
    if what == "die" or (what == "die-once" and not os.path.exists(arg)):
        if arg:
            open(arg, "w").close()
        os._exit(9)


if __name__ == "__main__":
    serve(sys.modules[__name__])
