"""How fast each network trains and predicts on this machine, as ratios to `small` in one run."""

import time

import torch

from evalib import recipes, timing, unet
from evalib.losses import Loss


def main(batch_size: int = 16, size: int = 64, seconds: float = 10.0) -> None:
    print(timing.machine(), f"{torch.get_num_threads()} threads", sep="; ")
    print(recipes.table(size=size))
    base: dict[str, float] = {}
    for name in recipes.NETWORKS:
        model = recipes.build(name)
        batch = {k: torch.rand(batch_size, 3, size, size) for k in ("bg", "fg_bg")}
        batch |= {k: torch.rand(batch_size, 1, size, size).round() for k in ("mask", "depth")}
        row = {
            "training": _rate(lambda m=model, b=batch: _train(m, b), batch_size, seconds),
            "predicting": _rate(
                lambda m=model, b=batch: unet.predict(m, b["bg"], b["fg_bg"]), batch_size, seconds
            ),
        }
        base = base or row
        for what, rate in row.items():
            print(f"{name:8} {what:11}{rate:10,.0f} samples/s {rate / base[what]:8.3f} of small")
    torch.set_num_threads(1)
    for name in recipes.NETWORKS:  # a fixed camera: one background, a frame at a time, one core
        model, kept = recipes.build(name).eval(), {}
        bg, frame = torch.rand(2, 1, 3, 224, 224)
        rate = _rate(lambda m=model, k=kept, a=bg, b=frame: unet.predict(m, a, b, k), 1, seconds)
        print(f"{name:8} {rate:6.1f} frames/s at 224 px, one thread, background kept")


def _train(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
    loss, _ = Loss()(model.train()(batch["bg"], batch["fg_bg"]), batch)
    loss.backward()


def _rate(work, batch_size: int, seconds: float) -> float:
    work()  # not counted: the first call allocates
    n, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        work()
        n += batch_size
    return n / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
