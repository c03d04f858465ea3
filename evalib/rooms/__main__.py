"""Render for another process: a line of JSON comes in, the bytes of its pictures go out."""

import contextlib
import json
import signal
import sys
from types import ModuleType

import numpy as np

from evalib import rooms

KINDS = ("bg", "bg_depth", "fg_bg", "mask", "depth")


def serve(renderer: ModuleType) -> None:
    """Answer lines {"bg": [...], "ids": [...], "size": S, "seed": s} on stdin by the uint8 arrays
    of KINDS on stdout, one after the other, until there are no more lines."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stop button is for whoever asks
    with contextlib.suppress(BrokenPipeError):  # nobody waits for the answer any more
        for line in sys.stdin.buffer:
            asked = json.loads(line)
            bg, ids = asked.pop("bg"), asked.pop("ids")
            images = renderer.render_backgrounds(bg, **asked) | renderer.render(ids, **asked)
            for kind in KINDS:
                sys.stdout.buffer.write(np.ascontiguousarray(images[kind]))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve(rooms)
