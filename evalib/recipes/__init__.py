"""The systems that can be trained by name: ours, and those of earlier write-ups, one file each.

A recipe holds what differs from the defaults of `Config`, its sizes with their epochs. "-both"
gives both shots to a network that sees `fg_bg` only.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evalib import unet
from evalib.recipes import eva15, lean, mde_bs, resnet, two_stage, two_stream
from evalib.recipes.system import PerTask

# What most have in common: no averaged weights, no limit to gradients, no augmentation, 64 px.
PLAIN = {"ema": 0.0, "clip": 1e9, "augment": (), "sizes": ((64, 1),)}
RECIPES: dict[str, dict] = {
    "small": {
        "network": "small",
        "mask_loss": "bce+dice+outline",
        "depth_loss": "l1+0.5*gradient+0.5*new",
        "optimizer": "muon",
    },
    "eva15": PLAIN | eva15.SETTINGS,
    "mde_bs": PLAIN | mde_bs.SETTINGS,
    "lean": PLAIN | lean.SETTINGS,
    "resnet": PLAIN | resnet.SETTINGS,
    "two_stage": PLAIN | two_stage.SETTINGS,
    "two_stream": PLAIN | two_stream.SETTINGS,
}


LEAN = partial(PerTask, lean.Lean, lean.Lean)
RESNET = partial(PerTask, resnet.ResNetUNet, resnet.ResNetUNet)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small": unet.Small,
    "eva15": eva15.TwoBranches,
    "eva15-norm": partial(eva15.TwoBranches, norm=True),
    "eva15-both": partial(eva15.TwoBranches, both=True),
    "eva15-wide": partial(eva15.TwoBranches, **eva15.WIDE),
    "eva15-carvana": partial(eva15.TwoBranches, **eva15.CARVANA),
    "mde_bs": mde_bs.Grouped,
    "mde_bs-joined": partial(mde_bs.Grouped, last=1),
    "mde_bs-plain": partial(mde_bs.Grouped, groups=1, last=1),
    "lean": LEAN,
    "lean-both": partial(LEAN, both=True),
    "lean-serial": partial(LEAN, guide="mask"),
    "lean-product": partial(LEAN, guide="product"),
    "resnet": RESNET,
    "resnet-both": partial(RESNET, both=True),
    "two_stage": partial(PerTask, two_stage.Mask, two_stage.Depth, guide="product"),
    "two_stream": two_stream.TwoStream,
    "two_stream-one": partial(two_stream.TwoStream, streams=1),
}


def build(name: str) -> nn.Module:
    """A new network, called as `model(bg, fg_bg)`; its weights come from torch's global generator.

    Raises: ValueError listing the known names.
    """
    if name not in NETWORKS:
        raise ValueError(f"network {name!r} is unknown; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]()


def recipe(name: str, n_steps: int = 1000) -> dict:
    """The settings of a named recipe, of `Config`; the stages of its sizes fill `n_steps`.

    Raises: ValueError listing the known names.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    settings = dict(RECIPES[name])
    if "sizes" in settings:
        sizes, epochs = zip(*settings["sizes"], strict=True)
        steps = np.multiply(epochs, np.square(sizes))  # a step has fewer samples of large pictures
        ends = np.rint(np.cumsum(steps) / steps.sum() * n_steps).astype(int)
        stages = zip(sizes, np.diff(ends, prepend=0).tolist(), strict=True)
        settings["sizes"] = tuple(stage for stage in stages if stage[1])
    return settings


def measure(name: str, size: int = 64) -> dict[str, int | float | str]:
    """What a network costs: parameters, mb (as float32), multiply_adds of one sample; what it sees.

    Convolutions and matrix products count; biases, normalisation and activations do not.
    """
    with torch.random.fork_rng(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = build(name).eval()
        model(*torch.zeros(2, 1, 3, size, size))
    n = sum(p.numel() for p in model.parameters())
    sees = "both shots" if getattr(model, "both", True) else "fg_bg only"
    row = {"network": name, "sees": sees, "parameters": n, "mb": n * 4 / 2**20}
    return row | {"multiply_adds": counter.get_total_flops() // 2}
