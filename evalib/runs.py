"""The folder of a run: what training writes there, and how to read it again.

config.json, sessions.csv (when and where each began), metrics.csv (every logged row), pictures/ (a
few samples at each evaluation), tensorboard/, and checkpoints. The rows come from the checkpoint's
history, so that no number of resumes can repeat or lose one.
"""

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.utils import save_image

from evalib import checkpoint, shipped, unet


@dataclass
class Run:
    """What a session of training leaves: the averaged network, every logged row, whether the run is
    finished (`done`) or stopped for now (call `train` again to go on), and whether all it saved is
    on Drive, too (`on_drive`)."""

    folder: Path
    step: int
    model: nn.Module
    history: list[dict] = field(repr=False)
    done: bool
    on_drive: bool


def load(path: Path | str | None = None) -> nn.Module:
    """A trained network: of a run folder (its best averaged weights), of one checkpoint file, of
    a .safetensors file with its .json, or, without a path, the one that comes with evalib.

    Raises: FileNotFoundError if there is none; ValueError if it is torn or foreign.
    """
    if path is None or Path(path).suffix == ".safetensors":
        return shipped.read(Path(path or shipped.DEFAULT))
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
        model = unet.build(state["config"]["network"])
        if "ema" in state:
            model = AveragedModel(model, use_buffers=True)
            model.load_state_dict(state["ema"])
            return model.module.eval()
        model.load_state_dict(state["model"])
        return model.eval()
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is not a run of this evalib: {error}") from error


def export(run: Path | str, folder: Path | str, facts: dict[str, str] | None = None) -> list[Path]:
    """Write the network of a run to hand out: weights, facts and a model card (`shipped.write`).

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
    return shipped.write(model, config["network"], folder, {"training": training} | (facts or {}))


def newest(*roots: Path, name: str = "*") -> Path:
    """The run folder called `name` (a pattern) that saved last, anywhere below the first of `roots`
    that has one.

    Raises: FileNotFoundError: there is none.
    """
    for root in roots:
        if files := list(Path(root).rglob(f"{name}/*-*.pt")):
            return max(files, key=lambda path: path.stat().st_mtime).parent
    places = ", ".join(map(str, roots))
    raise FileNotFoundError(f"no run {name} in {places}: run notebook 04, or evalib train")


def read_history(run_dir: Path | str) -> dict[str, np.ndarray]:
    """metrics.csv as columns; numbers as float, NaN where a row has none."""
    rows = _read_csv(Path(run_dir) / "metrics.csv")
    names = rows[0] if rows else ()
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def read_sessions(run_dir: Path | str) -> list[dict[str, str]]:
    """The sessions that brought the run here: first_step, began, machine of each."""
    return _read_csv(Path(run_dir) / "sessions.csv")


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: nothing was trained in {path.parent} yet")
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows anew, columns in order of first appearance, empty where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    temporary = path.with_name(f".tmp-{path.name}")  # a full disk leaves the last one whole
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def write_picture(
    run_dir: Path, step: int, batch: dict[str, Tensor], mask_pred: Tensor, depth_pred: Tensor
) -> None:
    """bg, fg_bg, mask, mask_pred, depth, depth_pred of the first six samples, a row each, as PNG.

    Input: images (B, 3, H, W) and maps (B, 1, H, W) in 0..1.
    """
    maps = [m.expand(-1, 3, -1, -1) for m in (batch["mask"], mask_pred, batch["depth"], depth_pred)]
    grid = torch.stack([batch["bg"], batch["fg_bg"], *maps], 1)[:6]  # (6, 6, 3, H, W)
    (run_dir / "pictures").mkdir(exist_ok=True)
    path = run_dir / "pictures" / f"step-{step:07d}.png"
    save_image(grid.flatten(0, 1).clamp(0, 1), path, nrow=grid.shape[1], pad_value=1)


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def tensorboard(run_dir: Path, history: list[dict]) -> Iterator:
    """A writer of events, which begin anew from the history: what a killed session left half
    written, or had not written yet, does not matter. `purge_step` tells a TensorBoard that is
    already open."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, needed here only

    folder = run_dir / "tensorboard"
    for path in folder.glob("events*"):
        path.unlink()
    writer = SummaryWriter(str(folder), purge_step=0)
    for row in history:
        log_row(writer, row)
    try:
        yield writer
    finally:
        with contextlib.suppress(OSError):  # the disk is full; it is made anew at the next resume
            writer.close()


def log_row(writer, row: dict) -> None:
    for name, value in row.items():
        if name != "step":
            writer.add_scalar(name, value, row["step"])
