"""Checkpoints whose name proves their content.

A file is written under a temporary name in its own folder, flushed to the disk and only then
renamed to `step-0000012345-<session>-<sha256 start>.pt`, a name that is never used twice. A file
whose bytes do not match its name is not a checkpoint, whatever happened to it, so a session that
died while writing cannot fool the next one. Older files are removed after the new one stands.
"""

import contextlib
import hashlib
import io
import os
import re
import uuid
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

FORMAT = 1  # raised when older code could no longer read what we write
SESSION = uuid.uuid4().hex[:8]  # one life of a process; keeps two machines' names apart
NAME = re.compile(r"(?P<kind>step|best)-(?P<step>\d{10})-[0-9a-f]{8}-(?P<sha>[0-9a-f]{16})\.pt")


def save(folder: Path, state: dict, *, kind: str = "step", keep: int = 2) -> Path:
    """Write `state` to `folder` so that a kill at any moment leaves the older files whole.

    Input:
        state: tensors and plain Python values, with an integer `step`.
        kind:  "step" for resuming, "best" for the best weights so far.
        keep:  how many files of this kind stay; 1 would leave nothing to fall back on.
    Returns: the path of the new file.
    Raises:
        ValueError: `keep` < 2 for "step".
        OSError:    the disk is full or gone; the older checkpoints are untouched.
    """
    if kind == "step" and keep < 2:
        raise ValueError(f"keep={keep}: at least 2 checkpoints are kept, so that one can be torn")
    buffer = io.BytesIO()
    torch.save({**state, "format": FORMAT}, buffer)
    data = buffer.getvalue()
    sha = hashlib.sha256(data).hexdigest()[:16]
    path = Path(folder) / f"{kind}-{state['step']:010d}-{SESSION}-{sha}.pt"
    _write(path, data)
    prune(path, keep=keep)
    return path


def newest(folders: Iterable[Path], *, kind: str = "step") -> tuple[Path, dict] | None:
    """Load the newest checkpoint of `folders` whose bytes match its name; None if there is none.

    Whatever had to be passed over (torn, foreign, from newer code) is named in a warning.
    Raises: OSError: a folder does not answer (Drive went offline); mount it again.
    Only tensors and plain values are read (`weights_only=True`): a checkpoint is input, not code.
    """
    for path in _candidates(folders, kind):
        try:
            return path, load(path)
        except (OSError, ValueError) as error:
            warnings.warn(f"Passed over {path}: {error}. Trying the one before.", stacklevel=2)
    return None


def load(path: Path) -> dict:
    """Read one checkpoint and check it against its name.

    Raises:
        ValueError: the bytes do not match the name, or newer code wrote it.
        OSError:    the file cannot be read.
    """
    data = Path(path).read_bytes()
    name = NAME.fullmatch(Path(path).name)
    if name and hashlib.sha256(data).hexdigest()[:16] != name["sha"]:
        raise ValueError(f"its {len(data)} bytes do not match its name: half written or changed")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; all mean "not a checkpoint of ours"
        raise ValueError(f"not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError("it holds no `model`; it was not written by evalib")
    if state.get("format", 0) > FORMAT:
        raise ValueError(f"format {state['format']} is newer than this evalib reads ({FORMAT})")
    return state


def copy(path: Path, folder: Path, *, keep: int = 2) -> Path:
    """Copy a finished checkpoint to `folder` (Drive), read it back, and only then prune there.

    Raises: OSError if Drive fails or returns other bytes; the local file is untouched.
    """
    name = NAME.fullmatch(path.name)
    if not name:
        raise ValueError(f"{path.name} is not a checkpoint's name; only checkpoints are copied")
    target = Path(folder) / path.name
    data = path.read_bytes()
    _write(target, data)
    if target.read_bytes() != data:
        raise OSError(f"{target} read back differently from what was written")
    prune(target, keep=keep if name["kind"] == "step" else 1, truncate=True)
    return target


def prune(path: Path, *, keep: int, truncate: bool = False) -> None:
    """Remove what is older than `path`, a file known to be sound, but for the `keep` - 1 newest.

    What claims to be newer is left alone: it may be torn, so it must not push sound files out.
    """
    with contextlib.suppress(OSError):  # an untidy folder is no reason to stop
        files = _candidates([path.parent], NAME.fullmatch(path.name)["kind"])
        for old in files[files.index(path) + keep :]:
            _remove(old, truncate=truncate)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{SESSION}-{path.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        need = len(data) / 2**20
        raise OSError(
            error.errno, f"could not write {need:.1f} MiB to {path.parent}: {error.strerror}"
        ) from error


def _candidates(folders: Iterable[Path], kind: str) -> list[Path]:
    """All files with a checkpoint's name, newest step first; `name (1).pt` does not match.

    Raises: OSError: a folder does not answer. That is not "empty": a run must not begin anew.
    """
    found = []
    for folder in map(Path, folders):
        for path in folder.iterdir() if folder.exists() else ():
            name = NAME.fullmatch(path.name)
            if name and name["kind"] == kind:
                found.append((int(name["step"]), path.stat().st_mtime, path))
    return [path for *_, path in sorted(found, key=lambda item: item[:2], reverse=True)]


def _remove(path: Path, *, truncate: bool = False) -> None:
    """Delete; on Drive empty the file first, because what lies in its Trash still costs quota."""
    with contextlib.suppress(OSError):
        if truncate:
            path.write_bytes(b"")
        path.unlink()
