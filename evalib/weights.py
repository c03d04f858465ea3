"""Networks handed out: a .safetensors with weights and facts, its model card, an ONNX graph."""

import textwrap
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from evalib import checkpoint, recipes, unet

DEFAULT = Path(__file__).parent / "weights" / "small.safetensors"
SECTIONS = ("data", "training", "scores", "real photographs", "limits")

CARD = """# {network}: what is new, and how far away

From two photographs of one fixed camera, the empty scene and the same scene with something new in
it: which pixels are new, and the depth of every pixel. {parameters} parameters, float32.

```python
import evalib
from evalib.camera import Camera, load_photo

model = evalib.load("{network}.safetensors")
camera = Camera(model, load_photo("empty.jpg"))
mask_pred, depth_pred = camera(load_photo("now.jpg"))  # probability; distance / 10 m
```
"""


def load(path: Path | str | None = None, device: str | None = None) -> nn.Module:
    """A trained network, float32, in evaluation mode.

    path:   a run's folder (its best averaged weights), one of its checkpoints, or a .safetensors
            that `write` made; None: the one that comes with evalib.
    device: "cpu", "cuda", "cuda:1" ...; None: the GPU if there is one, else the CPU.
    Raises: FileNotFoundError: there is none; ValueError: it is torn or foreign, or no such device.
    """
    device = _device(device)
    path = Path(path or DEFAULT)
    model = _read(path) if path.suffix == ".safetensors" else _of_run(path)[0]
    return model.to(device)


def export(run: Path | str, folder: Path | str, facts: dict[str, str] | None = None) -> list[Path]:
    """Write the network of a run to hand out: weights, facts and a model card (`write`).

    facts: what the run does not know, for its card: `data`, `scores`, `limits`.
    """
    model, state = _of_run(Path(run))
    config = state["config"]
    stages = [f"{steps} at {' and '.join(map(str, sizes))} px" for sizes, steps in config["sizes"]]
    training = (
        f"Steps: {', then '.join(stages)}, each of {config['batch_size']} samples of the smallest "
        "size, or of as many larger ones as have the same area; "
        f"seed {config['seed']}; averaged weights of step {state['step']}."
    )
    return write(model, config["network"], folder, {"training": training} | (facts or {}))


def write(model: nn.Module, network: str, folder: Path | str, facts: dict[str, str]) -> list[Path]:
    """Write NETWORK.safetensors and README.md, the model card, to `folder`.

    facts: Markdown for the card's `SECTIONS`; kept as the file's metadata, too.
    """
    # contiguous: safetensors refuses channels_last
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    parameters = f"{sum(p.numel() for p in model.parameters()):,}"
    facts = facts | {"network": network, "parameters": parameters}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{network}.safetensors", metadata=facts)
    (folder / "README.md").write_text(card(facts), encoding="utf-8", newline="\n")
    return [folder / f"{network}.safetensors", folder / "README.md"]


def card(facts: dict[str, str]) -> str:
    """The model card, Markdown, of the facts in a file's metadata."""
    text = CARD.format(**facts)
    for section in SECTIONS:
        text += f"\n## {section.capitalize()}\n\n{facts.get(section, 'Not stated.')}\n"
    return text


def _read(path: Path) -> nn.Module:
    """The network of a file that `write` made."""
    if not path.is_file():
        raise FileNotFoundError(f"no trained weights: {path} is missing; train (notebook 04) first")
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _built(facts.get("network"), tensors)
    except (SafetensorError, OSError, ValueError) as error:
        needed = "needed a .safetensors that this evalib's weights.export wrote"
        raise ValueError(f"cannot load {path} ({error}): {needed}") from error


def _of_run(path: Path) -> tuple[nn.Module, dict]:
    """The best network of a run, or that of one checkpoint; and the checkpoint."""
    try:
        state = checkpoint.load(path) if path.is_file() else _best(path)
        tensors = dict(state.get("ema", state["model"]))
        return _built(state["config"]["network"], tensors), state
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot load {path} ({error}): needed a run of this evalib") from error


def _best(run: Path) -> dict:
    newest = checkpoint.newest([run])
    history = newest[1]["history"] if newest else None
    found = checkpoint.best([run], history) or newest
    if not found:
        todo = f"evalib train mid-1000 --run {run}"
        raise FileNotFoundError(f"no checkpoint in {run}. Train first: {todo}")
    return found[1]


def _built(network: str, tensors: dict[str, Tensor]) -> nn.Module:
    """The network of this name with these tensors. Raises: ValueError: it has others."""
    model = recipes.build(network)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:  # it lists every tensor that differs
        what = textwrap.shorten(str(error), 250)
        raise ValueError(f"it does not fit {network!r}: {what}") from error
    return model.eval()


def _device(name: str | None) -> torch.device:
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if name is None:
        name = "cuda" if gpus else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter of a torch without CUDA
        text = f"device {str(name)!r} is unknown or absent here"
        raise ValueError(f"{text}; choose one of {', '.join(['cpu', *gpus])}") from error


class _Maps(nn.Module):
    """A network as ONNX knows it: two tensors in, two tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, bg: Tensor, fg_bg: Tensor) -> tuple[Tensor, Tensor]:
        mask_pred, depth_pred = unet.predict(self.model, bg, fg_bg)
        return mask_pred.clamp(max=1), depth_pred.clamp(max=1)  # onnxruntime may say 1.0000001


def write_onnx(model: nn.Module, path: Path | str, *, size: tuple[int, int] = (224, 224)) -> None:
    """Write the network as ONNX (opset 18), for one pair at a time, of one size (height, width).

    Inputs `bg`, `fg_bg`, (1, 3, H, W) in 0..1; outputs `mask_pred`, `depth_pred`, (1, 1, H, W).
    Raises: ValueError: `path` is no .onnx; ImportError: onnx or onnxscript is missing.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"{path} is no name for an ONNX graph, needed NAME.onnx")
    device = next(model.parameters()).device
    # two tensors: of one alone, torch would make one input out of both
    images = tuple(torch.rand(1, 3, *size, device=device) for _ in range(2))
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
