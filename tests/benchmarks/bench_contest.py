"""The contest of notebook 03, one row at a time: every recipe, and our own network with one thing
changed, on the same samples, scored on the same unseen ones.

    python tests/benchmarks/bench_contest.py --recipe NAME [--seed K] [--samples N] [--photos DIR]
    python tests/benchmarks/bench_contest.py --group GROUP --seed 0 1 2
    python tests/benchmarks/bench_contest.py --costs
    python tests/benchmarks/bench_contest.py --collect FILE

Trains NAME of RECIPES, NETWORKS or GROUPS at 64 px on mid-1000, or on the masks of pasted
photographs (DIR/bg, DIR/fg), in steps of 16 samples, and prints its results.json. A row that
was stopped goes on; one that is finished is only read. --costs measures how fast each network is,
one after the other, with nothing else running. --collect writes all rows into one file, with those
speeds instead of what each row saw beside others; evalib/recipes/results.json is one.
"""

import argparse
import csv
import json
import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one

from evalib import augment, checkpoint, dataset, losses, metrics, recipes, runs, training
from evalib.training import Config, contest

OUT = Path("output/contest")
SIZE = 64
BATCH = 16
SAMPLES = 8000
SUBSETS = "seen;unseen_both"
# What is changed one thing at a time. In so short a run, averaged weights have to keep up.
OURS = {"network": "small", "ema": 0.95}
WITHOUT_CROP = tuple(name for name in augment.ALL if name != "crop")
LIGHT = ("colour_matrix", "exposure", "white_balance", "tone", "noise")


def _named(field: str, *values: str, **rest) -> dict[str, dict]:
    """An entry for each value of a field: "mask_loss dice": {"mask_loss": "dice"}."""
    return {f"{field} {value}": {field: value} | rest for value in values}


GROUPS: dict[str, dict[str, dict]] = {
    # In results.json "ours" and all that changes one thing are of the network before this one.
    "losses": {"ours": {}, "ours, two depths": {}}
    | _named("mask_loss", "bce", "dice", "2*bce+dice", "bce+dice+outline", "bce+dice+edge")
    | _named("mask_loss", "focal", "tversky", "lovasz", "bce+lovasz", "bce_after_sigmoid")
    | _named("depth_loss", "l1", "l2", "huber", "rmse", "berhu", "bce", "ssim", "ms_ssim")
    | _named("depth_loss", "l1+ssim", "l1+ms_ssim", "l1+normals", "log+log_gradient+normals")
    | _named("depth_loss", "scale_invariant", "log")
    | _named("weighting", "uncertainty"),
    "augmentations": {
        "augment none": {"augment": ()},
        **{f"augment flip+{k}": {"augment": ("flip", k)} for k in augment.REASONS if k != "flip"},
        "augment flip+light": {"augment": ("flip", *LIGHT)},
        "augment all but crop": {"augment": WITHOUT_CROP},
        "augment all": {"augment": augment.ALL},
    },
    # As many samples of each: a step has four times as many of half the size.
    "sizes": {
        "sizes 32 only": {"batch_size": 4 * BATCH, "sizes": ((32, 0.25),)},
        "sizes 32 then 64": {"batch_size": 4 * BATCH, "sizes": ((32, 0.125), (64, 0.5))},
        "sizes 32 briefly, then 64": {"batch_size": 4 * BATCH, "sizes": ((32, 0.05), (64, 0.8))},
        "sizes 64 and 96 in turns": {"sizes": (((64, 96), 1.385),)},
    },
    "habits": _named("optimizer", "adam", lr=1e-2)
    | _named("optimizer", "sgd", lr=1e-2, weight_decay=0.0)
    | _named("schedule", "constant", "step")
    | {
        "sgd, rate .1": {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0},
        # These look often, and hand out the best of what they saw: compare them with each other.
        "looks often": {"evaluate_every": 25},
        "looks often, plateau": {"evaluate_every": 25, "schedule": "plateau:.1"},
        "looks often, stops early": {"evaluate_every": 25, "patience": 4},
        "mask alone": {"depth_loss": ""},
        "depth alone": {"mask_loss": ""},
        "mask first, then both": {"phases": (("mask", 1), ("both", 1))},
        "depth first, then both": {"phases": (("depth", 1), ("both", 1))},
        "mask first, then depth, encoder frozen": {"phases": (("mask", 1), ("depth head", 1))},
        "depth first, then mask, encoder frozen": {"phases": (("depth", 1), ("mask head", 1))},
        "alternating, encoder frozen": {"phases": (("mask head", 1), ("depth head", 1)) * 8},
        "alternating": {"phases": (("mask", 1), ("depth", 1)) * 8},
    },
}


