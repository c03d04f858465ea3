"""Milliseconds a frame on one core: PyTorch, onnxruntime and int8, the background known or not.

    pip install onnx onnxscript onnxruntime
    python tests/benchmarks/bench_inference.py

CPU time, the median of a frame, all ways in turn in one run: neighbours slow all of them. A way is
of use only if it keeps the mask, so each is scored on 200 samples of `evaluation`, too; int8 is
calibrated on 24 training samples.
"""

import argparse
import functools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one

import evalib
from evalib import dataset, layers, metrics, timing, unet, weights

Maps = tuple[Tensor, Tensor]
Way = Callable[[Tensor], Callable[[Tensor], Maps]]  # bg -> frame -> maps

SIZES = (64, 128, 224, 448)  # px
GOAL_PX = 224
N_SCORED = 200
N_FRAMES = 40


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--frames", type=int, default=N_FRAMES)
    parser.add_argument("--scored", type=int, default=N_SCORED, help="samples; 0: none")
    parser.add_argument("--packs", type=Path, default=Path("output/packs"))
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # of the exporter
    torch.set_num_threads(1)
    print(timing.machine(), timing.utc_now()[:10], sep="; ")
    with tempfile.TemporaryDirectory() as folder:
        ways = all_ways(evalib.load(device="cpu"), Path(folder), args.packs)
        rows = {name: {"way": name} for name in ways}
        for size in args.sizes:
            bg, frame = torch.rand(2, 1, 3, size, size)
            calls = {name: functools.partial(way(bg), frame) for name, way in ways.items()}
            for name, ms in medians(calls, args.frames).items():
                rows[name][f"{size} px, ms"] = f"{ms:.2f}"
                if size == GOAL_PX:
                    rows[name]["frames/s"] = round(1000 / ms)
        if args.scored:
            options = {"limit": args.scored, "root": args.packs, "progress": False}
            pack = dataset.build("evaluation", GOAL_PX, **options)
            for name, way in ways.items():
                found = metrics.score(one_by_one(way), pack, np.arange(len(pack)))
                rows[name] |= {"iou": found["iou"], "depth_rmse": found["depth_rmse"]}
    lines = list(rows.values())
    print(f"frames/s at {GOAL_PX} px; scores of {args.scored} samples there")
    print(metrics.format_table(lines, lines[0]))


def all_ways(model: nn.Module, folder: Path, packs: Path) -> dict[str, Way]:
    """Each way looks at the empty scene once and is then called with frames of its size."""
    ways = {
        "PyTorch": functools.partial(torch_way, model, keep=False),
        "PyTorch, background kept": functools.partial(torch_way, model),
        "the same, BatchNorm folded": functools.partial(torch_way, layers.folded(model)),
    }
    if getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16"):
        ways["the same, bf16"] = functools.partial(bf16_way, layers.folded(model))
    graphs = {"": False, ", background kept": True}
    for name, keep in graphs.items():
        ways[f"onnxruntime{name}"] = functools.partial(onnx_way, model, folder, keep=keep)
    calibration = dataset.build("playground-24", GOAL_PX, root=packs, progress=False)
    ways["onnxruntime, int8"] = functools.partial(onnx_way, model, folder, pack=calibration)
    return ways


def torch_way(model: nn.Module, bg: Tensor, *, keep: bool = True) -> Callable[[Tensor], Maps]:
    kept = unet.encode(model, bg) if keep else None
    return lambda frame: unet.predict(model, bg, frame, kept)


def bf16_way(model: nn.Module, bg: Tensor) -> Callable[[Tensor], Maps]:
    with torch.autocast("cpu", torch.bfloat16):
        look = torch_way(model, bg)

    def autocast(frame: Tensor) -> Maps:
        with torch.autocast("cpu", torch.bfloat16):
            return look(frame)

    return autocast


