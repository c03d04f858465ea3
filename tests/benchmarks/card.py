"""What a card can do and what a step of training asks of it, so that one can be told as a share of
the other. Where there is no GPU, the CPU takes its place."""

import gc
import resource
import time
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evalib import losses, recipes

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@cache
def limits(precision: str) -> tuple[float, float]:
    """Bytes and operations a second: a large copy and a large product of matrices."""
    torch.set_float32_matmul_precision("high")  # TF32, which convolutions use anyway
    dtype = DTYPES[precision]
    n = 1 << (28 if CUDA else 24)
    x = torch.ones(n, dtype=torch.uint8, device=DEVICE)
    y = torch.empty_like(x)
    copy_s = seconds(lambda: y.copy_(x), 0.3)
    side = 8192 if CUDA else 512
    a, b = torch.ones(2, side, side, dtype=dtype, device=DEVICE)
    product_s = seconds(lambda: a @ b, 0.3)
    return 2 * n / copy_s, 2 * side**3 / product_s


@cache
def cost(network: str, size: int, precision: str) -> tuple[float, float]:
    """Operations of a sample's step, and the bytes that it moves at least: each output of
    a convolution is written and read forward, read again backward, its gradient written and read;
    normalisation and activation could cost nothing more."""
    model = recipes.build(network).train()
    n = 4  # samples: BatchNorm wants more than one
    outputs = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda *args: outputs.append(args[2].numel()))
    batch = {name: torch.rand(n, 1, size, size).round() for name in ("mask", "depth")}
    with FlopCounterMode(display=False) as counter:
        out = model(*torch.rand(2, n, 3, size, size))
        losses.Loss()(out, batch)[0].backward()
    n_bytes = 5 * sum(outputs) * DTYPES[precision].itemsize
    return counter.get_total_flops() / n, n_bytes / n


def seconds(work: Callable[[], object], at_least_s: float) -> float:
    """Of one call: the mean of as many as take `at_least_s`, the device's work included."""
    work()
    n = 1
    while True:
        synchronize()
        begin = time.perf_counter()
        for _ in range(n):
            work()
        synchronize()
        spent_s = time.perf_counter() - begin
        if spent_s >= at_least_s:
            return spent_s / n
        n = max(2 * n, int(1.1 * n * at_least_s / max(spent_s, 1e-4)))


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def release() -> None:
    """Give back what a part before this one held, and count the peak anew."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mib() -> int:
    """Of the GPU since `release`; without one, of this process since it began."""
    if CUDA:
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def n_waits(step: Callable[[], object]) -> int:
    """How often a step waits for the GPU."""
    if not CUDA:
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)
