"""Batches out of packs: all about step k follows from (seed, k), nothing from what ran before.

One fancy index for a whole batch, one transfer, then augmentation on the device: much faster than
worker processes, and no loader has a state to store or to restore.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from evalib import augment as augmentation
from evalib import rng
from evalib.dataset import Pack, floats

Batch = dict[str, Tensor]


class Batches:
    """What each step trains on: `prepare(gather(step, size))`, or `prepare` of each of `ahead`.

    Input:
        packs:      {size: Pack}, the same samples in each.
        rows:       rows to draw from; each epoch shuffles them anew and leaves out the rest batch.
        batch_size: of the smallest pictures; more than there are rows means all rows.
        augment:    names of transforms, as `augment.ALL` has them.
        way:        "batch": the whole batch on `device`; "albumentations": by sample, on the CPU.
        rank, world: of a step's samples this process gets each `world`-th, from `rank` on.
    Raises: ValueError: no rows, or packs of different samples.
    """

    def __init__(
        self,
        packs: dict[int, Pack],
        rows: np.ndarray,
        *,
        batch_size: int,
        seed: int = 0,
        augment: tuple[str, ...] = (),
        way: str = "batch",
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.packs = packs
        self.rows = np.asarray(rows, dtype=np.int64)
        self.names = augment
        self.way = way
        if not len(self.rows):
            raise ValueError("no rows to draw from; a small tier has none in some subsets")
        first = next(iter(packs.values()))
        for pack in packs.values():
            if not np.array_equal(pack.index, first.index):
                raise ValueError(
                    f"{pack.path} holds other samples than {first.path}; "
                    "build both from one tier with one limit"
                )
        self.batch_size = min(batch_size, len(self.rows))
        self.steps_per_epoch = len(self.rows) // self.batch_size
        self.seed = seed
        self.device = device
        self.rank = rank
        self.world = world

    def gather(self, step: int, size: int) -> Batch:
        """The step's samples in uint8 on the CPU, as `Pack.gather` has them, and a `key` (B,)."""
        epoch, i = divmod(step, self.steps_per_epoch)
        share = np.arange(self.rank, self.size_of_batch(size), self.world)
        places = i * self.batch_size + share
        rows = self.rows[rng.permuted(places, len(self.rows), self.seed, epoch)]
        raw = self.packs[size].gather(rows)
        raw["key"] = rng.sample_keys(self.seed, epoch, self.packs[size].index["id"][rows])
        return self._sample_by_sample(raw) if self.way == "albumentations" else raw

    def size_of_batch(self, size: int) -> int:
        """Samples in a step: `batch_size` of the smallest pictures, of others as many as have the
        same area, so that every step costs the same. The rest of their share waits an epoch."""
        return max(1, round(self.batch_size * (min(self.packs) / size) ** 2))

    def ahead(self, steps: Iterable[tuple[int, int]], workers: int = 0) -> Iterator[Batch]:
        """What `gather` gives for each (step, size), by `workers` threads: the same for any number
        of them, as each step is gathered whole, from its number alone."""
        if not workers:
            yield from (self.gather(*step) for step in steps)
            return
        pool = ThreadPoolExecutor(workers)
        waiting = deque()
        try:
            for step in steps:
                waiting.append(pool.submit(self.gather, *step))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the session may end before the steps do
            pool.shutdown(cancel_futures=True)

    def prepare(self, raw: Batch) -> Batch:
        """bg, fg_bg (B, 3, H, W), mask, depth, bg_depth (B, 1, H, W) 0..1 on the device, row (B,):
        what `gather` gave, augmented."""
        batch = floats({name: x for name, x in raw.items() if name != "key"}, self.device)
        if self.way == "albumentations":
            return batch
        return augmentation.apply(self.names, batch, keys=raw["key"])

    def _sample_by_sample(self, raw: Batch) -> Batch:
        transform = augmentation.albumentations(self.names)  # one a thread: it holds a draw
        images = {name: x.numpy() for name, x in raw.items() if x.dtype == torch.uint8}
        samples = [
            transform({name: x[i] for name, x in images.items()}, key)
            for i, key in enumerate(raw["key"].tolist())
        ]
        return raw | {n: torch.from_numpy(np.stack([s[n] for s in samples])) for n in images}
