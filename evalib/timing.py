"""Where the time of a run goes: seconds per named block, cheap enough to be always on.

On CUDA the clock is the device's: events are queued around a block and read later, so nothing
waits for the device within a step. A block that only uses the CPU then counts for as long as the
device stood still for it, which is what it costs.
"""

import os
import platform
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

STARTED = time.monotonic()  # in a notebook: when the setup cell ran
COLAB_S = 11.5 * 3600  # "at most 12 hours" in Colab's FAQ, and time to save


def seconds(text: str | float) -> float:
    """Seconds of "45s", "10min", "1.5h" or a number; "colab" is what is left of Colab's 12 hours.

    Raises: ValueError: anything else.
    """
    if isinstance(text, (int, float)):
        return float(text)
    if text == "colab":
        return COLAB_S - (time.monotonic() - STARTED)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h)", text)
    if not match:
        raise ValueError(f"{text!r} is no time; give one such as 45s, 10min, 1.5h, or colab")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]


def text(seconds: float) -> str:
    """A time as people say it, to two digits: 45 s, 10 min, 1.5 h."""
    unit, size = next((u for u in (("h", 3600), ("min", 60)) if seconds >= u[1]), ("s", 1))
    return f"{seconds / size:.2g} {unit}"


def rate(call: Callable[[], object], seconds: float = 2.0) -> float:
    """How often a second this machine makes a call; the first one, which warms up, is left out."""
    call()
    n = 0
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        call()
        n += 1
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # the last calls are only queued
    return n / (time.perf_counter() - start)


def n_within(rate: float, minutes: float, *, least: int, most: int) -> int:
    """How many things fit into `minutes` at `rate` a second: `least` to `most`, in two digits."""
    n = int(60 * minutes * rate)
    n -= n % 10 ** max(0, len(str(n)) - 2)
    return min(max(n, least), most)


class Timer:
    """`with timer("forward"): ...` adds to timer.seconds["forward"]; blocks should not nest.

    It uses CUDA events once this process has used CUDA, the CPU's clock before.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self._seconds: dict[str, float] = defaultdict(float)
        self._pending: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def __call__(self, block: str) -> Iterator[None]:
        self._seconds[block] += 0.0  # takes its place in the order now
        cuda = torch.cuda.is_initialized()
        start = _event() if cuda else time.perf_counter()
        try:
            yield
        finally:
            if cuda:
                self._pending.append((block, start, _event()))
                self._collect()
            else:
                self._seconds[block] += time.perf_counter() - start

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per block, in order of first use; on CUDA waits for the last block to finish."""
        if self._pending:
            self._pending[-1][2].synchronize()
        self._collect()
        return dict(self._seconds)

    def _collect(self) -> None:
        """Add up what the device has finished, so that a long run holds few events."""
        while self._pending and self._pending[0][2].query():
            block, start, stop = self._pending.popleft()
            self._seconds[block] += start.elapsed_time(stop) / 1000  # elapsed_time is in ms


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def blocks(history: list[dict]) -> dict[str, float]:
    """Seconds of each block in the logged rows of a run, from their columns `BLOCK_s`."""
    found: dict[str, float] = defaultdict(float)
    for row in history:
        for name, value in row.items():
            if name.endswith("_s"):
                found[name[:-2]] += value
    return dict(found)


def utc_now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def machine() -> str:
    """One line on what this runs on: Python, torch, CPU cores, torch's threads, GPU (or none)."""
    gpu = "no GPU"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        gpu = f"{device.name}, {device.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    python = f"Python {platform.python_version()}, torch {torch.__version__}"
    cores = f"{os.cpu_count()} CPU cores, torch threads: {torch.get_num_threads()}"
    return f"{python}, {cores}, {gpu}"
