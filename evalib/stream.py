"""A stream: samples rendered while training, seen a few times and forgotten.

For each size of picture there is a belt of blocks, rendered by worker processes a little ahead of
training. A block holds `config.lanes` backgrounds and some samples of each. BLOCKS of them are the
window: training goes through it once, in a shuffled order (a round), then it moves on by BLOCKS /
reuse blocks (for a reuse of 16: by one after two rounds), so that every sample is seen `reuse`
times.
Which samples a step sees follows from (config, step): a machine with an empty disk renders one
window and goes on, bit for bit.
"""

import threading
import time
from zlib import crc32

import numpy as np
import torch

from evalib import manifest, rng, sources
from evalib.config import BLOCKS, Config
from evalib.sources import Renderer
from evalib.worker import Worker


class Stream:
    """The samples of all steps of `config`, from the training subset of a rendered tier.

    Close it at last.
    Input:
        share:   which samples of a step, and so which lanes, this one of several processes has.
        workers: processes that render; no result depends on their number.
    Raises: ValueError: the tier has another source, or processes cannot share the lanes evenly.
    """

    def __init__(
        self, tier: str, config: Config, share: slice = slice(None), *, workers: int = 1
    ) -> None:
        row = manifest.find(tier)
        if not row.is_rendered:
            raise ValueError(
                f"{tier} is read from an archive, or has its depth from a teacher: neither can be "
                "rendered while training. Build packs of it"
            )
        self.source = sources.open_source(row, "")
        self.kinds = self.source.kinds
        if config.lanes % (share.step or 1):
            raise ValueError(
                f"{share.step} processes came; a stream needs a divisor of its {config.lanes} "
                "lanes: start as many"
            )
        self.belts = {size: Belt(self.source, config, size, share) for size in config.all_sizes}
        self.steps_per_epoch = None  # there is no end to it
        self.workers = [Worker(self.source.command, row.seed) for _ in range(workers)]
        self.threads = [threading.Thread(target=self._work, args=[w]) for w in self.workers]
        self.changed = threading.Condition()  # held by whoever looks at or changes what follows
        self.started = False
        self.closed = False
        self.error: Exception | None = None

    def size_of_batch(self, size: int) -> int:
        """Samples in a step of pictures of this size."""
        return self.belts[size].n_batch

    def take(self, step: int, size: int) -> dict[str, torch.Tensor]:
        """The step's pictures in uint8 as `Pack.gather` has them, row (B,): their ids, key (B,).

        Waits until they are rendered. One at a time, and steps go up.
        Raises: ValueError: the step is behind one before; ChildProcessError: no worker renders it.
        """
        belt = self.belts[size]
        number, first, places = belt.places(step)
        with self.changed:
            self._start(step)
            belt.move_to(first)
            self.changed.notify_all()
            while not belt.has(first):
                if self.closed or self.error:
                    why = self.error or "the stream is closed"
                    raise ChildProcessError(f"no more samples are rendered: {why}")
                self.changed.wait()
        return belt.gather(number, first, places)

    def speeds(self) -> dict[int, float]:
        """Samples that all workers together rendered in a second, so far, of each size."""
        return {
            size: len(self.workers) * belt.n_rendered / belt.rendering_s
            for size, belt in self.belts.items()
            if belt.n_rendered
        }

    def close(self) -> None:
        """End the workers."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for worker in self.workers:
            worker.end()
        for thread in self.threads if self.started else ():
            thread.join()

    def _start(self, step: int) -> None:
        """Begin to render: from here on, which is not step 0 when a run goes on."""
        if not self.started:
            self.started = True
            for belt in self.belts.values():
                belt.begin(step)
            for thread in self.threads:
                thread.daemon = True  # a program that forgets to close ends all the same
                thread.start()

    def _work(self, worker: Worker) -> None:
        """Render whatever is needed next."""
        warm = False  # its first block takes longer: it is started, and compiles
        try:
            while job := self._next_job():
                belt, block = job
                start = time.perf_counter()
                if not belt.render(block, worker):
                    break
                seconds = time.perf_counter() - start
                with self.changed:
                    belt.done(block, seconds if warm else None)
                    self.changed.notify_all()
                warm = True
        except Exception as error:  # whatever it is, whoever waits must hear of it
            with self.changed:
                self.error = error
                self.changed.notify_all()
        finally:
            worker.stop()

    def _next_job(self) -> "tuple[Belt, int] | None":
        """The belt whose next block is needed first, and that block. Waits while nothing is to be
        rendered; None: closed, or it cannot be."""
        with self.changed:
            while not (self.closed or self.error):
                hungry = [belt for belt in self.belts.values() if belt.hungry()]
                if hungry:
                    belt = min(hungry, key=lambda belt: belt.needed_at(belt.next))
                    belt.next += 1
                    return belt, belt.next - 1
                self.changed.wait()
        return None


class Belt:
    """The blocks of one size, numbered from 0; block j is kept at j % capacity of the arrays.

    L lanes are this rank's; a lane of a block is one background and n samples of it.
    """

    def __init__(self, source: Renderer, config: Config, size: int, share: slice) -> None:
        self.tier = tier = source.tier
        self.size = size
        self.seed = config.seed
        self.share = share
        self.n_lanes = config.lanes
        self.lanes = np.arange(self.n_lanes)[share]  # (L,)
        self.steps = np.flatnonzero(config.turns == size)  # those that see this size
        self.n_batch = config.size_of_batch(size)
        # fewer of large pictures, but never less than a batch
        n = config.window * config.all_sizes[0] / size / (BLOCKS * self.n_lanes)
        self.n = max(1, round(n), -(-self.n_batch // (BLOCKS * self.n_lanes)))
        self.steps_per_round = BLOCKS * self.n_lanes * self.n // self.n_batch
        self.stride = max(1, BLOCKS // config.reuse)  # blocks by which the window moves on
        self.rounds = max(1, config.reuse // BLOCKS)  # in each window
        last_round = (len(self.steps) - 1) // self.steps_per_round
        self.end = self.first(last_round) + BLOCKS if len(self.steps) else 0
        self.kept = 0  # first block that is kept
        self.next = 0  # next block to be rendered
        self.ready: set[int] = set()
        self.n_rendered = 0
        self.rendering_s = 0.0
        backgrounds = np.arange(*tier.backgrounds)
        self.backgrounds = backgrounds[~manifest.held_out(backgrounds)]
        of_a_background = tier.index_of(np.arange(tier.per_background))
        trained = manifest.subset_of(of_a_background) == manifest.SUBSETS.index("train")
        self.samples = np.flatnonzero(trained)  # of any background, counted from its first
        self.capacity = BLOCKS + self.stride  # the window, and what comes next
        shape = (self.capacity, len(self.lanes), self.n)
        self.ids = np.zeros(shape, np.int64)
        self.arrays = {}
        for kind in source.kinds:
            n = shape[:2] if kind.startswith("bg") else shape
            colours = (3,) if kind in ("bg", "fg_bg") else ()
            self.arrays[kind] = np.empty((*n, size, size, *colours), np.uint8)

    def places(self, step: int) -> tuple[int, int, tuple[np.ndarray, ...]]:
        """The round a step is in, the first block of its window, and where its samples stand:
        block of the window, lane, number in the lane, each (B,)."""
        nth = int(np.searchsorted(self.steps, step))
        number, i = divmod(nth, self.steps_per_round)
        place = (i * self.n_batch + np.arange(self.n_batch))[self.share]
        place, lane = np.divmod(place, self.n_lanes)
        # one shuffle for all lanes, each turned on by some way of its own: others meet every round
        n = BLOCKS * self.n
        place = rng.permuted(place, n, self.seed, self._order("round", number))
        keys = rng.sample_keys(self.seed, number, np.arange(self.n_lanes))
        turn = rng.integers(keys, "turn", n)[:, 0]
        block, i = np.divmod((place + turn[lane]) % n, self.n)
        return number, self.first(number), (block, lane, i)

    def first(self, number: int) -> int:
        """The first block of a round's window."""
        return number // self.rounds * self.stride

    def gather(self, number: int, first: int, places: tuple) -> dict[str, torch.Tensor]:
        """Copies of the samples at `places` of the window from block `first` on."""
        block, lane, i = places
        block = (first + block) % self.capacity
        lane = np.searchsorted(self.lanes, lane)
        raw = {
            name: torch.from_numpy(x[block, lane] if name.startswith("bg") else x[block, lane, i])
            for name, x in self.arrays.items()
        }
        ids = self.ids[block, lane, i]
        raw["key"] = torch.from_numpy(rng.sample_keys(self.seed, number, ids))
        return raw | {"row": torch.from_numpy(ids)}

    def ids_of(self, block: int) -> np.ndarray:
        """(L, n) sample ids. Lanes take turns to choose from the shuffled backgrounds; when all had
        their turn they come again, in another order, with other samples."""
        visits, places = np.divmod(block * self.n_lanes + self.lanes, len(self.backgrounds))
        ids = np.empty((len(self.lanes), self.n), np.int64)
        for lane, (visit, place) in enumerate(zip(visits, places, strict=True)):
            order = self._order("backgrounds", visit)
            n = len(self.backgrounds)
            bg = self.backgrounds[rng.permuted(np.array([place]), n, self.seed, order)][0]
            which = (visit * self.n + np.arange(self.n)) % len(self.samples)
            order = self._order("samples", bg)
            which = rng.permuted(which, len(self.samples), self.seed, order)
            ids[lane] = bg * self.tier.per_background + self.samples[which]
        return ids

    def render(self, block: int, worker: Worker) -> bool:
        """Whether it was rendered; no if the worker was told to end."""
        ids = self.ids_of(block)
        at = block % self.capacity
        self.ids[at] = ids
        bg = ids[:, 0] // self.tier.per_background
        into = {name: x[at] for name, x in self.arrays.items()}
        return worker.render(bg, ids.ravel(), self.size, into)

    def done(self, block: int, seconds: float | None) -> None:
        """A block is there, and took so long, if that is worth knowing."""
        self.ready.add(block)
        if seconds is not None:
            self.n_rendered += self.ids[0].size
            self.rendering_s += seconds

    def begin(self, step: int) -> None:
        """Nothing before the window of `step` will be asked for."""
        nth = int(np.searchsorted(self.steps, step))
        self.next = min(self.first(nth // self.steps_per_round), self.end)
        self.kept = self.next

    def move_to(self, first: int) -> None:
        """Forget what stands before the window from block `first` on."""
        if first < self.kept:
            raise ValueError(f"block {first} came after {self.kept}; needed: steps that go up")
        self.kept = first
        self.ready = {block for block in self.ready if block >= self.kept}

    def has(self, first: int) -> bool:
        return self.ready.issuperset(range(first, first + BLOCKS))

    def hungry(self) -> bool:
        """Whether another block will be needed and has room."""
        return self.next < min(self.kept + self.capacity, self.end)

    def needed_at(self, block: int) -> int:
        """The first step that may see a block."""
        moves = max(0, -(-(block - BLOCKS + 1) // self.stride))
        return int(self.steps[moves * self.rounds * self.steps_per_round])

    def _order(self, *what: object) -> int:
        return crc32(repr((self.size, *map(str, what))).encode())
