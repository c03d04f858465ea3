"""Checkpoints whose name proves their content: `write` them, read the `newest` or the `best`.

A file is written under a temporary name, flushed to the disk and then renamed to
`step-0000012345-<session>-<sha256 start>.pt`, a name that is never used twice. A file whose bytes
do not match its name is no checkpoint. Older files are removed after the new one stands.
"""

import contextlib
import hashlib
import io
import math
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

SESSION = uuid.uuid4().hex[:8]  # one life of a process; keeps two machines' names apart
NAME = re.compile(r"(?P<kind>step|best)-(?P<step>\d{10})-[0-9a-f]{8}-(?P<sha>[0-9a-f]{16})\.pt")
NO_MEMORY = re.compile("(out of|allocate|enough) memory|CUDA error|CU[A-Z]+_STATUS")
KEEP = 2  # of each kind: where the newest is torn, there is one to fall back on
SETTLE_S = 1800.0  # Drive has been seen half an hour behind what it showed to the machine
RETRY_S = (1.0, 3.0, 10.0)  # pauses before reading again from a Drive that did not answer


def serialise(state: dict, kind: str = "step") -> tuple[str, bytes]:
    """The name and the bytes of a checkpoint of kind "step", to resume from, or "best".

    state: tensors and plain Python values, with `step`, `model` and, for a best one, `score`.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    return f"{kind}-{state['step']:010d}-{SESSION}-{_sha(data)}.pt", data


def write(folder: Path, name: str, data: bytes, *, settle_s: float = 0.0) -> Path:
    """Bring a serialised checkpoint to `folder`, read it back, and only then prune there.

    A file that is there already, whole, is left alone. The folder is not created: where Drive was
    unmounted, it would be one on the local disk.
    settle_s: how long files must have stood before older ones are removed for them (on Drive).
    Raises: OSError: as in `write_whole`, or other bytes come back; older files are untouched.
    """
    path = Path(folder) / name
    if not _is_sound(path):
        write_whole(path, data)
        if not _is_sound(path):
            raise OSError(f"{path} reads back differently from what was written")
    with contextlib.suppress(OSError):  # an untidy folder is no reason to stop
        _prune(path, settle_s)
    return path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the whole old one or the whole new one.

    Raises: OSError: no room, no such folder, or it does not answer; the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{SESSION}-{path.name}")
    try:
        free = shutil.disk_usage(path.parent).free
        if free < len(data):
            raise OSError(f"only {free / 2**20:.1f} MiB are free; make room there")
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        what = f"{path.name} of {len(data) / 2**20:.1f} MiB"
        why = error.strerror or error
        raise OSError(f"could not write {what} to {path.parent}: {why}") from error
    finally:  # after the stop button, too
        with contextlib.suppress(OSError):
            _remove(temporary)
    with contextlib.suppress(OSError):  # Windows opens no folder, and some disks do not flush one
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def newest(folders: list[Path]) -> tuple[Path, dict] | None:
    """Load the newest sound checkpoint to resume from; None if there is none.

    What has to be passed over (torn, foreign) is named in a warning.
    Raises: OSError: a folder, or each of its checkpoints, does not answer. That is not "empty", and
            no reason to begin anew. MemoryError: see `load`; an older one would lose progress.
    """
    return next(_all_sound(folders, "step"), None)


def best(folders: list[Path], history: list[dict] | None = None) -> tuple[Path, dict] | None:
    """Load the sound checkpoint of kind "best" with the highest stored `score`, of equal ones the
    latest; None if there is none. Warnings and errors as in `newest`.

    history: rows with `step` and `score` of the run. Files with a score that is not in them were
        left behind by a session that got further, and from which the run did not go on.
    """
    found = [(path, state) for path, state in _all_sound(folders, "best") if "score" in state]
    if history is not None:
        scores = {row["step"]: row["score"] for row in history if "score" in row}
        found = [item for item in found if item[1]["score"] == scores.get(item[1]["step"])]
    return max(found, key=lambda item: item[1]["score"], default=None)


def load(path: Path) -> dict:
    """Read one checkpoint: tensors and plain values only, since it is input and not code.

    Raises: ValueError: its bytes do not match its name, or are no checkpoint. OSError: it cannot be
            read. MemoryError: there is no room for it; that is not the file's fault.
    """
    path = Path(path)
    name = NAME.fullmatch(path.name)
    try:
        data = path.read_bytes()
        if name and _sha(data) != name["sha"]:
            raise ValueError(f"its {len(data)} bytes do not match its name: torn or changed")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (OSError, ValueError):
        raise
    except Exception as error:  # torch raises many kinds, RuntimeError for its own lack of memory
        if no_memory(error):
            raise MemoryError(
                f"not enough memory to read {path}; the checkpoint is untouched. Free memory "
                "(restart the kernel, close other programs) and run again"
            ) from error
        raise ValueError(f"not a readable checkpoint ({type(error).__name__})") from error
    return state


def no_memory(error: Exception) -> bool:
    """Whether this is the machine's lack of memory; torch raises RuntimeError for it."""
    of_torch = isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(of_torch)


