"""Several processes that train as one; `accelerate launch` or `torchrun` starts them.

A step's batch is dealt out, each process computes on its share, and gradients, BatchNorm's
statistics, losses and scores are averaged over all. Then each has the weights that one process
would have, but for rounding. What must be decided is decided by all, on the CPU.

Gradients are averaged here and not by DistributedDataParallel: whatever part of a network a step
leaves out has no gradient in any process and nobody waits for it, and as the sums are taken in one
order always, a run resumed in as many processes is bit for bit the run that was never stopped (DDP
sorts its buckets anew after the first step). The price: nothing is sent during the backward pass.
"""

import os
import pickle
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from evalib.config import precision

PATIENCE = timedelta(minutes=30)  # with the others: one may render a pack, or wait for Drive


def accelerator(device: str | None = None) -> Accelerator:
    """Bring the processes together, if there are others, each on its device: a GPU if there is one
    and `device` is not "cpu". Accelerate's state is one a process, and begins anew here."""
    cpu = device == "cpu" or not torch.cuda.is_available()
    cpu = cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"  # launched with --cpu
    launched = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys()
    if launched and "RANK" not in os.environ:  # as accelerate does for a CPU
        text = "of several processes the launcher started one: use torchrun, or add --multi_gpu"
        warnings.warn(text, stacklevel=2)
    mixed_precision = precision(torch.device("cpu" if cpu else "cuda"))
    AcceleratorState._reset_state(reset_partial_state=True)
    together = InitProcessGroupKwargs(timeout=PATIENCE)
    return Accelerator(cpu=cpu, mixed_precision=mixed_precision, kwargs_handlers=[together])


def leave() -> None:
    """The end of what the processes do together; without it NCCL complains."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class Ranks:
    """This process, number `rank` of `world`; `main` is the one that writes files and prints.

    Alone (`world` 1) each method gives back what it got. All others must be called by all
    processes, in one order, after Accelerate has brought them together.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world = dist.get_world_size() if together else 1
        self.main = self.rank == 0
        self.share = slice(self.rank, None, self.world)  # of the samples of a step
        # Beside NCCL's: through this one no decision has to wait for a GPU.
        self._group = dist.new_group(backend="gloo") if self.world > 1 else None

    def each(self, value: Any) -> list:
        """The values of all processes, by rank."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """Of each flag, whether some process raises it."""
        if self.world == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX, group=self._group)
        return [bool(flag) for flag in raised]

    def first(self, action: Callable[[], Any]) -> Any:
        """What `action` gives the main process, for all; it must be picklable. The others wait, and
        its error is everybody's: else they would wait for ever."""
        if self.world == 1:
            return action()
        box = [None, None]  # the result, or the error
        if self.main:
            try:
                box[0] = action()
                pickle.dumps(box)  # what cannot be sent is an error, too
            except Exception as error:
                box = [None, error]
        dist.broadcast_object_list(box, src=0, group=self._group)
        if box[1]:
            raise box[1]
        return box[0]

    def mean(self, x: Tensor) -> Tensor:
        """The mean over all processes, element by element, on x's device."""
        if self.world > 1:
            x = x.clone()
            dist.all_reduce(x)
            x /= self.world
        return x

    def refuse_uneven(self, counts: dict[int, int]) -> None:
        """Raises: ValueError: `counts`, the samples of a step by size, cannot be dealt out alike:
        means over unequal shares would not add up to the mean over all."""
        if any(n % self.world for n in counts.values()):
            found = ", ".join(f"{n} of {size} px" for size, n in counts.items())
            raise ValueError(
                f"a step has {found}, and there are {self.world} processes; needed: as many "
                "samples for each. Take another batch_size, other sizes, or fewer processes"
            )

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each gradient becomes its mean over all processes; those that are None stay None."""
        if self.world == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = self.mean(torch.cat([grad.flatten() for grad in grads]))
        parts = flat.split([grad.numel() for grad in grads])
        shaped = [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)]
        torch._foreach_copy_(grads, shaped)

    def share_statistics(self, network: nn.Module) -> None:
        """Let each BatchNorm see the whole batch, as in one process, not only this one's share."""
        for module in network.modules() if self.world > 1 else ():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = BatchNorm  # parameters, buffers and their names stay
                module.ranks = self


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d over equal shares of a batch, a share a process. nn.SyncBatchNorm has no CPU,
    and waits for the GPU in each layer."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        var, mean = torch.var_mean(x.to(self.weight.dtype), (0, 2, 3), correction=0)  # (C,)
        mean = mean.double()  # so that a difference of squares keeps the digits it needs
        moments = torch.stack([mean, var + mean.square()])
        mean, square = _Mean.apply(moments, self.ranks)
        var = square - mean.square()
        with torch.no_grad():
            n = self.ranks.world * x.numel() / len(mean)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((var * n / (n - 1)).to(self.running_var), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        scale, shift = (c.to(self.weight.dtype)[:, None, None] for c in (scale, shift))
        return torch.addcmul(shift, x, scale).to(x.dtype)


class _Mean(torch.autograd.Function):
    """`Ranks.mean`, and its gradient: what all processes lose by it."""

    @staticmethod
    def forward(ctx, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.mean(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.mean(grad), None
