"""Batches out of packs: all about step k follows from (seed, k), nothing from what ran before.

One fancy index for a whole batch, then one transfer, then augmentation on the device: much faster
than zip, PIL and worker processes, and there is no state of a loader to store or to restore.
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


class Batches:
    """`batches(step)`: bg, fg_bg (B, 3, H, W), mask, depth, bg_depth (B, 1, H, W) 0..1, row (B,).

    Input:
        packs:      {size: Pack} of the same samples: `batches(step, size)` takes one.
        rows:       rows to draw from; each epoch shuffles them anew and leaves out the rest batch.
        batch_size: of the smallest pictures; more than there are rows means all rows.
        augment:    names of transforms, as `augment.ALL` has them.
        way:        "batch": the whole batch on `device`; "albumentations": by sample, on the CPU.
    Raises: ValueError: no rows, rows the pack has not, packs of different samples, unknown names.
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
    ) -> None:
        self.packs = packs
        self.rows = np.asarray(rows, dtype=np.int64)
        augmentation.check(augment)
        self._check(batch_size, way)
        self.batch_size = min(batch_size, len(self.rows))
        self.steps_per_epoch = len(self.rows) // self.batch_size
        self.seed, self.names, self.way, self.device = seed, augment, way, device
        self._shuffled: tuple[int, np.ndarray] | None = None  # kept, as an epoch has many steps

    def __call__(self, step: int, size: int | None = None) -> dict[str, Tensor]:
        return self.prepare(self.gather(step, size))

    def gather(self, step: int, size: int | None = None) -> dict[str, Tensor]:
        """The step's samples in uint8 on the CPU, as `Pack.gather` has them, and a `key` (B,)."""
        epoch, i = divmod(step, self.steps_per_epoch)
        pack = self._pack(size)
        rows = self._order(epoch)[i * self.batch_size :][: self.size_of_batch(pack.size)]
        raw = pack.gather(rows)
        raw["key"] = rng.sample_keys(self.seed, epoch, pack.index["id"][rows])
        return self._sample_by_sample(raw) if self.way == "albumentations" else raw

    def size_of_batch(self, size: int) -> int:
        """Samples in a step: `batch_size` of the smallest pictures, of others as many as have the
        same area, so that every step costs the same. The rest of their share waits an epoch."""
        return max(1, round(self.batch_size * (min(self.packs) / size) ** 2))

    def ahead(
        self, steps: Iterable[tuple[int, int]], workers: int = 0
    ) -> Iterator[dict[str, Tensor]]:
        """What `gather` gives for each (step, size), prepared ahead by `workers` threads.

        The same for any number of threads: each step is gathered whole, from its number alone.
        """
        if not workers:
            yield from (self.gather(*step) for step in steps)
            return
        pool, waiting = ThreadPoolExecutor(workers), deque()
        try:
            for step in steps:
                waiting.append(pool.submit(self.gather, *step))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the session may end before the steps do
            pool.shutdown(cancel_futures=True)

    def prepare(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `gather` gave, on the device, as float, augmented."""
        batch = floats({name: x for name, x in raw.items() if name != "key"}, self.device)
        if self.way == "albumentations":
            return batch
        return augmentation.apply(self.names, batch, keys=raw["key"])

    def _pack(self, size: int | None) -> Pack:
        size = next(iter(self.packs)) if size is None else size
        if size not in self.packs:
            raise ValueError(f"no pack of {size} px here; there are {sorted(self.packs)}")
        return self.packs[size]

    def _order(self, epoch: int) -> np.ndarray:
        kept = self._shuffled
        if kept is None or kept[0] != epoch:
            kept = epoch, self.rows[rng.permutation(len(self.rows), self.seed, epoch)]
            self._shuffled = kept
        return kept[1]

    def _sample_by_sample(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        transform = augmentation.albumentations(self.names)  # holds a draw: each thread has its own
        names = [name for name, x in raw.items() if x.dtype == torch.uint8]
        samples = [
            transform({name: raw[name][i].numpy() for name in names}, int(key))
            for i, key in enumerate(raw["key"])
        ]
        return raw | {n: torch.from_numpy(np.stack([s[n] for s in samples])) for n in names}

    def _check(self, batch_size: int, way: str) -> None:
        if way not in augmentation.WAYS:
            raise ValueError(f"way={way!r}; known: {', '.join(augmentation.WAYS)}")
        if batch_size < 1 or not len(self.rows):
            raise ValueError(
                f"batch_size={batch_size}, {len(self.rows)} rows; needed: at least 1 of each "
                "(a small tier has no rows in some subsets: see `Pack.split`)"
            )
        first, *others = self.packs.values()
        if self.rows.min() < 0 or self.rows.max() >= len(first):
            raise ValueError(
                f"rows {self.rows.min()}..{self.rows.max()}, but {first.path} has {len(first)} "
                "samples; take rows from its `split()`"
            )
        for other in others:
            if not np.array_equal(other.index, first.index):
                raise ValueError(
                    f"{other.path} holds other samples than {first.path}; "
                    "build both from one tier with one limit"
                )
