"""A network for each task, as the earlier write-ups had them."""

import torch
from torch import Tensor, nn

from evalib.layers import check, finish, prepare


class PerTask(nn.Module):
    """Two separate networks, `mask` and `depth`, each from `fg_bg` alone, or from `both` shots."""

    def __init__(self, network: type[nn.Module], both: bool = False) -> None:
        super().__init__()
        channels, self.both = 6 if both else 3, both
        self.mask, self.depth = network(channels), network(channels)

    def forward(self, bg: Tensor, fg_bg: Tensor) -> dict[str, Tensor]:
        """As `Small.forward`."""
        check(bg, fg_bg)
        shots = [fg_bg, bg] if self.both else [fg_bg]
        x = torch.cat([prepare(shot, self.mask.STRIDE) for shot in shots], 1)
        return finish(self.mask(x), self.depth(x), fg_bg)