def onnx_way(
    model: nn.Module,
    folder: Path,
    bg: Tensor,
    *,
    keep: bool = False,
    pack: dataset.Pack | None = None,
) -> Callable[[Tensor], Maps]:
    """keep: the background's features are inputs; pack: int8, calibrated with all of it."""
    size = bg.shape[-1]
    path = folder / f"{size}-{'kept' if keep else 'int8' if pack else 'plain'}.onnx"
    known = {"bg": bg}
    if keep:
        known |= flat(unet.encode(model, bg))
    if not path.exists():
        if keep:
            write_kept(model, path, known)
        else:
            weights.write_onnx(model, path, size=(size, size))
        if pack:
            quantize(path, pack, size)
    session = open_graph(path)
    names = {value.name for value in session.get_inputs()}  # what is unused is left out
    fixed = {name: x.contiguous().numpy() for name, x in known.items() if name in names}

    def look(frame: Tensor) -> Maps:
        maps = session.run(None, fixed | {"fg_bg": frame.numpy()})
        return tuple(torch.from_numpy(x).clamp(0, 1) for x in maps)  # 1 may be 1.0000001

    return look


@functools.lru_cache(maxsize=16)
def open_graph(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def flat(kept: dict[str, Tensor | list[Tensor]]) -> dict[str, Tensor]:
    """`unet.encode`'s features with a name for each."""
    named = {"small": kept["small"]}
    for part in ("coarse", "fine"):
        named |= {f"{part}_{i}": x for i, x in enumerate(kept.get(part, []))}
    return named


class Kept(nn.Module):
    """The network with the background's features as inputs, as ONNX knows it."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, bg: Tensor, fg_bg: Tensor, *features: Tensor) -> Maps:
        named = dict(zip(self.names, features, strict=True))
        kept = {"small": named.pop("small")}
        for name, x in named.items():
            kept.setdefault(name.partition("_")[0], []).append(x)
        return unet.predict(self.model, bg, fg_bg, kept)


def write_kept(model: nn.Module, path: Path, known: dict[str, Tensor]) -> None:
    bg, *features = known.values()
    names = [name for name in known if name != "bg"]
    graph = torch.onnx.export(
        Kept(model, names).eval(),
        (bg, torch.rand_like(bg), *features),
        input_names=["bg", "fg_bg", *names],
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    graph.save(path, external_data=False)


def quantize(path: Path, pack: dataset.Pack, size: int) -> None:
    """Convolutions in 8 bits, a scale for each channel."""
    plain = path.with_suffix(".plain.onnx")
    quant_pre_process(path, plain, skip_symbolic_shape=True)

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(range(len(pack)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            if row is None:
                return None
            batch = pack.batch(np.array([row]))
            shots = {name: batch[name] for name in ("bg", "fg_bg")}
            enlarge = functools.partial(nn.functional.interpolate, size=(size, size))
            return {name: enlarge(x).numpy() for name, x in shots.items()}

    options = {"quant_format": QuantFormat.QDQ, "per_channel": True}
    quantize_static(plain, path, Samples(), op_types_to_quantize=["Conv"], **options)


def one_by_one(way: Way) -> metrics.Predictor:
    def predictor(batch: dict[str, Tensor]) -> Maps:
        pairs = zip(batch["bg"].split(1), batch["fg_bg"].split(1), strict=True)
        found = [way(bg)(frame) for bg, frame in pairs]
        return tuple(torch.cat(maps) for maps in zip(*found, strict=True))

    return predictor


def medians(calls: dict[str, Callable[[], object]], n: int) -> dict[str, float]:
    """Milliseconds of CPU time of each call, in turn."""
    spent = {name: [] for name in calls}
    for call in calls.values():
        call()  # not counted: the first one allocates
    for _ in range(n):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            spent[name].append(time.process_time() - begin)
    return {name: 1000 * float(np.median(seconds)) for name, seconds in spent.items()}


if __name__ == "__main__":
    main()
