"""Where a notebook runs (Colab, other Jupyter, a test), how much it should do there, and where
its files go. The same cells run in all three; only these functions know the difference.
"""

import contextlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from evalib import checkpoint, config, drive, runs, timing

CONTENT = Path(os.environ.get("EVALIB_CONTENT", "/content"))  # elsewhere only in tests
DRIVE = CONTENT / "drive" / "MyDrive" / "evalib"
PROJECT = Path(__file__).resolve().parents[1]  # or, where evalib is installed, site-packages


def on_colab() -> bool:
    """Colab's kernel has imported `google.colab` before the first cell; nothing else does."""
    return "google.colab" in sys.modules


def scale() -> str:
    """smoke (EVALIB_SMOKE=1: tests), gpu (there is one), else cpu: less, but it still learns."""
    if os.environ.get("EVALIB_SMOKE") == "1":
        return "smoke"
    return "gpu" if torch.cuda.is_available() else "cpu"


def choose(*, smoke: Any, cpu: Any, gpu: Any) -> Any:
    """The setting for this machine, from the three scales of the same notebook."""
    return {"smoke": smoke, "cpu": cpu, "gpu": gpu}[scale()]


def home() -> Path:
    """Folder for packs and runs of this scale alone: in /content/evalib-output, or in output/ of
    the project, or, where evalib is installed, in output/ of the current folder."""
    return _existing_folder() / ("evalib-output" if on_colab() else "output") / scale()


def _existing_folder() -> Path:
    """In which the folders of `home` are made: it is there before they are."""
    if on_colab():
        return CONTENT
    is_project = (PROJECT / "data_manifest.csv").is_file() and (PROJECT / "notebooks").is_dir()
    return PROJECT if is_project else Path.cwd()


def drive_dir() -> Path:
    """Folder that outlives the session: on Drive where it is mounted, else beside the packs."""
    return DRIVE / scale() if drive.mounted(DRIVE.parent) else home() / "drive"


def folders(run: str) -> tuple[Path, Path]:
    """The folder of a run on the local disk, and the one that its checkpoints are copied to."""
    return home() / "runs" / run, drive_dir() / run


def affordable(
    name: str, rate: Callable[[], float], minutes: float, *, least: int, most: int, times: int = 1
) -> int:
    """How many of `name` (steps, samples) this machine can do in `minutes`, `times` over: what
    `timing.n_within` makes of `rate()`, a second. The number is told and `planned`. At the size
    smoke it is `most`, and nothing is measured."""
    if scale() == "smoke":
        return most

    def plan() -> dict:
        per_s = rate()
        n = timing.n_within(per_s / times, minutes, least=least, most=most)
        return {"n": n, "per_s": per_s, "measured": timing.utc_now()}

    kept = planned(f"{name}, {most} in {minutes:g} min", plan)
    n = f"{kept['n']:,}" if times == 1 else f"{times} x {kept['n']:,}"
    takes = timing.text(times * kept["n"] / kept["per_s"])
    speed = f"{kept['per_s']:.3g} a second, measured {kept['measured']}"
    print(f"{name}: {speed}; {n} take about {takes}.")
    return kept["n"]


def planned(name: str, make: Callable[[], dict]) -> dict:
    """What `make()` gave when it was first asked, in this or an earlier session: kept in plans/ on
    Drive, whose word counts, and at home, so that a notebook that is resumed does not change.

    Warns: a file is torn or foreign, and not used; or cannot be written.
    Raises: OSError: Drive does not answer, so it is not known what was planned.
    """
    paths = [folder / "plans" / f"{name}.json" for folder in (drive_dir(), home())]
    found = [_read_plan(path, name) for path in paths]
    plan = found[0] or found[1] or {"plan": name} | make()
    for path, there in zip(paths, found, strict=True):
        if there != plan:
            with runs.tolerant(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                runs.write_json(path, plan)
    return plan


def _read_plan(path: Path, name: str) -> dict | None:
    text = checkpoint.retried(lambda: path.read_bytes() if path.is_file() else None)
    if text is None:
        return None
    with contextlib.suppress(TypeError, ValueError, KeyError):
        plan = json.loads(text)
        if plan["plan"] == name:
            return plan
    warnings.warn(f"{path} is no plan of {name}: it is not used", stacklevel=4)
    return None


def setup() -> None:
    """Print what this machine has and how large the notebook will be here."""
    ram = psutil.virtual_memory().total / 2**30
    free = shutil.disk_usage(_existing_folder()).free / 2**30
    mounted = "mounted" if drive.mounted(DRIVE.parent) else "none"
    advice = " Runtime > Change runtime type > T4 GPU for the full size." if on_colab() else ""
    print(timing.machine())
    print(
        f"RAM: {ram:.0f} GiB; disk: {free:.0f} GiB free; cores to use: {config.cores()}; "
        f"Drive: {mounted}"
    )
    print(
        choose(
            smoke="Size: smoke, a test of the code path; nothing is learned.",
            cpu="Size: cpu. Without a GPU everything is smaller, and still learns." + advice,
            gpu="Size: gpu, the full series.",
        )
    )
