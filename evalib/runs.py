"""The folder of a run: what training writes there, and how to read it again.

config.json, sessions.csv (when and where each began), metrics.csv (every logged row), pictures/ (a
few samples at each evaluation), tensorboard/, and checkpoints. The rows come from the checkpoint's
history, so that no number of resumes can repeat or lose one.
"""

import contextlib
import csv
import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from evalib import checkpoint


@dataclass
class Run:
    """What a session of training leaves: the best network, as `evalib.load(folder)` gives it, every
    logged row, whether the run is finished (`done`) or stopped for now (call `train` again to go
    on), and whether all it saved is on Drive, too (`on_drive`)."""

    folder: Path
    step: int
    model: nn.Module
    history: list[dict] = field(repr=False)
    done: bool
    on_drive: bool


def newest(*roots: Path, name: str = "*") -> Path:
    """The run folder called `name` (a pattern) that saved last, anywhere below the first of `roots`
    that has one.

    Raises: FileNotFoundError: there is none.
    """
    for root in roots:
        if files := list(Path(root).rglob(f"{name}/*-*.pt")):
            return max(files, key=lambda path: path.stat().st_mtime).parent
    raise FileNotFoundError(
        f"no run {name} in {', '.join(map(str, roots))}: run notebook 04, or evalib train"
    )


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
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows anew, columns in order of first appearance, empty where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    checkpoint.write_whole(path, text.getvalue().encode("utf-8"))


def write_json(path: Path, value: dict) -> None:
    checkpoint.write_whole(path, (json.dumps(value, indent=1) + "\n").encode("utf-8"))


def write_picture(
    run_dir: Path, step: int, batch: dict[str, Tensor], mask_pred: Tensor, depth_pred: Tensor
) -> None:
    """bg, fg_bg, mask, mask_pred, depth (if it is known), depth_pred of the first six samples, a
    row each, as PNG.

    Input: images (B, 3, H, W) and maps (B, 1, H, W) in 0..1.
    """
    known = [batch["depth"]] if "depth" in batch else []
    maps = [m.expand(-1, 3, -1, -1) for m in (batch["mask"], mask_pred, *known, depth_pred)]
    grid = torch.stack([batch["bg"], batch["fg_bg"], *maps], 1)[:6]  # (6, 6, 3, H, W)
    (run_dir / "pictures").mkdir(exist_ok=True)
    path = run_dir / "pictures" / f"step-{step:07d}.png"
    save_image(grid.flatten(0, 1).clamp(0, 1), path, nrow=grid.shape[1], pad_value=1)


@contextlib.contextmanager
def tolerant(run_dir: Path) -> Iterator[None]:
    """Warn of what cannot be written to a run's folder and go on: all of it can be made anew from a
    checkpoint, and there is Drive."""
    try:
        yield
    except OSError as error:
        text = f"{run_dir}: {error}. Training goes on; free some space."
        warnings.warn(text, stacklevel=3)


@contextlib.contextmanager
def tensorboard(run_dir: Path, history: list[dict]) -> Iterator:
    """A writer of events for `log_row`, None where the disk is full. They begin anew from the
    history, whatever a killed session left; `purge_step` tells a TensorBoard that is open."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, needed here only

    writer = None
    with tolerant(run_dir):
        for path in (run_dir / "tensorboard").glob("events*"):
            path.unlink()
        writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=0)
        for row in history:
            log_row(writer, row)
    try:
        yield writer
    finally:
        with contextlib.suppress(OSError):  # made anew at the next resume
            if writer:
                writer.close()


def log_row(writer, row: dict) -> None:
    """Add a row of the history to TensorBoard's events; a `writer` of None has no room for it."""
    for name, value in row.items():
        if writer and name != "step":
            writer.add_scalar(name, value, row["step"])
