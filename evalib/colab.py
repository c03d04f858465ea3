"""Where a notebook runs (Colab, other Jupyter, a test), how much it should do there, and where
its files go. The same cells run in all three; only these functions know the difference.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from evalib import timing

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
    return DRIVE / scale() if DRIVE.parent.is_dir() else home() / "drive"


def folders(run: str) -> tuple[Path, Path]:
    """The folder of a run on the local disk, and the one that its checkpoints are copied to."""
    return home() / "runs" / run, drive_dir() / run


def setup() -> None:
    """Print what this machine has and how large the notebook will be here."""
    ram = psutil.virtual_memory().total / 2**30
    free = shutil.disk_usage(_existing_folder()).free / 2**30
    mounted = "mounted" if DRIVE.parent.is_dir() else "none"
    advice = " Runtime > Change runtime type > T4 GPU for the full size." if on_colab() else ""
    print(timing.machine())
    print(f"RAM: {ram:.0f} GiB; disk: {free:.0f} GiB free; Drive: {mounted}")
    print(
        choose(
            smoke="Size: smoke, a test of the code path; nothing is learned.",
            cpu="Size: cpu. Without a GPU everything is smaller, and still learns." + advice,
            gpu="Size: gpu, the full series.",
        )
    )
