"""The folder of a run: what training writes there, and how to read it again.

config.json, env.txt, metrics.csv (every logged row), pictures/ (a few samples at each evaluation),
tensorboard/, and checkpoints. The rows come from the checkpoint's history, so that no number of
resumes can repeat or lose one.
"""

import csv
import json
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.utils import save_image

from evalib import checkpoint, unet


@dataclass
class Run:
    """What a session of training leaves: the averaged network, every logged row, and whether
    the run is finished (`done`) or stopped for now (call `train` again to go on)."""

    folder: Path
    step: int
    model: nn.Module
    history: list[dict] = field(repr=False)
    done: bool


def load(path: Path | str) -> nn.Module:
    """The network of a run folder (its best averaged weights) or of one checkpoint file.

    Raises: FileNotFoundError if there is none; ValueError if it is torn or foreign.
    """
    path = Path(path)
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
    state = found[1]
    try:
        model = unet.build(state["config"]["network"])
        if "ema" in state:
            model = AveragedModel(model, use_buffers=True)
            model.load_state_dict(state["ema"])
            return model.module.eval()
        model.load_state_dict(state["model"])
        return model.eval()
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{found[0]} is not a run of this evalib: {error}") from error


def newest(*roots: Path, name: str = "*") -> Path:
    """The run folder called `name` (a pattern), anywhere below `roots`, that saved last.

    Raises: FileNotFoundError: there is none.
    """
    files = [path for root in roots for path in Path(root).rglob(f"{name}/*-*.pt")]
    if not files:
        places = ", ".join(map(str, roots))
        raise FileNotFoundError(f"no run {name} in {places}: run notebook 04, or evalib train")
    return max(files, key=lambda path: path.stat().st_mtime).parent


def read_history(run_dir: Path | str) -> dict[str, np.ndarray]:
    """metrics.csv as columns; numbers as float, NaN where a row has none."""
    path = Path(run_dir) / "metrics.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: nothing was trained in {path.parent} yet")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0] if rows else ()
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows anew, columns in order of first appearance, empty where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


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


class Uploads:
    """Copies checkpoints to Drive in a thread. An error there never ends training: the local
    file stays, and the next checkpoint is copied anew."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.pending = folder, []
        self.pool = ThreadPoolExecutor(1)

    def add(self, path: Path | None) -> None:
        self._report(wait=False)
        if self.folder and path:
            self.pending.append(self.pool.submit(self._copy, path))

    def finish(self) -> None:
        self.pool.shutdown(wait=True)
        self._report(wait=True)

    def _copy(self, path: Path) -> None:
        if path.exists():  # else a newer one has already replaced it, and is next in the queue
            checkpoint.copy(path, self.folder)

    def _report(self, wait: bool) -> None:
        finished: list[Future] = [f for f in self.pending if wait or f.done()]
        self.pending = [f for f in self.pending if f not in finished]
        for future in finished:
            if error := future.exception():
                warnings.warn(f"Drive: {error}. The local copy is kept.", stacklevel=3)


def tensorboard(run_dir: Path, step: int, history: list[dict]):
    """A writer that goes on at `step`: later events of a lost session are purged, and on a new
    machine the history is written again, so that no step is missing or there twice."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, needed here only

    folder = run_dir / "tensorboard"
    is_new = not any(folder.glob("events*"))
    writer = SummaryWriter(str(folder), purge_step=step + 1)
    for row in history if is_new else ():
        log_row(writer, row)
    return writer


def log_row(writer, row: dict) -> None:
    for name, value in row.items():
        if name != "step":
            writer.add_scalar(name, value, row["step"])
