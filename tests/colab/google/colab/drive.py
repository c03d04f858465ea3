"""`drive.mount` and `flush_and_unmount` as Colab has them, for a machine that has no Drive."""

import os
from pathlib import Path

_mounted: list[Path] = []


def mount(mountpoint: str, force_remount=False, timeout_ms=120_000, readonly=False) -> None:
    """Make `<mountpoint>/MyDrive` an empty folder, or a link to what COLAB_DRIVE names: a folder
    with what a person has on Drive. Like Colab's, it refuses a mountpoint that holds files."""
    root = Path(mountpoint)
    if (root / "MyDrive").is_dir():
        print(f"Drive already mounted at {mountpoint}")
        return
    if root.exists() and any(root.iterdir()):
        raise ValueError("Mountpoint must not already contain files")
    root.mkdir(parents=True, exist_ok=True)
    if os.environ.get("COLAB_DRIVE"):
        (root / "MyDrive").symlink_to(os.environ["COLAB_DRIVE"])
    else:
        (root / "MyDrive").mkdir()
    _mounted.append(root)
    print(f"Mounted at {mountpoint}")


def flush_and_unmount(timeout_ms=86_400_000) -> None:
    """Nothing to flush: what was written to the folder is there."""
    if not _mounted:
        print("Drive not mounted, so nothing to flush and unmount.")
    _mounted.clear()
