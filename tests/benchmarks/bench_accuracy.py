"""What each ingredient of the data and of the depth is worth, and earlier networks beside ours.

Every entry trains on the same number of samples for the same number of steps, with one recipe, at
64 and 128 px in turn; scores are of unseen backgrounds and objects at 128 px (notebook 05 has the
protocol), of the kinds that `full-400k` has and (broad_) of more. What changes the rooms themselves
is switched off in the renderer here, so such an entry has packs of its own. Runs are kept and
resumed; a finished one is only scored.

    python tests/benchmarks/bench_accuracy.py [ingredients] [depth] [networks] [--out FOLDER]

About five minutes an entry on one core, for `resnet` three quarters of an hour. What came out
stands in README.md here.
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
from evalib import (
    augment,
    camera,
    dataset,
    evidence,
    manifest,
    metrics,
    runs,
    timing,
    training,
    unet,
)
from evalib.rooms import backdrop, objects, places, rays, sensor, shots, staging

# Crops cost depth (notebook 03).
PHOTOMETRIC = tuple(name for name in augment.ALL if name != "crop")
BASE = dict(augment=("flip",), log_every=50, evaluate_every=10_000)
BOTH = training.Config().depth_loss
# steps, samples of 64 px in each
BUDGET = {"ingredients": (800, 64), "depth": (800, 64), "networks": (400, 32)}
WIDE, BROAD = manifest.find("wide-400k"), manifest.find("broad-400k")
# Ingredients share 400 backgrounds, 320 of them for training; networks have 4,000.
FIRST = BROAD.backgrounds[0]
TIERS = {
    name: replace(BROAD, name=f"broad-{n}", n_samples=8000, backgrounds=(FIRST, FIRST + n))
    for name, n in {"rooms": 400, "half": 200}.items()
}
TIERS[WIDE.name] = WIDE
N_WIDE = 50_000
ENTRIES = {  # group: name: (tier, what is switched off, changes of the config)
    "ingredients": {
        "all": ("rooms", "nothing", {}),
        "all, another seed": ("rooms", "nothing", {"seed": 1}),
        "only the kinds of places of before": ("rooms", "kinds", {}),
        "nobody who was there before": ("rooms", "somebody", {}),
        "nothing that left": ("rooms", "left", {}),
        "good cameras by day": ("rooms", "cameras", {}),
        "no crowds, nothing small or cut off": ("rooms", "crowds", {}),
        "no photometric differences": ("rooms", "photometric", {}),
        "photometric augmentation": ("rooms", "nothing", {"augment": PHOTOMETRIC}),
        "touched cameras": ("rooms", "nothing", {"augment": ("flip", "move")}),
        "no large objects": ("rooms", "large", {}),
        "no shadows": ("rooms", "shadows", {}),
        "half the rooms": ("half", "nothing", {}),
    },
    "depth": {
        "today's": ("rooms", "nothing", {}),
        "today's, another seed": ("rooms", "nothing", {"seed": 1}),
        "a term of what is new": ("rooms", "nothing", {"depth_loss": f"{BOTH}+0.5*new"}),
        "never told the empty depth": ("rooms", "nothing", {"told": 0.0}),
        "one depth": ("rooms", "layers", {}),
        "no copying": ("rooms", "copying", {}),
        "no position": ("rooms", "position", {}),
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
            shown = [*line][:2] + [*metrics.SHOWN[3:], *list(line)[-5:]]
            print(group, metrics.format_table([line], shown), sep="\n", flush=True)


def measure(group: str, name: str, out: Path) -> dict[str, object]:
    """Train an entry, or go on with it, and score it; the row is kept beside its run."""
    folder = out / "runs" / group / name.replace(", ", " ").replace(" ", "-")
    packs = packs_of(group, name, out / "packs")
    old = dataset.build("evaluation", 128, root=out / "packs")
    new = dataset.build("broad-evaluation", 128, root=out / "packs")
    with switched_off(ENTRIES[group][name][1]):  # the network's part of it; all packs are built
        model = train(group, name, folder, packs)
        line = {"network" if group == "networks" else "trained on": name}
        line["parameters"] = sum(p.numel() for p in model.parameters())
        line |= scores(unet.predictor(model), old)
        told = scores(camera.predictor(model), old)
        line |= {f"told_{key}": told[key] for key in ("depth_rmse", "fg_depth_rmse")}
        broad = scores(unet.predictor(model), new)
        line |= {f"broad_{key}": broad[key] for key in ("iou", "depth_rmse", "fg_depth_rmse")}
    runs.write_json(folder / "scores.json", line)
    return line


def scores(predictor: metrics.Predictor, pack: dataset.Pack) -> dict[str, float]:
    return metrics.score(predictor, pack, pack.split()["unseen_both"], batch_size=50)


def packs_of(group: str, name: str, folder: Path) -> dict[int, dataset.Pack]:
    """Packs for each size, rendered without what the entry goes without."""
    tier, without, changes = ENTRIES[group][name]
    limit = N_WIDE if tier == WIDE.name else None
    root = folder / (without if group == "ingredients" else "nothing")
    with switched_off(without), patch.object(manifest, "find", TIERS.get):
        return {
            size: dataset.build(tier, size, limit=limit, root=root)
            for size in configure(group, changes).all_sizes
        }


def train(group: str, name: str, folder: Path, packs: dict[int, dataset.Pack]) -> torch.nn.Module:
    """The averaged weights of an entry's run; evaluated once, at its end."""
    config = configure(group, ENTRIES[group][name][2])
    run = training.train(config, packs, folder, device="cpu", progress=False)
    if not run.done:
        raise KeyboardInterrupt(f"{name} is unfinished; the same command goes on with it")
    return run.model


