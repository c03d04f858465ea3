"""One life of a machine that trains: how it is asked to stop, how torch computes in it, and how
many more a run takes."""

import contextlib
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from evalib import timing
from evalib.config import cores
from evalib.training.ranks import Ranks


@dataclass
class Stop:
    asked: bool = False  # by the stop button (SIGINT) or SIGTERM
    terminated: bool = False  # by SIGTERM


@contextlib.contextmanager
def stop_signals(*, launched: bool = False) -> Iterator[Stop]:
    """Asked to stop, the loop ends after its step; asked again, at once, without saving. Not if
    `launched`: what a launcher's whole group receives, it passes on, so that it comes twice."""
    stop = Stop()
    former = {}

    def handle(number: int, _) -> None:
        if stop.asked and not launched:
            raise KeyboardInterrupt
        stop.asked = True
        stop.terminated = stop.terminated or number == signal.SIGTERM

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            former[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def repeating_exactly(device: torch.device) -> Iterator[None]:
    """On CUDA, the kernels that repeat themselves: only then is a resumed run the same run. Those
    that have no such kernel warn. cuBLAS also needs what evalib/__init__ sets."""
    if device.type != "cuda":
        yield
        return
    exact = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # finds bugs, and takes time
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(exact, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark


def go_on_as(n_threads: int, n_processes: int, ranks: Ranks) -> None:
    """Compute in as many threads as a run of `n_processes` had: sums depend on their number. Warns
    where it or the number of processes cannot be kept; no result but rounding changes then."""
    now = ""
    if n_processes != ranks.world:  # each has its share of the cores
        began = f"in {n_processes} processes"
        now = f"in {ranks.world}"
    else:
        torch.set_num_threads(min(n_threads, cores()))
        if n_threads > cores():
            began = f"with {n_threads} threads"
            now = f"with {cores()}, as many as this machine has cores"
    if now and ranks.main:
        text = f"the run began {began} and goes on {now}: from here on its last bits differ"
        warnings.warn(text, stacklevel=3)


class Budget:
    """The seconds that a session may take, from now on, and what fits into them."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began = time.monotonic()
        self.now = self.began  # when the last step was done, or the first one begins
        self.first = 0.0  # when the first was, which waits: for a stream, for the GPU
        self.n_steps = -1  # since then
        self.longest_s = 0.0  # of a step with all that may follow it: evaluation, saving

    def tick(self) -> float:
        """The time, which is now."""
        self.now = time.monotonic()
        return self.now

    def step(self) -> None:
        """A step is done."""
        before = self.now
        self.tick()
        self.n_steps += 1
        if self.n_steps:
            self.longest_s = max(self.longest_s, self.now - before)
        else:
            self.first = self.now

    @property
    def spent(self) -> bool:
        """Whether another step could be one too many."""
        return self.now - self.began + 2 * self.longest_s > self.seconds

    def left(self, n_steps: int) -> str:
        """For how many sessions a run goes on that lacks `n_steps`; "" if nothing tells."""
        if math.isinf(self.seconds) or self.n_steps < 1:
            return ""
        step_s = (self.now - self.first) / self.n_steps
        n = max(1, math.ceil(n_steps * step_s / self.seconds))
        return f"Sessions of {timing.text(self.seconds)} left: about {n}."
