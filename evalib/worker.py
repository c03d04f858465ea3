"""A process that renders for another: a line of JSON comes in, the bytes of its pictures go out.

Pipes, not `multiprocessing`: when either side is killed, the other one sees the end of its pipe, so
nothing hangs and nothing is left behind.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("bg", "bg_depth", "fg_bg", "mask", "depth")  # a row a background, then a row a sample
STARTS = 3  # of a worker; one that ends too early was killed, by a system short of memory perhaps


def serve(renderer: Any) -> None:
    """Answer lines {"bg": [...], "ids": [...], "size": S, "seed": s} on stdin by the uint8 arrays
    of KINDS on stdout, one after the other, until there are no more lines."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stop button is for whoever asks
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is no answer
    with contextlib.suppress(OSError):  # nobody waits for the answer any more
        for line in sys.stdin.buffer:
            asked = json.loads(line)
            bg = asked.pop("bg")
            ids = asked.pop("ids")
            images = renderer.render_backgrounds(bg, **asked) | renderer.render(ids, **asked)
            for kind in KINDS:
                if kind in images:
                    replies.write(np.ascontiguousarray(images[kind]))
            replies.flush()


class Worker:
    """A process that renders, started when it is first asked, and again if it was killed."""

    def __init__(self, command: Sequence[str], seed: int) -> None:
        self.command = command  # what a Python is started with
        self.seed = seed
        self.process: subprocess.Popen | None = None
        self.ended = False

    def render(
        self, bg: np.ndarray, ids: np.ndarray, size: int, into: dict[str, np.ndarray]
    ) -> bool:
        """Render backgrounds `bg` and samples `ids` into arrays, uint8, of those KINDS there are.

        Returns: whether all of it came; no if it was told to `end`.
        Raises: ChildProcessError: no worker stays alive; OSError: none can be started.
        """
        asked = {"bg": bg.tolist(), "ids": ids.tolist(), "size": size, "seed": self.seed}
        for _ in range(STARTS):
            if self.process is None:
                self._start()
            if self.ended:
                return False
            with contextlib.suppress(OSError):  # a pipe without another end
                self.process.stdin.write(json.dumps(asked).encode() + b"\n")
                self.process.stdin.flush()
                if all(self._read(into[kind]) for kind in KINDS if kind in into):
                    return True
            status = self.stop()
        if self.ended:
            return False
        raise ChildProcessError(
            f"the process that renders ended {STARTS} times (exit status {status}; what it said is "
            "above, or where the notebook server writes). With little memory, try fewer workers"
        )

    def end(self) -> None:
        """Called by another thread: give up what is being rendered."""
        self.ended = True
        if process := self.process:
            process.kill()

    def stop(self) -> int | None:
        """End the process; its exit status."""
        if self.process is None:
            return None
        self.process.kill()
        with contextlib.suppress(OSError), self.process:
            pass  # closes the pipes and waits
        status = self.process.returncode
        self.process = None
        return status

    def _read(self, into: np.ndarray) -> bool:
        """Whether all of it came."""
        return self.process.stdout.readinto(into.data.cast("B")) == into.nbytes

    def _start(self) -> None:
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, *self.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | one_thread,
            cwd=Path(__file__).resolve().parents[1],  # where `-m` looks first: this evalib
        )
