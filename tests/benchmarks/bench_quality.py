"""Seconds of training on one core until unseen backgrounds and objects are segmented well.

    python tests/benchmarks/bench_quality.py small --minutes 10 --seed 0 [--stream]

Trains one network for so many minutes of one core, its schedule made for that many, and scores it
30 times on the way: mask IoU of 500 pairs of unseen backgrounds and objects at 128 px, as in
notebook 05. Only CPU time of training counts, neither scoring nor saving nor rendering. The number
of steps follows from a rate that is measured at first and kept with the run: the same command again
goes on with it. Each time a line is added to the results, and all of them are printed as a table.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one

import repeated

from evalib import augment, config, dataset, metrics, timing, training, unet
from evalib.training import Learner

QUALITIES = (0.80, 0.85)
N_SCORES, N_PAIRS = 30, 500
TIER = "wide-400k"
NETWORKS = {  # what differs from BASE; as in bench_accuracy.py
    "small": {},
    "lean-both": {},
    "resnet-both": {"lr": 1e-3},
    "lean": {},
    "resnet": {"lr": 1e-3},
}
BASE = dict(
    mask_loss="bce+dice+outline",
    augment=tuple(name for name in augment.ALL if name != "crop"),
    n_valid=16,  # for the pictures; what counts is scored here
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", type=int, nargs="+", default=(64, 128, 128))
    parser.add_argument("--pairs", type=int, default=N_PAIRS)
    parser.add_argument("--stream", action="store_true", help="render while training")
    parser.add_argument("--limit", type=int, default=50_000, help="samples of a pack")
    parser.add_argument("--out", type=Path, default=Path("output/quality"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    source = "stream" if args.stream else f"{args.limit} samples"
    name = f"{args.network} {args.minutes:g} min seed {args.seed} {source}"
    folder = args.out / name.replace(" ", "-")
    planned = plan(args, folder)
    packs = {"root": args.out / "packs", "progress": False}
    sizes = planned.all_sizes
    data = (
        TIER
        if args.stream
        else {s: dataset.build(TIER, s, limit=args.limit, **packs) for s in sizes}
    )
    valid = dataset.build("evaluation", 128, limit=4 * args.pairs, **packs)  # four subsets
    with cpu_clock(), scoring(args.pairs):
        options = {"valid": valid, "device": "cpu", "workers": int(args.stream)}
        run = training.train(planned, data, folder, progress=False, **options)
    curve = scores_of(run.history)
    line = {"network": args.network, "seed": args.seed, "minutes": args.minutes, "data": source}
    line |= {"steps": run.step, "of": planned.n_steps}
    line |= {f"s to {quality:.2f}": seconds_to(quality, curve) for quality in QUALITIES}
    line["best iou"] = max((iou for _, iou in curve), default=0.0)
    machine = {"machine": timing.machine(), "date": timing.utc_now()[:10]}
    results = args.out / "bench_quality.jsonl"
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line | machine | {"curve": curve}) + "\n")
    print(timing.machine(), timing.utc_now()[:10], sep="; ")
    lines = [json.loads(text) for text in results.read_text(encoding="utf-8").splitlines()]
    print(metrics.format_table(lines, line))


def plan(args: argparse.Namespace, folder: Path) -> config.Config:
    """The config of a run, or that of the run which is there already."""
    if (folder / "config.json").is_file():
        return config.read(folder / "config.json")
    sizes = tuple(args.sizes)
    settings = BASE | NETWORKS[args.network] | {"network": args.network, "seed": args.seed}
    step_s = measured(config.Config(sizes=((sizes, 1000),), **settings))
    log_every = max(1, round(60 * args.minutes / step_s / N_SCORES / 5))
    every = {"log_every": log_every, "evaluate_every": 5 * log_every}
    return config.Config(sizes=((sizes, 5 * log_every * N_SCORES),), **settings, **every)


def measured(settings: config.Config, n_steps: int = 12) -> float:
    """CPU seconds of a step; all sizes cost the same by area, more or less."""
    with tempfile.TemporaryDirectory() as folder:
        packs = {s: repeated.build(TIER, s, 128, folder) for s in settings.all_sizes}
        learner = Learner(settings, packs, device="cpu")
        with contextlib.closing(learner.to_come()) as batches:
            for _ in range(3):  # the first ones allocate
                learner.train_step(batches)
            begin = time.process_time()
            for _ in range(n_steps):
                learner.train_step(batches)
        return (time.process_time() - begin) / n_steps


@contextlib.contextmanager
def cpu_clock() -> Iterator[None]:
    """Blocks of training are timed by what this process computes: neighbours do not count."""
    clock = SimpleNamespace(**vars(time) | {"perf_counter": time.process_time})
    with patch.object(timing, "time", clock):
        yield


@contextlib.contextmanager
def scoring(n_pairs: int) -> Iterator[None]:
    """Each evaluation while training has one score more, `quality_iou`."""
    evaluate = Learner.evaluate

    def scored(learner: Learner):
        scores, picture = evaluate(learner)
        rows = learner.valid.split()["unseen_both"][:n_pairs]
        predictor = unet.predictor(learner.ema)
        scores["quality_iou"] = metrics.score(predictor, learner.valid, rows)["iou"]
        return scores, picture

    with patch.object(Learner, "evaluate", scored):
        yield


def scores_of(history: list[dict[str, float]]) -> list[tuple[float, float]]:
    """(CPU seconds of training, mask IoU) of each score."""
    apart = ("evaluate_s", "checkpoint_s")
    seconds = 0.0
    curve = []
    for row in history:
        seconds += sum(x for name, x in row.items() if name.endswith("_s") and name not in apart)
        if "quality_iou" in row:
            curve.append((round(seconds, 1), row["quality_iou"]))
    return curve


def seconds_to(quality: float, curve: list[tuple[float, float]]) -> float:
    """When the score was first as good, between two of them linearly; NaN if it never was."""
    if not curve or max(iou for _, iou in curve) < quality:
        return float("nan")
    at = next(k for k, (_, iou) in enumerate(curve) if iou >= quality)
    before = curve[at - 1] if at else (0.0, 0.0)
    return float(np.interp(quality, *zip(before[::-1], curve[at][::-1], strict=True)))


if __name__ == "__main__":
    main()
