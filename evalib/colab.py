"""Where a notebook runs (Colab, other Jupyter, a test), how much it should do there, and where
its files go. The same cells run in all three; only these functions know the difference.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import TypeVar

import torch

from evalib import timing

T = TypeVar("T")
CONTENT = Path(os.environ.get("EVALIB_CONTENT", "/content"))  # elsewhere only in tests
DRIVE = CONTENT / "drive" / "MyDrive" / "evalib"


def on_colab() -> bool:
    """Colab's kernel has imported `google.colab` before the first cell; nothing else does."""
    return "google.colab" in sys.modules


def size() -> str:
    """smoke (EVALIB_SMOKE=1: tests), gpu (there is one), else cpu: less, but it still learns."""
    if os.environ.get("EVALIB_SMOKE") == "1":
        return "smoke"
    return "gpu" if torch.cuda.is_available() else "cpu"


def choose(*, smoke: T, cpu: T, gpu: T) -> T:
    """The setting for this machine, from the three sizes of the same notebook."""
    return {"smoke": smoke, "cpu": cpu, "gpu": gpu}[size()]


def home() -> Path:
    """Folder for packs and runs of this size: /content/evalib-output, or output/ of the project.

    Sizes do not share folders, so that a test never goes on from a real run.
    """
    root = CONTENT / "evalib-output" if on_colab() else Path(__file__).parents[1] / "output"
    return root / size()


def drive() -> Path:
    """Folder that outlives the session: on Drive where it is mounted, else beside the packs."""
    return DRIVE / size() if DRIVE.parent.is_dir() else home() / "drive"


def folders(run: str) -> tuple[Path, Path]:
    """The folder of a run on the local disk, and the one that its checkpoints are copied to."""
    return home() / "runs" / run, drive() / run


def setup() -> None:
    """Print what this machine has and how large the notebook will be here."""
    free = shutil.disk_usage(home().parents[1]).free / 2**30
    print(timing.machine())
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    mounted = "mounted" if DRIVE.parent.is_dir() else "none"
    print(f"RAM: {ram:.0f} GiB; disk: {free:.0f} GiB free; Drive: {mounted}")
    print(
        {
            "gpu": "Size: gpu, the full series.",
            "smoke": "Size: smoke, a test of the code path; nothing is learned.",
            "cpu": "Size: cpu. Without a GPU everything is smaller, and still learns."
            + (" Runtime > Change runtime type > T4 GPU for the full size." if on_colab() else ""),
        }[size()]
    )
