"""A few steps of training that leave nothing behind: how fast is this machine?"""

import itertools

from evalib import dataset, timing
from evalib.config import Config
from evalib.learner import Learner


def speed(config: Config, packs_by_size: dict[int, dataset.Pack]) -> float:
    """Training steps a second on this machine: two seconds of them for each turn of the sizes."""
    learner = Learner(config, packs_by_size)
    all_s = 0.0
    for sizes, steps in config.sizes:
        for size in sizes:
            batches = learner.batches.ahead((step, size) for step in itertools.count())
            per_s = timing.rate(lambda b=batches: learner.train_step(b, lr=config.lr))
            all_s += steps / len(sizes) / per_s
    return config.n_steps / all_s
