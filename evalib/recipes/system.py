"""What all systems have in common: from two photographs to two maps."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from evalib.layers import check, crop, normal, pad


class System(nn.Module):
    """A network of a write-up; a subclass answers with `maps`."""

    both = True  # or fg_bg alone
    PAD = 32, 2  # to a multiple of these pixels, and how many of them at least

    def forward(self, bg: Tensor, fg_bg: Tensor) -> dict[str, Tensor]:
        """As `Small.forward`."""
        check(bg, fg_bg)
        x = torch.cat([fg_bg, bg], 1) if self.both else fg_bg
        x = normal(pad(x, *self.PAD))  # (B, 3 or 6, H, W)
        return crop(*self.maps(x), *fg_bg.shape[2:])

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mask and depth logits, (B, 1, H, W), of -2..2."""
        raise NotImplementedError


class PerTask(System):
    """Two separate networks, `mask` and `depth`.

    guide: what the second gets of the first: "mask", as one channel more (a serial U-Net, which
        document 002 tried); "product", the image times it (tried there, done in document 003).
    """

    def __init__(
        self,
        mask: Callable[[int], nn.Module],
        depth: Callable[[int], nn.Module],
        *,
        both: bool = False,
        guide: str = "",
    ) -> None:
        super().__init__()
        self.both = both
        self.guide = guide
        channels = 6 if both else 3
        self.mask = mask(channels)
        self.depth = depth(channels + (guide == "mask"))
        self.PAD = self.mask.PAD

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.mask(x)
        if self.guide == "mask":
            x = torch.cat([x, mask.sigmoid()], 1)
        elif self.guide == "product":
            x = x * mask.sigmoid()
        return mask, self.depth(x)