def configure(group: str, changes: dict[str, object]) -> training.Config:
    steps, batch_size = BUDGET[group]
    settings = BASE | {"batch_size": batch_size, "sizes": (((64, 128, 128), steps),)} | changes
    return training.Config(**settings)


@contextmanager
def switched_off(what: str) -> Iterator[None]:
    """Render, train or score without one thing."""

    def one_camera(seed, bg, ids, size):
        return sensor.settings(seed, bg, None, size)  # as the empty shot: exposure, noise and JPEG

    def without_shadows(parts, camera):
        seen = rays.view(parts, camera)
        seen["radius"] = -np.inf  # of the ball that tells where they can fall
        return seen

    def without_contact(*which):
        them = staging.cast(*which)
        return them._replace(reach=np.full_like(them.reach, -np.inf))

    def one_depth(maps, known):
        return answer(maps[:, [0, 1, 1]], known)

    def without_position(known, like):
        return given(known, like) * like.new_tensor([1, 1, 0, 0])[:, None, None]

    answer, given = unet._answer, evidence._given
    patches = {
        "nothing": [],
        "kinds": [patch.object(places, "MORE_KINDS", places.KINDS)],
        "somebody": [patch.object(objects, "somebody", lambda *where: None)],
        "left": [patch.object(places, "LEFT", 0)],
        "cameras": [patch.object(places, "NIGHT", 0), patch.object(sensor, "MORE", np.inf)],
        "crowds": [patch.object(staging, "SINCE", staging.BEFORE)],
        "photometric": [patch.object(shots, "settings", one_camera)],
        "large": [patch.object(staging, "AREA", (staging.AREA[0], 0.06))],
        "shadows": [
            patch.object(staging, "view", without_shadows),
            patch.object(shots, "cast", without_contact),
        ],
        "layers": [patch.object(unet, "_answer", one_depth)],
        "copying": [patch.object(unet.Coarse, "_copied", lambda self, depths, *_: depths)],
        "position": [patch.object(evidence, "_given", without_position)],
    }[what]
    with ExitStack() as stack:
        for change in patches:
            stack.enter_context(change)
        try:
            forget()
            yield
        finally:
            forget()


def forget() -> None:
    """Places are kept as they were with something else switched off."""
    places.build.cache_clear()
    backdrop.probe.cache_clear()
    backdrop._kept.clear()


if __name__ == "__main__":
    main()
