"""`drive.mount` and `flush_and_unmount` as Colab has them, for a machine that has no Drive."""

from pathlib import Path

_mounted: list[Path] = []


def mount(mountpoint: str, force_remount=False, timeout_ms=120_000, readonly=False) -> None:
    """Make `<mountpoint>/MyDrive` a plain folder. Like Colab's, it refuses a folder with files."""
    root = Path(mountpoint)
    if (root / "MyDrive").is_dir():
        print(f"Drive already mounted at {mountpoint}")
        return
    if root.exists() and any(root.iterdir()):
        raise ValueError("Mountpoint must not already contain files")
    (root / "MyDrive").mkdir(parents=True)
    _mounted.append(root)
    print(f"Mounted at {mountpoint}")


def flush_and_unmount(timeout_ms=86_400_000) -> None:
    """Nothing to flush: what was written to the folder is there."""
    if not _mounted:
        print("Drive not mounted, so nothing to flush and unmount.")
    _mounted.clear()
