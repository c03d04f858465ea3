"""A few steps that leave nothing behind: how fast is this machine, and how fast should it learn?"""

import contextlib
import itertools
import math
from functools import partial

import numpy as np

from evalib import dataset, stream, timing
from evalib.config import Config
from evalib.training import session
from evalib.training.learner import Learner


def pace(
    config: Config,
    data: dict[int, dataset.Pack] | str,
    *,
    valid: dataset.Pack | None = None,
    workers: int = 1,
) -> dict[str, float]:
    """How fast this machine trains on packs or on a stream, from two seconds at each size.

    Returns: per_s, steps a second; of a stream also reuse: the least with which training need not
    wait for `workers` processes, or the most there is.
    """
    learner = Learner(config, data, valid, workers=workers)
    batches = learner.batches
    training_s = {}
    exactly = session.repeating_exactly(learner.device)  # as `train` does, on slower kernels
    with exactly, contextlib.closing(batches.source):
        for size in config.all_sizes:
            raw = batches.gather(int(np.flatnonzero(config.turns == size)[0]), size)
            step = partial(learner.train_step, itertools.repeat(raw), lr=config.lr)
            training_s[size] = 1 / timing.rate(step)
    step_s = np.mean([training_s[size] for size in config.turns])
    if not isinstance(data, str):
        return {"per_s": float(1 / step_s)}
    speeds = batches.source.speeds()
    rendering_s = np.mean([config.size_of_batch(size) / speeds[size] for size in config.turns])
    reuse = stream.reuse(step_s, rendering_s)
    return {"per_s": float(1 / max(step_s, rendering_s / reuse)), "reuse": reuse}


def lr_range_test(
    config: Config,
    packs_by_size: dict[int, dataset.Pack],
    *,
    low: float = 1e-5,
    high: float = 1.0,
    n_steps: int = 100,
    device: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Raise the learning rate by a constant factor a step and watch the loss.

    Returns: rates and losses (smoothed over about 10 steps), each (n,); it ends early once the
    loss is four times its best. Take a rate where the loss still falls steeply, not its lowest.
    Source: Smith 2017, Cyclical Learning Rates, section 3.3.
    """
    learner = Learner(config, packs_by_size, device=device)
    size = config.all_sizes[0]
    batches = learner.batches.ahead((step, size) for step in range(n_steps))
    rates = np.geomspace(low, high, n_steps)
    losses = []
    smooth = 0.0
    for k, lr in enumerate(rates):
        smooth = 0.9 * smooth + 0.1 * float(learner.train_step(batches, lr=float(lr)))
        losses.append(smooth / (1 - 0.9 ** (k + 1)))
        if not math.isfinite(losses[-1]) or losses[-1] > 4 * min(losses):
            break
    return rates[: len(losses)], np.array(losses)
