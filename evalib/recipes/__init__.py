"""The systems that can be trained by name: ours, and those of earlier write-ups, one file each.

A recipe holds what differs from the defaults of `Config`, its network's name among it. `lean` and
`resnet` see `fg_bg` only, one network per task; "-both" gives them both shots, for a fair contest.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evalib import unet
from evalib.layers import check, crop, normal, pad
from evalib.recipes import lean, resnet

RECIPES: dict[str, dict] = {
    "small": {"network": "small"},
    "lean": lean.SETTINGS,
    "resnet": resnet.SETTINGS,
}


class PerTask(nn.Module):
    """Two separate networks, `mask` and `depth`, each from `fg_bg` alone, or from `both` shots."""

    def __init__(self, network: type[nn.Module], both: bool = False) -> None:
        super().__init__()
        self.both = both
        channels = 6 if both else 3
        self.mask, self.depth = network(channels), network(channels)

    def forward(self, bg: Tensor, fg_bg: Tensor) -> dict[str, Tensor]:
        """As `Small.forward`."""
        check(bg, fg_bg)
        x = torch.cat([fg_bg, bg], 1) if self.both else fg_bg
        x = normal(pad(x, self.mask.STRIDE))  # (B, 3 or 6, H, W)
        return crop(self.mask(x), self.depth(x), *fg_bg.shape[2:])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small": unet.Small,
    "lean": partial(PerTask, lean.Lean),
    "resnet": partial(PerTask, resnet.ResNetUNet),
    "lean-both": partial(PerTask, lean.Lean, both=True),
    "resnet-both": partial(PerTask, resnet.ResNetUNet, both=True),
}


def build(name: str) -> nn.Module:
    """A new network, called as `model(bg, fg_bg)`; its weights come from torch's global generator.

    Raises: ValueError listing the known names.
    """
    if name not in NETWORKS:
        raise ValueError(f"network {name!r} is unknown; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]()


def recipe(name: str) -> dict:
    """The settings of a named recipe. Raises: ValueError listing the known names."""
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    return dict(RECIPES[name])


def measure(name: str, size: int = 64) -> dict[str, int | float | str]:
    """What a network costs: parameters, mb (as float32), multiply_adds of one sample, and a note.

    Convolutions and matrix products count; biases, normalisation and activations do not.
    """
    with torch.random.fork_rng(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = build(name).eval()
        model(*torch.zeros(2, 1, 3, size, size))
    n = sum(p.numel() for p in model.parameters())
    note = "both inputs, both maps"
    if isinstance(model, PerTask):
        inputs = "both inputs" if model.both else "fg_bg only"
        note = f"{inputs}, 2 networks of {n // 2:,}"
    if name == "resnet":
        note += f"; {resnet.NOTE}"
    row = {"network": name, "parameters": n, "mb": n * 4 / 2**20}
    return row | {"multiply_adds": counter.get_total_flops() // 2, "note": note}


def table(names: Sequence[str] = tuple(NETWORKS), size: int = 64) -> str:
    """`measure` of several networks as text, one line each."""
    lines = [f"network       parameters     MB  {f'Mmult-adds@{size}':>14}  note"]
    for row in (measure(name, size) for name in names):
        numbers = f"{row['parameters']:12,} {row['mb']:6.1f}  {row['multiply_adds'] / 1e6:14,.1f}"
        lines.append(f"{row['network']:12}{numbers}  {row['note']}")
    return "\n".join(lines)
