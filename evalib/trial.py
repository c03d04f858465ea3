"""A few steps that leave nothing behind: how fast is this machine, and how fast should it learn?"""

import itertools
import math

import numpy as np

from evalib import dataset, session, timing
from evalib.config import Config
from evalib.learner import Learner


def speed(config: Config, packs_by_size: dict[int, dataset.Pack]) -> float:
    """Training steps a second on this machine: two seconds of them for each turn of the sizes."""
    learner = Learner(config, packs_by_size)
    all_s = 0.0
    with session.repeating_exactly(learner.device):  # as in `train`: the kernels take longer
        for sizes, steps in config.sizes:
            for size in sizes:
                batches = learner.batches.ahead((step, size) for step in itertools.count())
                per_s = timing.rate(lambda b=batches: learner.train_step(b, lr=config.lr))
                all_s += steps / len(sizes) / per_s
    return config.n_steps / all_s


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
