"""What a run computes, as plain values: written to every checkpoint, compared on every resume.

The precision is not among them: it follows from the machine, and a run may change machines.
"""

import json
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch

from evalib import augment, batches, draws, schedules, unet
from evalib.losses import Loss

OPTIMIZERS = {
    "adamw": lambda p, lr, decay: torch.optim.AdamW(p, lr=lr, weight_decay=decay),
    "adam": lambda p, lr, decay: torch.optim.Adam(p, lr=lr),
    "sgd": lambda p, lr, decay: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=decay),
}


@dataclass(frozen=True)
class Config:
    """What a run computes. It is stored in every checkpoint; a changed one is refused on resume."""

    network: str = "small"
    mask_loss: str = "bce+dice"  # "" leaves the task out
    depth_loss: str = "l1+0.5*gradient"
    optimizer: str = "adamw"
    lr: float = 4e-3  # peak of the schedule; from the range test in notebook 02
    weight_decay: float = 1e-2
    clip: float = 1.0  # largest gradient norm; a rare batch of empty masks must not throw a run off
    schedule: str = "onecycle"
    # Stages of (pixels, steps); a tuple of sizes takes turns, as the step's number says.
    sizes: tuple[tuple[int | tuple[int, ...], int], ...] = ((64, 1000),)
    batch_size: int = 64  # at the smallest size; of larger pictures as many as have the same area
    augment: str = "full"
    way: str = "batch"  # of augmenting: whole batches on the device, or albumentations by sample
    ema: float = 0.99  # decay of the averaged weights, which are the ones evaluated and kept
    seed: int = 0
    log_every: int = 25  # steps
    evaluate_every: int = 250  # steps
    n_valid: int = 128  # images of each evaluation subset looked at during training
    patience: int = 0  # evaluations without a better score before stopping early; 0 = never

    def __post_init__(self) -> None:
        # A config that went through JSON has lists.
        stages = ((tuple(a) if isinstance(a, list | tuple) else (a,), b) for a, b in self.sizes)
        stages = tuple((tuple(map(int, a)), int(b)) for a, b in stages)
        object.__setattr__(self, "sizes", stages)
        if min(self.n_steps, self.batch_size, self.log_every) < 1 or not 0 <= self.ema < 1:
            raise ValueError("steps, batch_size and log_every must be at least 1, ema in 0..1")
        if self.evaluate_every % self.log_every:
            raise ValueError(
                f"evaluate_every={self.evaluate_every} is no multiple of log_every="
                f"{self.log_every}: scores are part of a logged row"
            )
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer {self.optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
        # Unknown names are refused here, not after the data was rendered.
        Loss(self.mask_loss, self.depth_loss)
        augment.transforms(self.augment)
        schedules.factor(self.schedule, 0, self.n_steps)
        if self.way not in batches.WAYS:
            raise ValueError(f"way {self.way!r}: choose one of {', '.join(batches.WAYS)}")
        if self.network not in unet.NETWORKS:
            raise ValueError(f"network {self.network!r}: choose one of {', '.join(unet.NETWORKS)}")

    @property
    def n_steps(self) -> int:
        return sum(steps for _, steps in self.sizes)

    @property
    def all_sizes(self) -> list[int]:
        """Every size that occurs, smallest first: a pack is needed of each."""
        return sorted({size for sizes, _ in self.sizes for size in sizes})

    def size_at(self, step: int) -> int:
        """Pixels of the pictures at this step."""
        ends = accumulate(steps for _, steps in self.sizes)
        stage = bisect_right(list(ends), min(step, self.n_steps - 1))
        sizes, _ = self.sizes[stage]
        key = draws.sample_keys(self.seed, 0, [step])
        return sizes[int(draws.integers(key, "size", len(sizes)))]


def read(path: Path | str) -> Config:
    """The config of a JSON file, such as a run's config.json. Raises ValueError, OSError."""
    try:
        return Config(**json.loads(Path(path).read_text()))
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
