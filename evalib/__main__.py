"""The command line: the same functions as the notebooks, for people who prefer a shell."""

import argparse
import importlib.util
import itertools
import sys
import warnings
from pathlib import Path

from torch import nn

from evalib import camera as cameras
from evalib import (
    config,
    dataset,
    manifest,
    metrics,
    recipes,
    runs,
    timing,
    training,
    unet,
    weights,
)

OUTPUT = Path("output")
BENCHMARKS = Path(__file__).parents[1] / "tests" / "benchmarks"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a mistake of the user is one sentence on stderr and exit status 2."""
    args = parser().parse_args(arguments)
    try:
        args.command(args)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        print(f"evalib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # training handles its own; this is rendering, which goes on later
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m evalib", description=__doc__)
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    def add(name, function, help):
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(command=function)
        return command

    p = add("build", build, "render or decode a tier into a pack")
    p.add_argument("tier")
    p.add_argument("--size", type=int, default=64, help="pixels (default 64)")

    p = add("train", train, "train; run again with the same folders, it goes on")
    p.add_argument("tier")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--recipe", default="small", help=f"one of {', '.join(recipes.RECIPES)}")
    what.add_argument(
        "--config", type=Path, help="config.json of a run, for all that follows from it"
    )
    p.add_argument("--run", type=Path, required=True, help="folder of the run, on the local disk")
    p.add_argument("--drive", type=Path, help="folder to copy checkpoints to and resume from")
    length = p.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="optimizer steps (default 1000)")
    length.add_argument("--epochs", type=float, help="passes over the training samples")
    p.add_argument("--batch-size", type=int, default=64)
    p.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[64, 128],
        metavar="PIXELS",
        help="sizes that take turns (default: 64 128)",
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--workers", type=int, default=0, help="threads that prepare batches ahead")
    p.add_argument("--checkpoint-every", default="10min", metavar="TIME")
    p.add_argument("--time-budget", metavar="TIME", help="save and stop after this; or: colab")
    p.add_argument("--take-over", action="store_true", help="although another session trains it")

    p = add("evaluate", evaluate, "score a trained network per subset, beside the baseline")
    p.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    p.add_argument("--out", type=Path, help="write the table here, too, as CSV")

    p = add("predict", predict, "mask, depth and cut-out of photographs, a video or a camera")
    p.add_argument("bg", help="picture of the empty scene; or: first, for the first frame of INPUT")
    p.add_argument("input", help="a picture, a folder of them, a video, or a camera (0, rtsp://..)")
    p.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    p.add_argument(
        "--size",
        type=int,
        default=cameras.LONG_SIDE,
        help=f"pixels of the long side, in the network (default {cameras.LONG_SIDE})",
    )
    p.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth frame")
    p.add_argument("--overlay", type=Path, metavar="FILE.mp4", help="video, what is new tinted")
    known = p.add_mutually_exclusive_group()
    known.add_argument("--calibrate", type=_point, metavar="X,Y,METRES", help="distance of a pixel")
    known.add_argument(
        "--bg-depth", type=Path, metavar="PNG", help="the empty scene's depth: 16 bits, millimetres"
    )

    p = add("export", export, "write a network as an ONNX graph")
    p.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    p.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("HEIGHT", "WIDTH"))

    p = add("bench", bench, "measure something on this machine")
    p.add_argument("name", help="one of the files tests/benchmarks/bench_NAME.py, such as rooms")
    for name, command in commands.choices.items():
        if name in ("evaluate", "predict", "export"):
            default = "the last one" if name == "evaluate" else "evalib's own weights"
            which = command.add_mutually_exclusive_group()
            which.add_argument("--run", type=Path, help=f"folder of a run (default: {default})")
            which.add_argument("--weights", type=Path, help="one checkpoint or .safetensors file")
        if name in ("build", "train", "evaluate"):
            command.add_argument("--limit", type=int, help="first N samples of the tier only")
            command.add_argument("--packs", type=Path, default=OUTPUT / "packs")
    return root


def build(args: argparse.Namespace) -> None:
    pack = dataset.build(args.tier, args.size, limit=args.limit, root=args.packs)
    print(f"{len(pack)} samples of {pack.size} px in {pack.path}")


def train(args: argparse.Namespace) -> None:
    what, every_s = _config(args), timing.seconds(args.checkpoint_every)
    budget_s = args.time_budget and timing.seconds(args.time_budget)
    data = {
        size: dataset.build(args.tier, size, limit=args.limit, root=args.packs)
        for size in what.all_sizes
    }
    run = training.train(
        what,
        data,
        args.run,
        valid=dataset.build("evaluation", what.all_sizes[-1], root=args.packs),
        drive_dir=args.drive,
        workers=args.workers,
        checkpoint_every=every_s,
        time_budget=budget_s,
        take_over=args.take_over,
    )
    print(f"{'finished' if run.done else 'stopped'} at step {run.step}: {args.run}")


def _config(args: argparse.Namespace) -> config.Config:
    if args.config:
        return config.read(args.config)
    steps = 1000 if args.steps is None else args.steps
    if args.epochs is not None:
        subsets = manifest.subset_of(manifest.index_of(manifest.sample_ids(args.tier, args.limit)))
        steps = round(args.epochs * max(1, (subsets == 0).sum() // args.batch_size))
    return config.Config(
        **recipes.recipe(args.recipe),
        sizes=((tuple(args.sizes), steps),),
        batch_size=args.batch_size,
        seed=args.seed,
    )


def _point(text: str) -> tuple[int, int, float]:
    try:
        x, y, metres = text.split(",")
        return int(x), int(y), float(metres)
    except ValueError:
        needed = "needed X,Y,METRES such as 320,400,3.2: a pixel of bg and its distance"
        raise argparse.ArgumentTypeError(f"{text!r} came, {needed}") from None


def _model(args: argparse.Namespace, default: Path | None = None) -> nn.Module:
    """The network that was named, or `default`, or that of the last run; which one, is told."""
    path = args.run or args.weights
    if not path:
        path = default if default and default.is_file() else runs.newest(OUTPUT)
    print(f"network: {path}", file=sys.stderr)
    return weights.load(path)


def evaluate(args: argparse.Namespace) -> None:
    model = _model(args)
    pack = dataset.build("evaluation", args.size, limit=args.limit, root=args.packs)
    predictors = {
        "network": unet.predictor(model),
        "network + bg_depth": cameras.predictor(model),
    }
    table = metrics.by_subset(predictors, pack)
    print(metrics.format_table(table))
    if args.out:
        runs.write_csv(args.out, table)


def predict(args: argparse.Namespace) -> None:
    model = _model(args, weights.DEFAULT)
    frames, fps = cameras.read(args.input, every=args.every)
    first = next(frames)
    bg = first[1] if args.bg == "first" else cameras.load_photo(args.bg)
    camera = cameras.Camera(model, bg, long_side=args.size)
    if args.calibrate:
        print(f"depth is multiplied by {camera.calibrate(*args.calibrate):.3f}", file=sys.stderr)
    if args.bg_depth:
        camera.anchor(cameras.load_depth(args.bg_depth))
    with cameras.overlay(args.overlay, fps) as show:
        for name, img in itertools.chain([first], frames):
            try:
                maps = camera(img)
            except ValueError as error:  # of other proportions: which one?
                raise ValueError(f"{name or args.input}: {error}") from error
            show(img, maps[0])
            for path in cameras.write_prediction(args.out, *maps, img=img, name=name):
                print(path)


def export(args: argparse.Namespace) -> None:
    weights.write_onnx(_model(args, weights.DEFAULT), args.out, size=tuple(args.size))
    print(args.out)


def bench(args: argparse.Namespace) -> None:
    path = BENCHMARKS / f"bench_{args.name}.py"
    if not path.is_file():
        known = sorted(p.stem.removeprefix("bench_") for p in BENCHMARKS.glob("bench_*.py"))
        raise ValueError(f"no benchmark {args.name!r}; known here: {', '.join(known) or 'none'}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_, **__: f"evalib: {message}\n"
    raise SystemExit(main())
