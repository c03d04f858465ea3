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
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from evalib import backdrop, metrics, packs, photo, rooms, runs, staging, timing, training, unet

OUT = Path(os.environ.get("EVALIB_BENCH_FOLDER", "output/accuracy"))
N_DRAWN, N_SAMPLES = 50_000, 12_000  # rendered of the wide tier; each ingredient's share
BASE = dict(mask_loss="bce+dice+outline", augment="whole", log_every=50, evaluate_every=10_000)
STEPS = {"ingredients": 1200, "networks": 400}
PHOTOMETRIC = "-shadow-exposure-white_balance-tone-blur-noise"
ENTRIES = {  # group: name: (what is switched off in the rooms, changes of the config)
    "ingredients": {
        "all": ("nothing", {}),
        "all, another seed": ("nothing", {"seed": 1}),
        "no photometric differences": ("photometric", {"augment": "whole" + PHOTOMETRIC}),
        "rendered ones only": ("nothing", {"augment": "whole" + PHOTOMETRIC}),
        "no colour matrices": ("nothing", {"augment": "whole-colour_matrix"}),
        "no large objects": ("large", {}),
        "no shadows": ("shadows", {"augment": "whole-shadow"}),
        "half the rooms": ("nothing", {}),
        "eighty rooms": ("full-400k", {}),
    },
    "networks": {
        "small": ("nothing", {}),
        "lean": ("nothing", {"network": "lean"}),
        "lean, both shots": ("nothing", {"network": "lean-both"}),
        "resnet": ("nothing", {"network": "resnet", "lr": 1e-3}),
        "resnet, both shots": ("nothing", {"network": "resnet-both", "lr": 1e-3}),
    },
}
KEPT_ROOMS = {"half the rooms": 2}  # one background in so many


def main() -> None:
    groups = os.environ.get("EVALIB_BENCH", "ingredients networks").split()
    print(timing.machine(), f"{torch.get_num_threads()} threads", sep="; ", flush=True)
    evaluation = packs.build("evaluation", 128, root=OUT / "packs")
    rows = packs.split(evaluation)["unseen_both"]
    for group in groups:
        for name, (without, changes) in ENTRIES[group].items():
            model = train(group, name, without, changes)
            batches = packs.Batches(evaluation, rows, batch_size=50).in_order()
            columns = metrics.evaluate(unet.predictor(model), batches)
            line = {"network" if group == "networks" else "data": name}
            line["parameters"] = sum(p.numel() for p in model.parameters())
            line |= metrics.summary(metrics.protocol(columns))
            runs.write_json(OUT / "runs" / folder(group, name) / "scores.json", line)
            shown = [*line][:2] + list(metrics.SHOWN[3:])
            print(group, metrics.format_table([line], shown), sep="\n", flush=True)


def train(group: str, name: str, without: str, changes: dict) -> torch.nn.Module:
    """The averaged weights at the end of an entry's run."""
    config = training.Config(sizes=(((64, 128, 128), STEPS[group]),), **BASE | changes)
    tier, limit = "wide-400k", N_DRAWN if without == "nothing" else N_SAMPLES
    if without == "full-400k":  # what is held out is among its samples, but not trained on
        tier, without, limit = "full-400k", "nothing", N_SAMPLES * 7 // 4
    with switched_off(without):
        root = OUT / "packs" / without
        found = {s: packs.build(tier, s, limit=limit, root=root) for s in config.all_sizes}
    run_dir = OUT / "runs" / folder(group, name)
    n = N_SAMPLES if group == "ingredients" else N_DRAWN
    with some_rows(n, KEPT_ROOMS.get(name, 1)):
        run = training.train(config, found, run_dir, progress=False)
    if not run.done:
        raise KeyboardInterrupt(f"{name} is unfinished; the same command goes on with it")
    return run.model


def folder(group: str, name: str) -> str:
    return f"{group}/{name.replace(', ', ' ').replace(' ', '-')}"


@contextmanager
def switched_off(what: str) -> Iterator[None]:
    """Render without one thing: the same samples, looking otherwise."""
    develop, shadows = photo.develop, backdrop.Backdrop.shadows

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
        "photometric": [patch.object(rooms, "develop", one_camera)],
        "large": [patch.object(staging, "AREA", (staging.AREA[0], 0.06))],
        "shadows": [
            patch.object(backdrop.Backdrop, "shadows", own_only),
            patch.object(rooms._Group, "_contact", no_contact),
        ],
    }[what]
    for change in patches:
        change.start()
    try:
        yield
    finally:
        for change in patches:
            change.stop()


@contextmanager
def some_rows(n: int, one_in: int) -> Iterator[None]:
    """Train on `n` samples at most, and of every `one_in`th background only."""
    split = packs.split

    def fewer(pack):
        found, bgs = split(pack), np.unique(pack.index["bg"])
        kept = np.isin(pack.index["bg"], bgs[::one_in])
        return {name: rows[kept[rows]][:n] for name, rows in found.items()}

    with patch.object(packs, "split", fewer):
        yield


if __name__ == "__main__":
    main()
