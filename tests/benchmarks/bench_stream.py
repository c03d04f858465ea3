"""A stream of fresh samples against a stored pack of 10,000, trained for equally many steps.

    python tests/benchmarks/bench_stream.py [STEPS] [--seeds 0 1] [--out FOLDER]

As notebook 04 trains without a GPU: 64 and 128 px in turns. Scores are of the 500 evaluation pairs
whose background and object were never trained on, at 128 px. Runs are kept and resumed.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one
from evalib import augment, dataset, metrics, runs, timing, training, unet

TIER = "wide-400k"
N_PACK = 10_000  # samples that notebook 04 stored for ten minutes of training
SHOWN = ("data", "seed", "samples", "steps_per_s", "wait", "iou", "depth_rmse", "fg_depth_rmse")
COMMON = dict(
    mask_loss="bce+dice+outline",
    augment=tuple(name for name in augment.ALL if name != "crop"),
    log_every=50,
    evaluate_every=1000,
    ema=0.998,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("steps", nargs="?", type=int, default=7500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--data", nargs="+", default=["pack", "stream"])
    parser.add_argument("--reuse", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("output/stream"))
    args = parser.parse_args()
    print(timing.machine(), timing.utc_now(), sep="\n", flush=True)
    for seed in args.seeds:
        for data in args.data:
            row = measure(data, seed, args.steps, args.reuse, args.out)
            print(metrics.format_table([row], SHOWN), flush=True)


def measure(data: str, seed: int, steps: int, reuse: int, out: Path) -> dict[str, object]:
    """Train, or go on, and score one run."""
    config = training.Config(sizes=(((64, 128, 128), steps),), seed=seed, reuse=reuse, **COMMON)
    evaluation = dataset.build("evaluation", 128, root=out / "packs")
    source = TIER
    if data == "pack":
        source = {
            size: dataset.build(TIER, size, limit=N_PACK, root=out / "packs")
            for size in config.all_sizes
        }
    folder = out / "runs" / f"{data}-{steps}-{seed}"
    run = training.train(config, source, folder, valid=evaluation, workers=1, progress=False)
    if not run.done:
        raise KeyboardInterrupt("unfinished; the same command goes on with it")
    rows = evaluation.split()["unseen_both"]
    scores = metrics.score(unet.predictor(run.model), evaluation, rows)
    history = runs.read_history(folder)
    blocks = {n: np.nansum(history[n]) for n in history if n.endswith("_s") and n != "evaluate_s"}
    seconds = sum(blocks.values())
    n_drawn = sum(config.size_of_batch(int(size)) for size in config.turns)
    row = {"data": data, "seed": seed, "samples": N_PACK if data == "pack" else n_drawn // reuse}
    row |= {"steps_per_s": steps / seconds, "wait": blocks["data_s"] / seconds}
    return row | scores


if __name__ == "__main__":
    main()
