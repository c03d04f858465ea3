"""A network to hand out: weights with facts and a model card, or an ONNX graph."""

import json
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from evalib import checkpoint, recipes, unet

DEFAULT = Path(__file__).parent / "weights" / "small.safetensors"
LIMIT = 2 * 2**20  # bytes; above, matrices are stored as float16
SECTIONS = ("data", "training", "scores", "limits")

CARD = """# {network}: what is new, and how far away

From two photographs of one fixed camera, the empty scene and the same scene with something new in
it: which pixels are new, and the depth of every pixel. {parameters:,} parameters, {dtype}.

```python
import evalib
from evalib.camera import Camera, load_photo

model = evalib.load("{network}.safetensors")  # {network}.json beside it
camera = Camera(model, load_photo("empty.jpg"))
mask_pred, depth_pred = camera(load_photo("now.jpg"))  # probability; distance / 10 m
```
"""


def load(path: Path | str | None = None) -> nn.Module:
    """A trained network: of a run folder (its best averaged weights), of one checkpoint file, of
    a .safetensors file with its .json, or, without a path, the one that comes with evalib.

    Raises: FileNotFoundError if there is none; ValueError if it is torn or foreign.
    """
    if path is None or Path(path).suffix == ".safetensors":
        return read(Path(path or DEFAULT))
    return _network(*_state(Path(path)))


def _state(path: Path) -> tuple[Path, dict]:
    found = None
    if path.is_dir():
        found = checkpoint.newest([path], kind="best") or checkpoint.newest([path])
    elif path.is_file():
        try:
            found = path, checkpoint.load(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if not found:
        raise FileNotFoundError(
            f"no checkpoint in {path}. Train first: python -m evalib train mid-1000 --run {path}"
        )
    return found


def _network(path: Path, state: dict) -> nn.Module:
    try:
        model = recipes.build(state["config"]["network"])
        if "ema" in state:
            model = AveragedModel(model, use_buffers=True)
            model.load_state_dict(state["ema"])
            return model.module.eval()
        model.load_state_dict(state["model"])
        return model.eval()
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is not a run of this evalib: {error}") from error


def export(run: Path | str, folder: Path | str, facts: dict[str, str] | None = None) -> list[Path]:
    """Write the network of a run to hand out: weights, facts and a model card (`write`).

    facts: what the run does not know, for its card: `data`, `scores`, `limits`.
    """
    path, state = _state(Path(run))
    model, config = _network(path, state), state["config"]
    stages = ", then ".join(
        f"{steps} at {' and '.join(map(str, dict.fromkeys(sizes)))} px"
        for sizes, steps in config["sizes"]
    )
    training = (
        f"Steps: {stages}, each of {config['batch_size']} samples of the smallest size, or of as "
        f"many larger ones as have the same area; seed {config['seed']}; "
        f"averaged weights of step {state['step']}."
    )
    return write(model, config["network"], folder, {"training": training} | (facts or {}))


def write(model: nn.Module, network: str, folder: Path | str, facts: dict[str, str]) -> list[Path]:
    """Write NETWORK.safetensors, NETWORK.json and README.md, the model card, to `folder`.

    Weights are float32 where that fits into 2 MiB; else matrices are float16, and the vectors, of
    BatchNorm most of them, stay float32.
    facts: Markdown for the card's `SECTIONS`, and for others by their name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # contiguous: safetensors refuses channels_last
    weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    half = sum(t.nbytes for t in weights.values()) > LIMIT
    if half:
        weights = {name: t.half() if t.ndim > 1 else t for name, t in weights.items()}
    n = sum(p.numel() for p in model.parameters())
    about = {"network": network, "parameters": n, "dtype": "float16" if half else "float32"}
    sections = dict.fromkeys(SECTIONS, "Not stated.") | facts
    card = CARD.format(**about) + "".join(f"\n## {k.title()}\n\n{v}\n" for k, v in sections.items())
    paths = [folder / f"{network}.safetensors", folder / f"{network}.json", folder / "README.md"]
    save_file(weights, paths[0])
    paths[1].write_text(json.dumps(facts | about, indent=1) + "\n")
    paths[2].write_text(card)
    return paths


def read(path: Path) -> nn.Module:
    """The network whose two files `write` made; float32, in evaluation mode.

    Raises: FileNotFoundError: one of them is missing; ValueError: damaged, or of another network.
    """
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            todo = (
                "train (notebook 04) and load the folder of that run, or weights.export it to here"
            )
            raise FileNotFoundError(f"no trained weights: {file} is missing; {todo}")
    try:
        weights, facts = load_file(path), json.loads(path.with_suffix(".json").read_text())
        model = recipes.build(str(facts["network"]))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        needed = (
            "needed a .safetensors and its .json as weights.export writes them: copy both again"
        )
        raise ValueError(f"cannot load {path} ({error}), {needed}") from error
    needed, got = ({n: (*t.shape,) for n, t in w.items()} for w in (model.state_dict(), weights))
    if wrong := sorted(n for n in needed | got if needed.get(n) != got.get(n)):
        first = f"{wrong[0]} is {got.get(wrong[0])}, needed {needed.get(wrong[0])}"
        text = f"{path} does not fit {facts['network']!r} of this evalib in {len(wrong)} tensors"
        raise ValueError(f"{text} ({first}): export it again with this version")
    model.load_state_dict(weights)
    return model.eval()


class _Maps(nn.Module):
    """A network as ONNX knows it: two tensors in, two tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, bg: Tensor, fg_bg: Tensor) -> tuple[Tensor, Tensor]:
        return unet.predict(self.model, bg, fg_bg)


def write_onnx(model: nn.Module, path: Path | str, *, size: tuple[int, int] = (224, 224)) -> None:
    """Write the network as ONNX (opset 18), for one pair at a time, of one size (height, width).

    Inputs `bg`, `fg_bg`, (1, 3, H, W) in 0..1; outputs `mask_pred`, `depth_pred`, (1, 1, H, W).
    Raises: ValueError: `path` is no .onnx; ImportError: onnx or onnxscript is missing.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"{path} is no name for an ONNX graph, needed NAME.onnx")
    # two tensors: of one alone, torch would make one input out of both
    images = torch.rand(1, 3, *size), torch.rand(1, 3, *size)
    names = {"input_names": ["bg", "fg_bg"], "output_names": ["mask_pred", "depth_pred"]}
    options = {"opset_version": 18, "dynamo": True, "verbose": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch.onnx.export(_Maps(model).eval(), images, **names, **options)
    except ImportError as error:
        todo = "pip install onnx onnxscript"
        raise ImportError(f"ONNX needs two packages more ({error}): {todo}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    graph.save(path, external_data=False)
