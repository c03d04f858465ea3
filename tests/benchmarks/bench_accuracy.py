"""What each ingredient of the training data is worth, and earlier networks beside ours.

Every entry trains on the same number of samples for the same number of steps, with one recipe, at
64 and 128 px in turn; scores are of unseen backgrounds and objects at 128 px (notebook 05 has the
protocol). What changes the rooms themselves is switched off in the renderer here, so such an entry
has packs of its own. Runs are kept and resumed; a finished one is only scored.

    python tests/benchmarks/bench_accuracy.py [ingredients] [networks] [--out FOLDER]

Two to three hours on one core, most of them for `resnet`. What came out stands in README.md here.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one
from evalib import augment, dataset, manifest, metrics, runs, timing, training, unet
from evalib.rooms import rays, sensor, shots, staging

LIGHT = ("shadow", "exposure", "white_balance", "tone", "blur", "noise")  # of each shot alone


def all_but(*names: str) -> tuple[str, ...]:
    """Every transform but these and crops, which cost depth (notebook 03)."""
    return tuple(name for name in augment.ALL if name not in ("crop", *names))


BASE = dict(mask_loss="bce+dice+outline", augment=all_but(), log_every=50, evaluate_every=10_000)
BUDGET = {"ingredients": (800, 64), "networks": (400, 32)}  # steps, samples of 64 px in each
WIDE = manifest.find("wide-400k")
# Ingredients share 400 backgrounds, 320 of them for training; networks the data of notebook 04.
TIERS = {
    name: replace(WIDE, name=f"wide-{end}", n_samples=8000, backgrounds=(0, end))
    for name, end in {"rooms": 400, "half": 200}.items()
}
TIERS[WIDE.name] = WIDE
N_WIDE = 50_000
ENTRIES = {  # group: name: (tier, what is switched off in the rooms, changes of the config)
    "ingredients": {
        "all": ("rooms", "nothing", {}),
        "all, another seed": ("rooms", "nothing", {"seed": 1}),
        "no photometric differences": ("rooms", "photometric", {"augment": all_but(*LIGHT)}),
        "no photometric augmentation": ("rooms", "nothing", {"augment": all_but(*LIGHT)}),
        "no colour matrices": ("rooms", "nothing", {"augment": all_but("colour_matrix")}),
        "no large objects": ("rooms", "large", {}),
        "no shadows": ("rooms", "shadows", {"augment": all_but("shadow")}),
        "half the rooms": ("half", "nothing", {}),
    },
    "networks": {
        "small": (WIDE.name, "nothing", {}),
        "lean": (WIDE.name, "nothing", {"network": "lean"}),
        "lean, both shots": (WIDE.name, "nothing", {"network": "lean-both"}),
        "resnet": (WIDE.name, "nothing", {"network": "resnet", "lr": 1e-3}),
        "resnet, both shots": (WIDE.name, "nothing", {"network": "resnet-both", "lr": 1e-3}),
    },
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("groups", nargs="*", help=f"which of {', '.join(ENTRIES)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("output/accuracy"))
    args = parser.parse_args(arguments)
    if unknown := set(args.groups) - set(ENTRIES):
        parser.error(f"no group {', '.join(unknown)}; choose of {', '.join(ENTRIES)}")
    print(timing.machine(), flush=True)
    for group in args.groups or ENTRIES:
        for name in ENTRIES[group]:
            line = measure(group, name, args.out)
            shown = [*line][:2] + list(metrics.SHOWN[3:])
            print(group, metrics.format_table([line], shown), sep="\n", flush=True)


def measure(group: str, name: str, out: Path) -> dict[str, object]:
    """Train an entry, or go on with it, and score it; the row is kept beside its run."""
    folder = out / "runs" / group / name.replace(", ", " ").replace(" ", "-")
    model = train(group, name, folder, out / "packs")
    device = next(model.parameters()).device
    evaluation = dataset.build("evaluation", 128, root=out / "packs")
    rows = evaluation.split()["unseen_both"]
    line = {"network" if group == "networks" else "data": name}
    line["parameters"] = sum(p.numel() for p in model.parameters())
    line |= metrics.score(unet.predictor(model), evaluation, rows, batch_size=50, device=device)
    runs.write_json(folder / "scores.json", line)
    return line


def train(group: str, name: str, folder: Path, packs: Path) -> torch.nn.Module:
    """The averaged weights of an entry's run; evaluated once, at its end."""
    tier, without, changes = ENTRIES[group][name]
    config = configure(group, changes)
    limit = N_WIDE if tier == WIDE.name else None
    with switched_off(without), patch.object(manifest, "find", TIERS.get):
        found = {
            size: dataset.build(tier, size, limit=limit, root=packs / without)
            for size in config.all_sizes
        }
    run = training.train(config, found, folder, progress=False)
    if not run.done:
        raise KeyboardInterrupt(f"{name} is unfinished; the same command goes on with it")
    return run.model


def configure(group: str, changes: dict[str, object]) -> training.Config:
    steps, batch_size = BUDGET[group]
    settings = BASE | {"batch_size": batch_size, "sizes": (((64, 128, 128), steps),)} | changes
    return training.Config(**settings)


@contextmanager
def switched_off(what: str) -> Iterator[None]:
    """Render without one thing: the same samples, looking otherwise."""

    def one_camera(seed, bg, ids=None):
        return sensor.settings(seed, bg)  # as the empty shot: exposure, noise and JPEG

    def without_shadows(parts, camera):
        seen = rays.view(parts, camera)
        seen["radius"] = -np.inf  # of the ball that tells where they can fall
        return seen

    def without_contact(*which):
        them = staging.cast(*which)
        return them._replace(reach=np.full_like(them.reach, -np.inf))

    patches = {
        "nothing": [],
        "photometric": [patch.object(shots, "settings", one_camera)],
        "large": [patch.object(staging, "AREA", (staging.AREA[0], 0.06))],
        "shadows": [
            patch.object(staging, "view", without_shadows),
            patch.object(shots, "cast", without_contact),
        ],
    }[what]
    with ExitStack() as stack:
        for change in patches:
            stack.enter_context(change)
        yield


if __name__ == "__main__":
    main()
