"""What each ingredient of the training data is worth, and earlier networks beside ours.

Every entry trains on the same number of samples for the same number of steps, with one recipe, at
64 and 128 px in turn; scores are of unseen backgrounds and objects at 128 px (notebook 05 has the
protocol). What changes the rooms themselves is switched off in the renderer here, so such an entry
has packs of its own. Runs are kept and resumed; a finished one is only scored.

    python -m evalib bench accuracy
    EVALIB_BENCH="ingredients" python -m evalib bench accuracy    (or "networks")

Two to three hours on one core, most of them for `resnet`.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from evalib import (
    dataset,
    manifest,
    metrics,
    runs,
    timing,
    training,
    unet,
)
from evalib.rooms import backdrop, sensor, shots, staging

OUT = Path(os.environ.get("EVALIB_BENCH_FOLDER", "output/accuracy"))
BASE = dict(mask_loss="bce+dice+outline", augment="whole", log_every=50, evaluate_every=10_000)
BUDGET = {"ingredients": (800, 64), "networks": (400, 32)}  # steps, samples of 64 px in each
WIDE = manifest.find("wide-400k")
# Ingredients share 400 backgrounds, 320 of them for training; networks the data of notebook 04.
TIERS = {
    name: replace(WIDE, name=f"wide-{end}", n_samples=8000, backgrounds=(0, end))
    for name, end in {"rooms": 400, "half": 200}.items()
}
TIERS[WIDE.name] = WIDE
N_WIDE = 50_000
PHOTOMETRIC = "-shadow-exposure-white_balance-tone-blur-noise"
ENTRIES = {  # group: name: (tier, what is switched off in the rooms, changes of the config)
    "ingredients": {
        "all": ("rooms", "nothing", {}),
        "all, another seed": ("rooms", "nothing", {"seed": 1}),
        "no photometric differences": ("rooms", "photometric", {"augment": "whole" + PHOTOMETRIC}),
        "no photometric augmentation": ("rooms", "nothing", {"augment": "whole" + PHOTOMETRIC}),
        "no colour matrices": ("rooms", "nothing", {"augment": "whole-colour_matrix"}),
        "no large objects": ("rooms", "large", {}),
        "no shadows": ("rooms", "shadows", {"augment": "whole-shadow"}),
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


def main() -> None:
    groups = os.environ.get("EVALIB_BENCH", "ingredients networks").split()
    print(timing.machine(), f"{torch.get_num_threads()} threads", sep="; ", flush=True)
    evaluation = dataset.build("evaluation", 128, root=OUT / "packs")
    rows = evaluation.split()["unseen_both"]
    for group in groups:
        for name, entry in ENTRIES[group].items():
            model = train(group, name, *entry)
            scores = metrics.score(unet.predictor(model), evaluation, rows, batch_size=50)
            line = {"network" if group == "networks" else "data": name}
            line["parameters"] = sum(p.numel() for p in model.parameters())
            line |= scores
            runs.write_json(OUT / "runs" / folder(group, name) / "scores.json", line)
            shown = [*line][:2] + list(metrics.SHOWN[3:])
            print(group, metrics.format_table([line], shown), sep="\n", flush=True)


def train(group: str, name: str, tier: str, without: str, changes: dict) -> torch.nn.Module:
    """The averaged weights at the end of an entry's run."""
    steps, batch_size = BUDGET[group]
    changes = BASE | {"batch_size": batch_size} | changes
    config = training.Config(sizes=(((64, 128, 128), steps),), **changes)
    limit, root = N_WIDE if tier == WIDE.name else None, OUT / "packs" / without
    with switched_off(without), patch.object(manifest, "find", TIERS.get):
        found = {s: dataset.build(tier, s, limit=limit, root=root) for s in config.all_sizes}
    run = training.train(config, found, OUT / "runs" / folder(group, name), progress=False)
    if not run.done:
        raise KeyboardInterrupt(f"{name} is unfinished; the same command goes on with it")
    return run.model


def folder(group: str, name: str) -> str:
    return f"{group}/{name.replace(', ', ' ').replace(' ', '-')}"


@contextmanager
def switched_off(what: str) -> Iterator[None]:
    """Render without one thing: the same samples, looking otherwise."""
    develop, shadows = sensor.develop, backdrop.Backdrop.shadows

    def one_camera(light, seed, bg, ids=None):
        return develop(light, seed, bg)  # as the empty shot: exposure, noise and JPEG

    def own_only(self, view, owner, b, shell=0):
        if shell:  # the furniture's: part of the place
            return shadows(self, view, owner, b, shell)
        return torch.zeros(b * self.n**2, device=self.device)

    def no_contact(self, them, owner):
        return torch.zeros(len(self.starts) * self.drop.n**2, device=self.drop.device)

    patches = {
        "nothing": [],
        "photometric": [patch.object(shots, "develop", one_camera)],
        "large": [patch.object(staging, "AREA", (staging.AREA[0], 0.06))],
        "shadows": [
            patch.object(backdrop.Backdrop, "shadows", own_only),
            patch.object(shots._Group, "_contact", no_contact),
        ],
    }[what]
    with ExitStack() as stack:
        for change in patches:
            stack.enter_context(change)
        yield


if __name__ == "__main__":
    main()