def retried(action: Callable[[], Any]) -> Any:
    """The result of `action`, tried again after each pause of RETRY_S if it raises OSError."""
    for pause in RETRY_S:
        try:
            return action()
        except OSError:
            time.sleep(pause)
    return action()


def _all_sound(folders: list[Path], kind: str) -> Iterator:
    """Load what can be loaded, newest step first and each name once; see `newest`."""
    unread = None
    names = set()
    for path in retried(lambda: _listed(folders, kind)):
        if path.name in names:
            continue
        try:
            state = retried(lambda path=path: load(path))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                unread = error
            warnings.warn(f"Passed over {path}: {error}. Trying the one before.", stacklevel=3)
            continue
        names.add(path.name)
        yield path, state
    if unread and not names:
        raise unread


def _listed(folders: list[Path], kind: str = "") -> list[Path]:
    """All files with a checkpoint's name (of a kind), newest step first; not `name (1).pt`."""
    found = []
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):  # the one error that does mean "empty"
            paths = list(Path(folder).iterdir())
            found += [p for p in paths if p.name.startswith(kind) and NAME.fullmatch(p.name)]
    return sorted(found, key=_step, reverse=True)


def _prune(path: Path, settle_s: float) -> None:
    """Remove what is older than `path`, a file known to be sound, but for KEEP of its kind.

    What claims to be newer is left alone: it may be torn. Torn files push no sound ones out, nor do
    those that stand for less than `settle_s`: Drive may show them here and not have them yet. Nor
    do best ones later than the oldest step here: who goes back to it needs the best until then.
    """
    now = time.time()
    kind = NAME.fullmatch(path.name)["kind"]
    found = _listed([path.parent])
    oldest = min((_step(file) for file in found if file.name.startswith("step")), default=math.inf)
    standing = 0
    for file in found:
        if not file.name.startswith(kind) or _step(file) > _step(path):
            continue
        if standing >= KEEP:
            _remove(file)
        elif kind == "step" or _step(file) <= oldest:
            settled = settle_s == 0 or now - file.stat().st_mtime > settle_s
            if settled and _is_sound(file):
                standing += 1
    for file in path.parent.glob(".tmp-*"):  # of a session that was killed while writing
        if SESSION not in file.name and now - file.stat().st_mtime > SETTLE_S:
            _remove(file)


def _remove(file: Path) -> None:
    """Empty it before: what lies in Drive's Trash costs quota."""
    if file.exists():
        file.write_bytes(b"")
        file.unlink()


def _step(path: Path) -> int:
    return int(NAME.fullmatch(path.name)["step"])


def _is_sound(path: Path) -> bool:
    """Whether a file with a checkpoint's name is there and holds what its name says."""
    with contextlib.suppress(OSError):
        return _sha(path.read_bytes()) == NAME.fullmatch(path.name)["sha"]
    return False


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
