"""Checkpoints whose name proves their content.

A file is written under a temporary name in its own folder, flushed to the disk and only then
renamed to `step-0000012345-<session>-<sha256 start>.pt`, a name that is never used twice. A file
whose bytes do not match its name is not a checkpoint, whatever happened to it, so a session that
died while writing cannot fool the next one. Older files are removed after the new one stands.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch

FORMAT = 1  # raised when older code could no longer read what we write
SESSION = uuid.uuid4().hex[:8]  # one life of a process; keeps two machines' names apart
NAME = re.compile(r"(?P<kind>step|best)-(?P<step>\d{10})-[0-9a-f]{8}-(?P<sha>[0-9a-f]{16})\.pt")
KEEP = {"step": 2, "best": 1}  # a torn newest file must have one to fall back on
SETTLE_S = 1800.0  # Drive has been seen half an hour behind what it showed to the machine
RETRY_S = (1.0, 3.0, 10.0)  # pauses before reading again from a Drive that did not answer

T = TypeVar("T")


class NewerFormat(ValueError):
    """Sound, but of a later evalib: to go on from an older file would throw its progress away."""


def save(folder: Path, state: dict, *, kind: str = "step", keep: int | None = None) -> Path:
    """Write `state` to `folder` so that a kill at any moment leaves the older files whole.

    Input:
        state: tensors and plain Python values, with an integer `step`.
        kind:  "step" for resuming, "best" for the best weights so far.
        keep:  how many files of this kind stay (2 and 1).
    Returns: the path of the new file.
    Raises:
        ValueError: `keep` < 2 for "step".
        OSError:    the disk is full or gone; the older checkpoints are untouched.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    return write(folder, *serialise(state, kind), keep=keep)


def serialise(state: dict, kind: str = "step") -> tuple[str, bytes]:
    """The name and the bytes of a checkpoint; `write` takes them to any number of folders."""
    buffer = io.BytesIO()
    torch.save({**state, "format": FORMAT}, buffer)
    data = buffer.getvalue()
    return f"{kind}-{state['step']:010d}-{SESSION}-{_sha(data)}.pt", data


def write(
    folder: Path, name: str, data: bytes, *, keep: int | None = None, settle_s: float = 0.0
) -> Path:
    """Bring a serialised checkpoint to `folder`, read it back, and only then prune there.

    A file that is there already, whole, is left alone. The folder is not created: where Drive was
    unmounted, it would be one on the local disk.
    settle_s: how long files must have stood before older ones are removed for them (on Drive).
    Raises: OSError: no room, or the folder does not answer, or it gives back other bytes.
    """
    kind = NAME.fullmatch(name)["kind"]
    keep = KEEP[kind] if keep is None else keep
    if keep < KEEP[kind]:
        raise ValueError(f"keep={keep}: at least 2 checkpoints are kept, so that one can be torn")
    path = Path(folder) / name
    try:
        if not _sound(path):
            _write(path, data)
            if path.read_bytes() != data:
                raise OSError(errno.EIO, "it reads back differently from what was written")
    except OSError as error:
        need, why = len(data) / 2**20, error.strerror or error
        text = f"could not write a checkpoint of {need:.1f} MiB to {folder}: {why}"
        raise OSError(error.errno, text) from error
    prune(path, keep=keep, settle_s=settle_s)
    return path


def newest(folders: Iterable[Path], *, kind: str = "step") -> tuple[Path, dict] | None:
    """Load the newest checkpoint of `folders` whose bytes match its name; None if there is none.

    Whatever had to be passed over (torn, foreign, from newer code) is named in a warning.
    Raises:
        NewerFormat: the newest was written by a later evalib.
        OSError:     a folder does not answer, or none of its checkpoints can be read: Drive went
                     offline. That is not "empty", and no reason to begin anew.
    Only tensors and plain values are read (`weights_only=True`): a checkpoint is input, not code.
    """
    unread = None
    for path in retried(lambda: _candidates(folders, kind)):
        try:
            return path, retried(lambda path=path: load(path))
        except NewerFormat as error:
            raise NewerFormat(f"{path}: {error}") from error
        except (OSError, ValueError) as error:
            unread = error if isinstance(error, OSError) else unread
            warnings.warn(f"Passed over {path}: {error}. Trying the one before.", stacklevel=2)
    if unread:
        raise unread
    return None


