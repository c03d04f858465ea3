"""What a run computes, as plain values: written to every checkpoint, compared on every resume.

The precision is not among them: it follows from the machine, and a run may change machines.
"""

import json
import math
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from evalib import augment, recipes, rng, schedule
from evalib.losses import Loss
from evalib.optimizers import OPTIMIZERS

BLOCKS = 8  # in the window of a stream
REUSES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Config:
    """What a run computes. It is stored in every checkpoint; a changed one is refused on resume."""

    network: str = "small"
    init: str = ""  # weights to begin with: "shipped", a run's folder or a weights file; "": none
    mask_loss: str = "bce+dice"  # "" leaves the task out
    depth_loss: str = "l1+0.5*gradient"
    weighting: str = ""  # of the two tasks: "", as their terms say, or "uncertainty"
    optimizer: str = "adamw"
    lr: float = 4e-3  # peak of the schedule; from the range test in notebook 02
    weight_decay: float = 1e-2
    clip: float = 1.0  # largest gradient norm; a rare batch of empty masks must not throw a run off
    schedule: str = "onecycle"
    # What is trained when, as (("depth", 1), ("mask head", 2)): see schedule.phase. (): both tasks.
    phases: tuple[tuple[str, float], ...] = ()
    # Stages of (pixels, steps); a tuple of sizes takes turns, as the step's number says.
    sizes: tuple[tuple[int | tuple[int, ...], int], ...] = ((64, 1000),)
    batch_size: int = 64  # at the smallest size; of larger pictures as many as have the same area
    reuse: int = 8  # how often a sample of a stream is seen before it is forgotten
    window: int = 4096  # samples of a stream, of the smallest size, that are mixed at a time,
    lanes: int = 16  # from BLOCKS times as many backgrounds
    augment: tuple[str, ...] = ("flip",)  # rooms differ by themselves; photographs may need more
    told: float = 0.5  # of samples: the network knows the empty scene's depth, or some of it
    way: str = "batch"  # of augmenting: whole batches on the device, or albumentations by sample
    ema: float = 0.99  # decay of the averaged weights, which are the ones evaluated and kept
    seed: int = 0
    log_every: int = 25  # steps
    evaluate_every: int = 250  # steps
    n_valid: int = 128  # images of each evaluation subset looked at during training
    patience: int = 0  # evaluations without a better score before stopping early; 0 = never

    def __post_init__(self) -> None:
        stages = []
        for sizes, steps in self.sizes:  # a config that went through JSON has lists
            sizes = sizes if isinstance(sizes, list | tuple) else [sizes]
            stages.append((tuple(map(int, sizes)), int(steps)))
        object.__setattr__(self, "sizes", tuple(stages))
        phases = tuple((str(name), float(share)) for name, share in self.phases)
        object.__setattr__(self, "phases", phases)
        if isinstance(self.augment, str):
            raise ValueError(f"augment={self.augment!r}: give a tuple of names; () is none")
        object.__setattr__(self, "augment", tuple(self.augment))
        if min(self.n_steps, self.batch_size, self.log_every) < 1 or not 0 <= self.ema < 1:
            raise ValueError("steps, batch_size and log_every must be at least 1, ema in 0..1")
        if not 0 <= self.told <= 1:
            raise ValueError(f"told is {self.told}, needed 0..1: a share of the samples")
        if self.reuse not in REUSES or self.lanes < 1 or self.window < BLOCKS * self.lanes:
            raise ValueError(
                f"reuse={self.reuse}, lanes={self.lanes}, window={self.window}; needed: a reuse of "
                f"one of {REUSES}, lanes from 1, a window of {BLOCKS} times the lanes or more"
            )
        if self.evaluate_every % self.log_every:
            raise ValueError("evaluate_every is no multiple of log_every: scores are part of a row")
        # Unknown names are refused here, not after the data was rendered.
        self.loss()
        augment.check(self.augment)
        schedule.factor(self.schedule, 0, 1)
        for name, share in self.phases:
            if name not in schedule.PHASES or not 0 < share < math.inf:
                known = ", ".join(schedule.PHASES)
                raise ValueError(f"phase {(name, share)}: needed one of {known}, and its share")
            self.loss(name.split()[0])
        known = {"optimizer": OPTIMIZERS, "way": augment.WAYS}
        for field, names in (known | {"network": recipes.NETWORKS}).items():
            if (value := getattr(self, field)) not in names:
                raise ValueError(f"{field} {value!r}: choose one of {', '.join(names)}")

    def loss(self, task: str = "both") -> Loss:
        """What training minimises, or what is left of it where only "mask" or "depth" counts."""
        if task == "both":
            return Loss(self.mask_loss, self.depth_loss, self.weighting)
        return Loss(self.mask_loss, "") if task == "mask" else Loss("", self.depth_loss)

    @property
    def n_steps(self) -> int:
        return sum(steps for _, steps in self.sizes)

    @property
    def all_sizes(self) -> list[int]:
        """Every size that occurs, smallest first: a pack is needed of each."""
        return sorted({size for sizes, _ in self.sizes for size in sizes})

    def size_at(self, step: int) -> int:
        """Pixels of the pictures at this step."""
        return int(self.turns[min(step, self.n_steps - 1)])

    @cached_property
    def turns(self) -> np.ndarray:
        """(n_steps,) pixels of the pictures at each step."""
        turns = np.empty(self.n_steps, np.int64)
        first = 0
        for sizes, steps in self.sizes:
            keys = rng.sample_keys(self.seed, 0, np.arange(first, first + steps))
            which = rng.integers(keys, "size", len(sizes))[:, 0]
            turns[first : first + steps] = np.array(sizes)[which]
            first += steps
        return turns

    def size_of_batch(self, size: int) -> int:
        """Samples in a step: `batch_size` of the smallest pictures, of others as many as have the
        same area, so that every step costs the same."""
        return max(1, round(self.batch_size * (self.all_sizes[0] / size) ** 2))


def read(path: Path | str) -> Config:
    """The config of a JSON file, such as a run's config.json. Raises ValueError, OSError."""
    try:
        return Config(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no config: {error}") from error


def precision(device: torch.device) -> str:
    """What the device does well. GPU: bf16 from compute capability 8, fp16 below (a T4 claims bf16
    but emulates it). CPU: bf16 with AVX-512's instructions for it (1.5 times as fast), else fp32.

    Source: pytorch PR #148322 on `is_bf16_supported`.
    """
    if device.type != "cuda":
        known = getattr(torch.cpu, "get_capabilities", dict)()  # not in older torch
        return "bf16" if known.get("avx512_bf16") else "no"
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def threads() -> int:
    """How many threads torch computes with: OMP_NUM_THREADS where it is set, else half the cores.

    Colab's two are halves of one core, with a notebook server on them, and torch's threads spin
    while they wait for each other. Seconds on two cores, the last column beside much other work:

    | threads                    | 1000 samples | 150 steps, 64 px | the same, beside |
    |----------------------------|-------------:|-----------------:|-----------------:|
    | 2                          |           14 |               23 |              395 |
    | 2, OMP_WAIT_POLICY=PASSIVE |           20 |               38 |                  |
    | 1                          |           14 |               27 |               27 |
    """
    chosen = re.match(r"[1-9]\d*", os.environ.get("OMP_NUM_THREADS", ""))  # "4,2" is a list
    return int(chosen[0]) if chosen else max(1, cores() // 2)


def cores() -> int:
    """How many this process may use; in a container fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


torch.set_num_threads(threads())  # once, before torch starts any
