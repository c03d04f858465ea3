"""Batches: all about step k follows from (config, k), nothing from what ran before.

Out of packs, a batch is one fancy index: much faster than worker processes, and no loader has a
state to store or to restore. One transfer, then augmentation on the device.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from evalib import augment as augmentation
from evalib import rng
from evalib.config import Config
from evalib.dataset import Pack, floats
from evalib.stream import Stream

Batch = dict[str, Tensor]


class Epochs:
    """Samples out of packs, shuffled anew in each epoch, which leaves out the rest batch.

    Input:
        packs: {size: Pack}, the same samples in each.
        rows:  to draw from.
        share: which samples of a step this one of several processes has.
    Raises: ValueError: no rows, or packs of different samples.
    """

    def __init__(
        self,
        packs: dict[int, Pack],
        rows: np.ndarray,
        config: Config,
        share: slice = slice(None),
    ) -> None:
        self.packs = packs
        self.rows = np.asarray(rows, dtype=np.int64)
        self.config = config
        self.share = share
        if not len(self.rows):
            raise ValueError("no rows to draw from; a small tier has none in some subsets")
        first = next(iter(packs.values()))
        self.kinds = first.kinds
        for pack in packs.values():
            if not np.array_equal(pack.index, first.index):
                raise ValueError(
                    f"{pack.path} holds other samples than {first.path}; "
                    "build both from one tier with one limit"
                )
        self.steps_per_epoch = max(1, len(self.rows) // config.batch_size)

    def size_of_batch(self, size: int) -> int:
        """Samples in a step of pictures of this size: all rows, where there are fewer."""
        return min(self.config.size_of_batch(size), len(self.rows))

    def take(self, step: int, size: int) -> Batch:
        """What `Pack.gather` has of the step's samples, and key (B,); of large pictures there are
        fewer, and the rest of their share waits an epoch."""
        epoch, i = divmod(step, self.steps_per_epoch)
        places = (i * self.config.batch_size + np.arange(self.size_of_batch(size)))[self.share]
        rows = self.rows[rng.permuted(places, len(self.rows), self.config.seed, epoch)]
        raw = self.packs[size].gather(rows)
        ids = self.packs[size].index["id"][rows]
        return raw | {"key": torch.from_numpy(rng.sample_keys(self.config.seed, epoch, ids))}

    def close(self) -> None:
        """There is nothing to close; a stream has processes to end."""


class Batches:
    """What each step trains on: `prepare(gather(step, size))`, or `prepare` of each of `ahead`.

    Input:
        source: `Epochs` of packs, or a `Stream`: samples by the number of the step.
        config: its `augment`, and the `way`: "batch" augments the whole batch on `device`,
                "albumentations" by sample, on the CPU.
    """

    def __init__(
        self, source: Epochs | Stream, config: Config, device: torch.device | str = "cpu"
    ) -> None:
        self.source = source
        self.steps_per_epoch = source.steps_per_epoch  # None of a stream
        self.names = config.augment
        self.way = config.way
        self.told = config.told
        self.device = torch.device(device)

    def gather(self, step: int, size: int) -> Batch:
        """The step's samples in uint8 on the CPU: bg, fg_bg (B,S,S,3), mask, depth, bg_depth
        (B,S,S), row, key (B,)."""
        raw = self.source.take(step, size)
        if self.way == "albumentations":
            raw = self._sample_by_sample(raw)
        if self.device.type == "cuda":  # only pinned memory is copied while the CPU goes on
            raw = {name: x if x.is_cuda else x.pin_memory() for name, x in raw.items()}
        return raw

    def ahead(self, steps: Iterable[tuple[int, int]], workers: int = 0) -> Iterator[Batch]:
        """What `gather` gives for each (step, size), by `workers` threads: the same for any number
        of them, as each step is gathered whole, from its number alone. At last the source is
        closed."""
        pool = ThreadPoolExecutor(workers) if workers else None
        waiting = deque()
        try:
            for step in steps:
                if pool is None:
                    yield self.gather(*step)
                    continue
                waiting.append(pool.submit(self.gather, *step))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the session may end before the steps do
            self.source.close()
            if pool:
                pool.shutdown(cancel_futures=True)

    def prepare(self, raw: Batch) -> Batch:
        """bg, fg_bg (B, 3, H, W), mask, depth, bg_depth (B, 1, H, W) 0..1 on the device, row (B,):
        what `gather` gave, augmented; `told` (B, 1, H, W), what the network knows of bg_depth."""
        keys = raw["key"].numpy()
        batch = floats({name: x for name, x in raw.items() if name != "key"}, self.device)
        if self.way == "batch":
            batch = augmentation.apply(self.names, batch, keys=keys)
        if "bg_depth" in batch:
            batch["told"] = augmentation.told(batch["bg_depth"], self.told, keys=keys)
        return batch

    def _sample_by_sample(self, raw: Batch) -> Batch:
        transform = augmentation.albumentations(self.names)  # one a thread: it holds a draw
        images = {name: x.numpy() for name, x in raw.items() if x.dtype == torch.uint8}
        samples = [
            transform({name: x[i] for name, x in images.items()}, key)
            for i, key in enumerate(raw["key"].tolist())
        ]
        return raw | {n: torch.from_numpy(np.stack([s[n] for s in samples])) for n in images}