def bce_after_sigmoid(mask_logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Document 000's mistake, on purpose: a loss that takes logits gets probabilities."""
    return F.binary_cross_entropy_with_logits(mask_logits.sigmoid(), mask)


def settings(name: str, n_samples: int) -> dict:
    """Of Config: a recipe's, at SIZE; a network's, with the recipe that it is a variant of; or
    ours, with one thing changed."""
    for group in GROUPS.values():
        if name in group:
            changed = dict(group[name])
            break
    else:
        changed = recipes.recipe(name.partition("-")[0]) | {"network": name}
        return changed | {"sizes": ((SIZE, n_samples // BATCH),)}
    stages = changed.get("sizes", ((SIZE, 1),))
    changed["sizes"] = tuple((size, round(share * n_samples / BATCH)) for size, share in stages)
    return OURS | changed


def data(photos: Path | None, sizes: list[int]) -> tuple[dict[int, dataset.Pack], dataset.Pack]:
    """Packs to train on, and the one to score."""
    root = OUT / "packs"
    tiers = "mid-1000", "evaluation"
    if photos:
        tiers = "pasted", "pasted-unseen"
        rows = [["tier", "source", "address", "n_samples", "subsets"]]
        rows.append(["pasted", "photos", photos.resolve(), 1000, "train"])
        rows.append(["pasted-unseen", "photos", photos.resolve(), 1000, SUBSETS])
        OUT.mkdir(parents=True, exist_ok=True)
        with (OUT / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        os.environ["EVALIB_MANIFEST"] = str(OUT / "manifest.csv")
    build = partial(dataset.build, root=root, progress=False)
    return {size: build(tiers[0], size) for size in sizes}, build(tiers[1], SIZE)


def row(name: str, seed: int, n_samples: int, photos: Path | None) -> dict:
    where = "photos" if photos else "rooms"
    about = {"entry": name, "data": where, "seed": seed, "budget": n_samples}
    folder = OUT / where / f"{name.replace(' ', '_').replace('/', '')}-{n_samples}-{seed}"
    if name == "baseline":
        about = {"entry": name, "data": where}
        found = about | contest.scores(metrics.baseline, data(photos, [])[1])
        folder.mkdir(parents=True, exist_ok=True)
        runs.write_json(folder / "results.json", found)
        return found
    changed = {"batch_size": BATCH, "n_valid": 32, "log_every": 25, "evaluate_every": 10_000}
    changed |= settings(name, n_samples) | {"seed": seed}
    if photos:  # of depth there is nothing to learn
        changed |= {"depth_loss": "", "phases": ()}
    config = Config(**changed)
    packs, evaluation = data(photos, config.all_sizes)
    return contest.enter(config, packs, evaluation, folder, **about)


def costs() -> None:
    """Samples a second in training and milliseconds a picture, one entry after the other."""
    found = {}
    for name in [*recipes.NETWORKS, "ours", *GROUPS["sizes"]]:
        changed = {"batch_size": BATCH} | settings(name, SAMPLES)
        phases = dict(changed.get("phases", {"both": 1}))
        configs = [Config(**changed | {"phases": ((phase, 1),)}) for phase in phases]
        packs, _ = data(None, configs[0].all_sizes)
        step_s = np.mean([1 / training.pace(config, packs)["per_s"] for config in configs])
        per_s = SAMPLES / configs[0].n_steps / step_s
        ms = contest.milliseconds(recipes.build(configs[0].network), SIZE)
        found[name] = {"per_s": round(per_s, 1), "ms": round(ms, 2)}
        print(name, found[name], flush=True)
    runs.write_json(OUT / "costs.json", found)


def collect(path: Path) -> None:
    """All rows that are finished, one a line; of each config only what is not its default."""
    usual = json.loads(json.dumps(asdict(Config())))
    speeds = json.loads((OUT / "costs.json").read_text(encoding="utf-8"))
    lines = []
    for file in sorted(OUT.glob("*/*/results.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        for name in ("per_s", "ms", "train_s", "scored"):
            found.pop(name, None)
        found |= speeds.get(found["entry"], {})
        if config := found.pop("config", None):
            found["config"] = {name: v for name, v in config.items() if v != usual.get(name)}
        lines.append(json.dumps(found))
    text = ",\n".join(lines)
    checkpoint.write_whole(path, f"[\n{text}\n]\n".encode())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    names = "of recipes.NETWORKS or an entry of GROUPS; or: baseline"
    which.add_argument("--recipe", "--entry", dest="entry", metavar="NAME", help=names)
    which.add_argument("--group", choices=GROUPS)
    which.add_argument("--costs", action="store_true")
    which.add_argument("--collect", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--photos", type=Path, metavar="DIR")
    args = parser.parse_args(arguments)
    if args.collect:
        return collect(args.collect)
    torch.set_num_threads(1)
    losses.MASK[bce_after_sigmoid.__name__] = bce_after_sigmoid
    if args.costs:
        return costs()
    for seed in args.seed:
        for name in [args.entry] if args.entry else GROUPS[args.group]:
            print(json.dumps(row(name, seed, args.samples, args.photos)), flush=True)


if __name__ == "__main__":
    main()
