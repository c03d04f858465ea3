"""The command line: the same functions as the notebooks, for people who prefer a shell."""

import argparse
import dataclasses
import os
import sys
import warnings
from pathlib import Path

from torch import nn

from evalib import (
    augment,
    config,
    dataset,
    manifest,
    metrics,
    recipes,
    runs,
    sources,
    timing,
    training,
    weights,
)
from evalib import camera as cameras
from evalib.sources import compose as composing
from evalib.training import ranks
from evalib.unet import predictor

OUTPUT = Path("output")
STORED = 20_000  # samples of a tier: larger ones are not stored, but rendered while training
N_VALID = 4000  # samples of photographs to be scored on while training
LARGE = 200  # pixels: archives of larger pictures are augmented one by one
RANK = int(os.environ.get("RANK", 0))  # among the processes of a launcher; 0 prints for all


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a mistake of the user is one sentence on stderr and exit status 2."""
    args = parser().parse_args(arguments)
    warnings.formatwarning = lambda message, *_, **__: f"evalib: {message}\n"
    try:
        args.command(args)
    except (ValueError, OSError, FloatingPointError, ImportError, MemoryError) as error:
        who = f"evalib, process {RANK}" if RANK else "evalib"
        print(f"{who}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # training handles its own; this is rendering, which goes on later
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="evalib", description=__doc__)
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    def add(command, help: str) -> argparse.ArgumentParser:
        p = commands.add_parser(command.__name__, help=help, description=help)
        p.set_defaults(command=command)
        return p

    p = add(build, "render or decode a tier into a pack")
    p.add_argument("tier")
    p.add_argument("--size", type=int, default=64, help="pixels (default 64)")
    _add_data(p)

    p = add(train, "train; run again with the same folders, it goes on; torchrun starts several")
    p.add_argument("tier")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--recipe", default="small", help=f"one of {', '.join(recipes.RECIPES)}")
    what.add_argument("--config", type=Path, help="config.json of a run, for all that follows")
    p.add_argument("--init", default="", help="begin with weights: shipped, a run, or a file")
    folder = "folder of the run, local (default: output/runs/TIER)"
    p.add_argument("--run-dir", "--run", type=Path, help=folder)  # torchrun has a --run of its own
    p.add_argument("--drive", type=Path, help="folder to copy checkpoints to and resume from")
    length = p.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=1000, help="optimizer steps (default 1000)")
    length.add_argument("--epochs", type=float, help="passes over the training samples")
    p.add_argument("--batch-size", type=int, default=64)
    sizes = "sizes that take turns (default: the recipe's, one after the other, or: 64 128)"
    p.add_argument("--sizes", type=int, nargs="+", metavar="PIXELS", help=sizes)
    p.add_argument("--seed", type=int, default=0)
    way = f"of augmenting (default: batch; for archives from {LARGE} px on albumentations, which "
    way += "is as fast there, and a tenth as fast at 64 px)"
    p.add_argument("--way", choices=augment.WAYS, help=way)
    p.add_argument(
        "--workers",
        type=int,
        default=0,
        help="threads that prepare batches ahead; of a large tier without --limit, which is "
        "rendered while it trains, processes that render (at least 1)",
    )
    reuse = "how often a sample is seen that is rendered while training (default 8)"
    p.add_argument("--reuse", type=int, default=8, help=reuse)
    p.add_argument("--checkpoint-every", default="10min", metavar="TIME")
    p.add_argument("--time-budget", metavar="TIME", help="save and stop after this; or: colab")
    p.add_argument("--take-over", action="store_true", help="although another session trains it")
    _add_data(p)

    p = add(evaluate, "score a trained network per subset, beside the baseline")
    p.add_argument("tier", nargs="?", default="evaluation", help="(default: evaluation)")
    p.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    p.add_argument("--out", type=Path, help="write the table here, too, as CSV")
    _add_network(p, "the last one that was trained")
    _add_data(p)

    p = add(predict, "mask, depth and cut-out of photographs, a video or a camera")
    cameras.add_arguments(p)
    _add_network(p, "the one that comes with evalib")

    p = add(compose, "paste cut-outs into empty scenes, and write them as a data set")
    p.add_argument("bg", type=Path, help="folder with pictures of empty scenes")
    p.add_argument("fg", type=Path, help="folder with cut-outs: PNG or WebP with transparency")
    p.add_argument("out", type=Path, help="folder for a zip a background")
    p.add_argument("--limit", type=int, help="so many samples of all, drawn by chance")
    p.add_argument("--size", type=int, default=224, help="pixels (default 224)")

    p = add(export, "write a network as an ONNX graph")
    p.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    p.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("HEIGHT", "WIDTH"))
    _add_network(p, "the one that comes with evalib")
    return root


def _add_data(p: argparse.ArgumentParser) -> None:
    p.add_argument("--limit", type=int, help="N samples of the tier only")
    p.add_argument("--packs", type=Path, default=OUTPUT / "packs")


def _add_network(p: argparse.ArgumentParser, default: str) -> None:
    which = p.add_mutually_exclusive_group()
    which.add_argument("--run", type=Path, help=f"folder of a run (default network: {default})")
    which.add_argument("--weights", type=Path, help="one checkpoint or .safetensors file")
    p.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")


def build(args: argparse.Namespace) -> None:
    pack = dataset.build(args.tier, args.size, limit=args.limit, root=args.packs)
    print(f"{len(pack)} samples of {pack.size} px in {pack.path}")


def train(args: argparse.Namespace) -> None:
    source = sources.open_source(manifest.find(args.tier), args.packs)
    tier = source.tier
    streamed = args.limit is None and tier.is_rendered and tier.n_samples > STORED
    if args.config and (args.init or args.way):
        raise ValueError("--init and --way are in the file that --config names: change them there")
    what = config.read(args.config) if args.config else _config(args, source, streamed)
    for time in filter(None, (args.checkpoint_every, args.time_budget)):
        timing.seconds(time)  # refused here, not after the data was rendered

    def build(tier: str, size: int, limit: int | None) -> dataset.Pack:
        return dataset.build(tier, size, limit=limit, root=args.packs)

    data = args.tier if streamed else {s: build(args.tier, s, args.limit) for s in what.all_sizes}
    largest = what.all_sizes[-1]
    if tier.source == "rooms":  # a tier is there for it, in which the subsets take turns
        n = what.n_valid * len(manifest.find("evaluation").subsets)
        valid = build("evaluation", largest, n)
    else:  # what is held out of itself
        valid = build(args.tier, largest, N_VALID) if streamed else data[largest]
    run = training.train(
        what,
        data,
        args.run_dir or OUTPUT / "runs" / args.tier,
        valid=valid,
        drive_dir=args.drive,
        workers=args.workers,
        checkpoint_every=args.checkpoint_every,
        time_budget=args.time_budget,
        take_over=args.take_over,
    )
    ranks.leave()
    if not RANK:
        print(f"{'finished' if run.done else 'stopped'} at step {run.step}: {run.folder}")


def _config(args: argparse.Namespace, source: sources.Source, streamed: bool) -> config.Config:
    steps = args.steps
    if args.epochs is not None:
        if streamed:
            raise ValueError(f"{args.tier} is rendered without end: give --steps, or a --limit")
        subsets = manifest.subset_of(source.index(args.limit))
        n_train = (subsets == manifest.SUBSETS.index("train")).sum()
        steps = round(args.epochs * max(1, n_train // args.batch_size))
    settings = {"sizes": (((64, 128), steps),)} | recipes.recipe(args.recipe, steps)
    if args.sizes:
        settings["sizes"] = ((tuple(args.sizes), steps),)
    if args.init:  # a quarter of the rate: what is known already should be changed, not lost
        settings |= {"init": args.init, "lr": settings.get("lr", config.Config.lr) / 4}
    if "depth" not in source.kinds:
        settings |= {"depth_loss": "", "phases": ()}
    what = config.Config(**settings, batch_size=args.batch_size, reuse=args.reuse, seed=args.seed)
    large = isinstance(source, sources.Archive) and what.all_sizes[-1] >= LARGE
    way = args.way or ("albumentations" if large else "batch")
    return dataclasses.replace(what, way=way)


def _model(args: argparse.Namespace, default: Path | None = None) -> nn.Module:
    """The network that was named, or `default`, or that of the last run; which one, is told."""
    path = args.run or args.weights or default or runs.newest(OUTPUT)
    print(f"network: {path}", file=sys.stderr)
    return weights.load(path, args.device)


def evaluate(args: argparse.Namespace) -> None:
    model = _model(args)
    pack = dataset.build(args.tier, args.size, limit=args.limit, root=args.packs)
    predictors = {"network": predictor(model)}
    if "bg_depth" in pack.kinds:
        predictors["network + bg_depth"] = cameras.predictor(model)
    table = metrics.by_subset(predictors, pack, device=next(model.parameters()).device)
    print(metrics.format_table(table))
    if args.out:
        runs.write_csv(args.out, table)


def predict(args: argparse.Namespace) -> None:
    cameras.predict(_model(args, weights.DEFAULT), args)


def compose(args: argparse.Namespace) -> None:
    photos = sources.Photos(args.bg, args.fg)
    paths = composing.compose(photos, args.out, limit=args.limit, size=args.size)
    print(f"{len(paths)} zips in {args.out}; train on it: a row of source folder in a manifest")


def export(args: argparse.Namespace) -> None:
    weights.write_onnx(_model(args, weights.DEFAULT), args.out, size=tuple(args.size))
    print(args.out)


if __name__ == "__main__":
    raise SystemExit(main())
