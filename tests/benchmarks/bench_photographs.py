"""Masks learned from photographs pasted into photographs: how many are needed, and what given
weights are worth.

    python tests/benchmarks/bench_photographs.py FOLDER [--samples 100 1000 all] [--seed 0]

FOLDER/bg has pictures of empty scenes, FOLDER/fg cut-outs. Trains `small` on the masks of so many
samples, with and without `init="shipped"`, equal steps each, and scores 500 pairs of each held-out
subset at 128 px, beside subtraction and the shipped weights as they are. `all` is rendered while
training. A run that is there goes on. Each time a line is added to the results; all are printed.
"""

import argparse
import csv
import json
import os
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one

from evalib import config, dataset, metrics, timing, training, unet, weights

SUBSETS = ("seen", "unseen_bg", "unseen_fg", "unseen_both")
SIZES = (64, 128)
N_PAIRS = 500
LR = config.Config.lr


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", nargs="+", default=["100", "1000", "all"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=N_PAIRS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("output/photographs"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["EVALIB_MANIFEST"] = str(written(args))
    valid = dataset.build("pasted-valid", SIZES[-1], root=args.out / "packs", progress=False)
    for size in (64, 128, 224):
        print(f"{size} px: {dataset.speed('pasted-all', size):,.0f} composed a second and core")
    results = args.out / "bench_photographs.jsonl"
    done = read(results)
    if not any(line["samples"] == "0" for line in done):
        shipped = unet.predictor(weights.load(device="cpu"))
        for name, predictor in {"subtraction": metrics.baseline, "shipped": shipped}.items():
            add(results, {"samples": "0", "init": name} | scores(predictor, valid))
    for samples in args.samples:
        for init in ("", "shipped"):
            line = {"samples": samples, "init": init, "steps": args.steps, "seed": args.seed}
            if not any(line.items() <= other.items() for other in done):
                add(results, line | trained(args, samples, init, valid))
    print(timing.machine(), timing.utc_now()[:10], sep="; ")
    columns = ["samples", "init", "seed", "steps", "rate/s", *SUBSETS]
    print(metrics.format_table(sorted(read(results), key=lambda line: line["samples"]), columns))


def written(args: argparse.Namespace) -> Path:
    """A manifest of tiers that share their pictures; those held out are in none to train on."""
    path = args.out / "manifest.csv"
    rows = [["tier", "source", "address", "n_samples", "subsets"]]
    address = args.folder.resolve()
    rows.append(["pasted-valid", "photos", address, len(SUBSETS) * args.pairs, ";".join(SUBSETS)])
    rows.append(["pasted-all", "photos", address, "", ""])
    for n in set(args.samples) - {"all"}:
        rows.append([f"pasted-{n}", "photos", address, n, "train"])
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def trained(args: argparse.Namespace, samples: str, init: str, valid: dataset.Pack) -> dict:
    """Train, or go on, and score."""
    settings = config.Config(
        init=init,
        lr=LR / 4 if init else LR,
        depth_loss="",
        sizes=((SIZES, args.steps),),
        seed=args.seed,
    )
    tier = f"pasted-{samples}"
    data = tier
    begin = time.perf_counter()
    if samples != "all":
        root = args.out / "packs"
        data = {size: dataset.build(tier, size, root=root, progress=False) for size in SIZES}
    folder = args.out / f"{samples}-{init or 'anew'}-{args.steps}-{args.seed}"
    run = training.train(settings, data, folder, valid=valid, device="cpu", progress=False)
    rate = {"rate/s": args.steps / (time.perf_counter() - begin)}
    return rate | scores(unet.predictor(run.model), valid)


def scores(predictor: metrics.Predictor, valid: dataset.Pack) -> dict[str, float]:
    """Mask IoU by subset."""
    rows = valid.split()
    return {name: metrics.score(predictor, valid, rows[name])["iou"] for name in SUBSETS}


def add(results: Path, line: dict) -> None:
    machine = {"machine": timing.machine(), "date": timing.utc_now()[:10]}
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line | machine) + "\n")


def read(results: Path) -> list[dict]:
    if not results.exists():
        return []
    return [json.loads(text) for text in results.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
