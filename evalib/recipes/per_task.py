"""A network for each task, as the earlier write-ups had them."""

import torch
from torch import Tensor, nn

from evalib.layers import check, crop, normal, pad


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
        x = normal(pad(x, self.mask.STRIDE))
        return crop(self.mask(x), self.depth(x), *fg_bg.shape[2:])
