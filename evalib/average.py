"""The averaged weights of a run: the ones that are evaluated and kept."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average(AveragedModel):
    """`decay` times what it was, plus the rest of the network as it is now, at each update. The
    first one copies."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.decay = decay

    def update_parameters(self, network: nn.Module) -> None:
        """What torch's does, but that waits for the GPU twice, where it copies a number there."""
        if self.n_averaged == 0:  # counted on the CPU
            super().update_parameters(network)
            return
        averages, values = list(_floats(self.module)), list(_floats(network))
        torch._foreach_lerp_(averages, values, 1 - self.decay)
        self.n_averaged += 1


def _floats(network: nn.Module) -> Iterator[Tensor]:
    """Parameters and running statistics, in one order; BatchNorm also counts its batches."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return (x.detach() for x in tensors if x.is_floating_point())
