"""A few steps that leave nothing behind: how fast is this machine, and how fast should it learn?"""

import contextlib
import itertools
import math
from functools import partial

import numpy as np

from evalib import dataset, timing
from evalib.config import REUSES, Config
from evalib.training import session
from evalib.training.learner import Learner


def pace(
    config: Config,
    data: dict[int, dataset.Pack] | str,
    *,
    valid: dataset.Pack | None = None,
    workers: int = 1,
) -> dict[str, float]:
    """How fast this machine trains on packs or on a stream, from two seconds at each size; of a
    stream two more, while it renders and when it is closed.

    Returns: per_s, steps a second; of a stream also reuse, as `reuse` chooses it.
    Raises: ValueError: there are several processes, whose paces differ.
    """
    learner = Learner(config, data, valid, workers=workers)
    if learner.ranks.world > 1:
        raise ValueError(
            "several processes came, needed one: measure there, then launch the others"
        )
    batches = learner.batches
    sizes, first = np.unique(config.turns, return_index=True)
    raw = {}

    def step_s() -> float:
        """Seconds of a step, the mean over the turns of sizes."""
        seconds = {}
        for size, batch in sorted(raw.items()):
            step = partial(learner.train_step, itertools.repeat(batch), lr=config.lr)
            seconds[size] = 1 / timing.rate(step)
        return float(np.mean([seconds[size] for size in config.turns]))

    with session.repeating_exactly(learner.device):  # as `train` does, by slower kernels
        with contextlib.closing(batches.source):
            for i in np.argsort(first):
                raw[int(sizes[i])] = batches.gather(int(first[i]), int(sizes[i]))
            beside_s = step_s()  # it renders on: with a reuse of 1, another window
            if not isinstance(data, str):
                return {"per_s": 1 / beside_s}
            speeds = batches.source.speeds()
        alone_s = step_s()
    rendering_s = np.mean([config.size_of_batch(size) / speeds[size] for size in config.turns])
    times, per_step_s = reuse(alone_s, beside_s, float(rendering_s))
    return {"per_s": 1 / per_step_s, "reuse": times}


def reuse(alone_s: float, beside_s: float, rendering_s: float) -> tuple[int, float]:
    """How often to see each sample, and the seconds a step takes then: the least of REUSES with
    which a step takes at most a tenth longer than it could, else the most.

    Input: seconds of a step while nothing is rendered, and while samples are (on two halves of one
    core that is slower); and of rendering as many samples as a step sees.
    """
    for times in REUSES:
        share = min(1.0, rendering_s / (times * alone_s))  # of the time in which it is rendered
        step_s = alone_s + share * max(0.0, beside_s - alone_s)
        step_s = max(step_s, rendering_s / times)
        if step_s <= 1.1 * alone_s:
            break
    return times, step_s


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
