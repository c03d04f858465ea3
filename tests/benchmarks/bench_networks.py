"""How fast each network trains and predicts on this machine, as ratios to `small` in one run:
python tests/benchmarks/bench_networks.py
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # evalib of this repository, installed or not

from evalib import metrics, recipes, timing, unet  # noqa: E402
from evalib.losses import Loss  # noqa: E402


def main(batch_size: int = 16, size: int = 64, seconds: float = 10.0) -> None:
    print(timing.machine(), f"{torch.get_num_threads()} threads", sep="; ")
    costs = [recipes.measure(name, size) for name in recipes.NETWORKS]
    print(metrics.format_table(costs, ["network", "parameters", "multiply_adds", "note"]))
    batch = {name: torch.rand(batch_size, 3, size, size) for name in ("bg", "fg_bg")}
    batch |= {name: torch.rand(batch_size, 1, size, size).round() for name in ("mask", "depth")}
    base: dict[str, float] = {}
    for name in recipes.NETWORKS:
        model = recipes.build(name)
        row = {
            "training": batch_size * _rate(_train, seconds, model, batch),
            "predicting": batch_size * _rate(unet.predictor(model), seconds, batch),
        }
        base = base or row
        for what, rate in row.items():
            print(f"{name:12} {what:11}{rate:10,.0f} samples/s {rate / base[what]:8.3f} of small")
    torch.set_num_threads(1)
    for name in recipes.NETWORKS:  # a fixed camera: one background, a frame at a time, one core
        model = recipes.build(name).eval()
        bg, frame = torch.rand(2, 1, 3, 224, 224)
        rate = _rate(unet.predict, seconds, model, bg, frame, unet.encode(model, bg))
        print(f"{name:12} {rate:6.1f} frames/s at 224 px, one thread, background kept")


def _train(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
    loss, _ = Loss()(model.train()(batch["bg"], batch["fg_bg"]), batch)
    loss.backward()


def _rate(work: Callable, seconds: float, *args: object) -> float:
    """Calls of `work` in a second."""
    work(*args)  # not counted: the first call allocates
    n = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        work(*args)
        n += 1
    return n / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
