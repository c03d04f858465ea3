"""The U-Nets of seed document 000: one encoder, a bottom and a decoder for each of two tasks.

Its three counts are exact if both tasks share the encoder only: 14,348,004 and 57,378,244 (two
widths of one design), 57,188,044 (a second design, whose convolutions have BatchNorm, no bias).
Sources: U-Net, Ronneberger et al. 2015; the public U-Nets that the document names.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.layers import block, double
from evalib.recipes.system import System

SETTINGS = {
    "network": "eva15",
    "mask_loss": "bce",
    "depth_loss": "bce",
    "optimizer": "sgd",
    "lr": 1e-2,  # its table says SGD only
    "weight_decay": 0.0,
    "schedule": "constant",
}
WIDE = {"encoder": (64, 128, 256, 512), "bottom": (1024, 1024), "decoder": (512, 256, 128, 64)}
CARVANA = {
    "encoder": (24, 64, 128, 256, 512, 768),
    "bottom": (768,),
    "decoder": (512, 256, 128, 64, 24, 24),
    "convs": 3,
    "transposed": False,
    "norm": True,
}


class TwoBranches(System):
    """Mask and depth logits from `fg_bg` alone, or from `both` shots.

    The document draws depth in colour, so its depth has three channels. Ours has one: their mean.
    """

    def __init__(
        self,
        encoder: tuple[int, ...] = (32, 64, 128, 256),
        bottom: tuple[int, ...] = (512, 512),
        decoder: tuple[int, ...] = (256, 128, 64, 32),
        *,
        convs: int = 2,
        transposed: bool = True,
        norm: bool = False,
        both: bool = False,
    ) -> None:
        super().__init__()
        self.both = both
        self.PAD = 2 ** len(encoder), 1
        ins = (6 if both else 3, *encoder)
        self.encoder = nn.ModuleList(_chain(i, o, o, norm=norm) for i, o in pairwise(ins))
        plan = {"bottom": bottom, "decoder": decoder, "convs": convs, "transposed": transposed}
        self.mask = Branch(encoder, **plan, norm=norm, maps=1)
        self.depth = Branch(encoder, **plan, norm=norm, maps=3)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skips = []
        for scale in self.encoder:
            skips.append(scale(x))  # at 1, 1/2, 1/4 ...
            x = F.max_pool2d(skips[-1], 2)
        return self.mask(x, skips), self.depth(x, skips).mean(1, keepdim=True)


class Branch(nn.Module):
    """From the encoder's coarsest features and its skips, finest first, to maps (B, maps, H, W)."""

    def __init__(self, encoder, *, bottom, decoder, convs, transposed, norm, maps) -> None:
        super().__init__()
        self.bottom = _chain(encoder[-1], *bottom, norm=norm)
        self.up, self.blocks = nn.ModuleList(), nn.ModuleList()
        c = bottom[-1]
        for skip, o in zip(reversed(encoder), decoder, strict=True):
            below = o if transposed else c
            self.up.append(nn.ConvTranspose2d(c, o, 2, stride=2) if transposed else nn.Identity())
            self.blocks.append(_chain(below + skip, *[o] * convs, norm=norm))
            c = o
        self.transposed = transposed
        self.last = nn.Conv2d(c, maps, 1)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        y = self.bottom(x)
        for up, convs, skip in zip(self.up, self.blocks, reversed(skips), strict=True):
            y = up(y) if self.transposed else double(y)
            y = convs(torch.cat([y, skip], 1))
        return self.last(y)


def _chain(*widths: int, norm: bool) -> nn.Sequential:
    """3x3 convolutions from each width to the next."""
    return nn.Sequential(*(block(i, o, bias=not norm, norm=norm) for i, o in pairwise(widths)))