def load(path: Path) -> dict:
    """Read one checkpoint and check it against its name.

    Raises:
        ValueError: the bytes do not match the name, or newer code wrote it (NewerFormat).
        OSError:    the file cannot be read.
    """
    data = Path(path).read_bytes()
    name = NAME.fullmatch(Path(path).name)
    if name and _sha(data) != name["sha"]:
        raise ValueError(f"its {len(data)} bytes do not match its name: half written or changed")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; all mean "not a checkpoint of ours"
        raise ValueError(f"not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError("it holds no `model`; it was not written by evalib")
    if not isinstance(state.get("format", 0), int):
        raise ValueError(f"its format {state['format']!r:.20} is no number; not written by evalib")
    if state.get("format", 0) > FORMAT:
        raise NewerFormat(
            f"format {state['format']} is newer than this evalib reads ({FORMAT}); update evalib"
        )
    return state


def prune(path: Path, *, keep: int, settle_s: float = 0.0) -> None:
    """Remove what is older than `path`, a file known to be sound, but for the `keep` - 1 newest.

    What claims to be newer is left alone: it may be torn. Torn files push no sound ones out, nor do
    files that have stood for less than `settle_s`: Drive may show them to this machine and not have
    them yet. Emptied before they are deleted: what lies in Drive's Trash costs quota.
    """
    with contextlib.suppress(OSError):  # an untidy folder is no reason to stop
        now = time.time()
        files = _candidates([path.parent], NAME.fullmatch(path.name)["kind"])
        start = files.index(path) if path in files else len(files)  # a listing may be stale
        standing = 0
        for file in files[start:]:
            if standing >= keep:
                file.write_bytes(b"")
                file.unlink()
            elif not settle_s or now - file.stat().st_mtime > settle_s:
                standing += _sound(file)
        for file in path.parent.glob(".tmp-*"):  # of a session that was killed while writing
            if SESSION not in file.name and now - file.stat().st_mtime > SETTLE_S:
                file.unlink()


def retried(action: Callable[[], T]) -> T:
    """The result of `action`, tried again after each pause of RETRY_S if it raises OSError."""
    for pause in RETRY_S:
        try:
            return action()
        except OSError:
            time.sleep(pause)
    return action()


def _write(path: Path, data: bytes) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < len(data):
        raise OSError(errno.ENOSPC, f"only {free / 2**20:.1f} MiB are free; make room there")
    temporary = path.with_name(f".tmp-{SESSION}-{path.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # not every file system lets a folder be flushed
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _candidates(folders: Iterable[Path], kind: str) -> list[Path]:
    """All files with a checkpoint's name, newest step first; `name (1).pt` does not match.

    Raises: OSError: a folder does not answer. That is not "empty": a run must not begin anew.
    """
    found = []
    for folder in map(Path, folders):
        try:
            paths = list(folder.iterdir())
        except FileNotFoundError:  # the one error that does mean "empty"
            continue
        for path in paths:
            name = NAME.fullmatch(path.name)
            if name and name["kind"] == kind:
                found.append((int(name["step"]), path))
    return [path for _, path in sorted(found, key=lambda item: item[0], reverse=True)]


def _sound(path: Path) -> bool:
    """Whether a file with a checkpoint's name is there and holds what its name says."""
    with contextlib.suppress(OSError):
        return _sha(path.read_bytes()) == NAME.fullmatch(path.name)["sha"]
    return False


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
