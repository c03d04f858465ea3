"""What a run does with Drive: a folder that syncs late, drops out, fills up, and that a second
machine may open at the same time.

`Uploads` copies finished checkpoints there in a thread, so that training never waits for Drive and
no error there can end it. `Lease` is a small file that says which session writes this run.
"""

import contextlib
import json
import os
import platform
import threading
import time
import warnings
from pathlib import Path

from evalib import checkpoint

# A lease is renewed each 20 s and void after three times that: a session waits so long for one that
# died. Should Drive hide a living one's renewals for longer, the later session wins, as it would
# with take_over: the other stops at its next look, and no checkpoint is lost.
RENEW_S, STALE_S = 20.0, 60.0
PATIENCE_S = 60.0  # how long the end of a session waits for a Drive that fails
PAUSE_S, LONGEST_PAUSE_S = 1.0, 120.0  # between two tries; twice as long each time
# What a mounted Drive shows first: on Colab always in English. Elsewhere it may have names of other
# languages, which cannot all be listed.
ROOTS = ("MyDrive", "My Drive", "Shareddrives", "Shared drives")
COLAB = Path("/var/colab/hostname")  # there where Colab can mount Drive: its `mount` asks for it


class Uploads:
    """Copies checkpoints to `folder` in a thread: the newest of each kind, tried until it works.

    `with Uploads(folder)` waits at its end for what is under way; `all_there`: nothing waits then.
    `safe_step`: the step of the newest checkpoint that was read back whole, as this machine sees
    Drive; -1 before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.safe_step = -1
        self.all_there = False
        self._waiting: dict[str, tuple[str, bytes]] = {}  # by kind
        self._error: Exception | None = None
        self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True, name="uploads").start()

    def add(self, name: str, data: bytes) -> None:
        """Hand over a serialised checkpoint; one of its kind that still waits is overtaken. Warns,
        in the caller's thread, of what went wrong since the last one."""
        with self._changed:
            self._waiting[checkpoint.NAME.fullmatch(name)["kind"]] = name, data
            self._changed.notify_all()
            error = self._error
            self._error = None
        if error:
            text = f"Drive: {error}. The local copy is kept; Drive is tried again."
            warnings.warn(text, stacklevel=2)

    def __enter__(self) -> "Uploads":
        return self

    def __exit__(self, *_) -> None:
        """Wait for a failing Drive no longer than PATIENCE_S, and a second for each 5 MiB."""
        with self._changed:
            size_mb = sum(len(data) for _, data in self._waiting.values()) / 2**20
            patience_s = PATIENCE_S + size_mb / 5
            self.all_there = self._changed.wait_for(lambda: not self._waiting, patience_s)
            self._closed = True
            self._changed.notify_all()
        if not self.all_there:
            where = "The newest checkpoint is only on this machine; run this again to copy it."
            warnings.warn(f"Drive: {self._error or 'no answer yet'}. {where}", stacklevel=2)

    def _work(self) -> None:
        pause_s = PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                kind, (name, data) = next(iter(self._waiting.items()))
            try:
                checkpoint.write(self.folder, name, data, settle_s=checkpoint.SETTLE_S)
            except Exception as error:  # whatever it is, training must not end for it
                with self._changed:  # a newer checkpoint, or the end, cuts the pause short
                    self._error = error
                    self._waiting[kind] = self._waiting.pop(kind)  # the other kind comes first now
                    self._changed.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            pause_s = PAUSE_S
            with self._changed:
                if self._waiting[kind][0] == name:
                    del self._waiting[kind]
                if kind == "step":
                    self.safe_step = int(checkpoint.NAME.fullmatch(name)["step"])
                self._changed.notify_all()


class Lease:
    """`with Lease(folder):` one session trains a run at a time; `lease.json` there says which.

    A second session watches the file for STALE_S, by its own clock alone: another machine's may be
    wrong. If the file changes, the second session is refused; else it takes over, at once if the
    lease was given back or its process has ended on this machine.

    Each session takes the next `turn`, each renewal the next `beat`. A session that finds a higher
    turn than its own stops (`lost`), so the one that came later wins; a lower one is an old view of
    the file and is written over. Drive has no locks: both write until the earlier one sees the
    later one's file; of two that took the same turn, the lower name stops. No checkpoint is harmed
    in the meantime, as their names are never used twice.

    That Drive is not mounted is seen where `_make` knows the path for one of Drive. Elsewhere (a
    disk under /mnt, a Drive whose folders have names of another language) a missing folder is
    simply made, on the local disk if the mount is missing.

    take_over: do not watch.
    Raises: ValueError: another session holds the run, or Drive is not mounted. OSError: the folder
            does not answer.
    """

    def __init__(self, folder: Path, *, take_over: bool = False) -> None:
        self.path = Path(folder) / "lease.json"
        self.take_over = take_over
        self.lost = threading.Event()
        self._ended = threading.Event()
        self._me = {"session": f"{checkpoint.SESSION}-{os.getpid()}", "pid": os.getpid()}
        self._me |= {"host": _host(), "since": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        checkpoint.retried(lambda: _make(self.path.parent))
        found = checkpoint.retried(self._read)
        if self._is_of_another(found) and not self.take_over:
            found = self._watch(found)
        self._me |= {"turn": found["turn"] + 1, "beat": 0}
        try:
            checkpoint.retried(lambda: self._write(self._me))
        except OSError as error:
            warnings.warn(f"{self.path}: {error}. No other machine is told.", stacklevel=2)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join(10)  # a slow renewal must not come after the release
        with contextlib.suppress(OSError):
            if not self._is_taken(self._read()):
                self._write({"turn": self._me["turn"]})  # given back; the next one takes the next

    def _is_of_another(self, found: dict) -> bool:
        """Whether another session has the lease that, for all we know, may be alive."""
        return found.get("session") not in (None, self._me["session"]) and not _is_gone(found)

    def _watch(self, first: dict) -> dict:
        """Wait until a lease is void or given back; what the file says then."""
        who = f"{first.get('host', 'unknown machine')}, since {first.get('since', 'unknown time')}"
        print(f"This run was in use ({who}). Watching for {STALE_S:.0f} s whether it still is.")
        end = time.monotonic() + STALE_S
        while time.monotonic() < end:
            time.sleep(min(5.0, STALE_S / 20))
            found = checkpoint.retried(self._read)
            if not self._is_of_another(found):
                return found
            if found != first:
                raise ValueError(
                    f"another session is training this run ({who}; {self.path}). Stop it, or take "
                    "another folder, or pass take_over=True and it will stop by itself"
                )
        return first

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            with contextlib.suppress(OSError):  # an absent Drive is tried again next time
                self._beat()
            if self.lost.is_set():
                return

    def _beat(self) -> None:
        """One renewal, or the discovery that there is nothing to renew any more."""
        if self._is_taken(self._read()):
            self.lost.set()
        else:
            self._me["beat"] += 1
            self._write(self._me)

    def _is_taken(self, found: dict) -> bool:
        """Whether a session that came later was here, even if it has given the lease back."""
        if found["turn"] != self._me["turn"]:
            return found["turn"] > self._me["turn"]
        # Both took one turn at the same moment: either rule would do, as long as both know it.
        return found.get("session", "") > self._me["session"]

    def _read(self) -> dict:
        """What stands in the file; turn 0 if there is none. A torn one is somebody's."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return {"turn": 0}
        with contextlib.suppress(TypeError, ValueError):
            found = {"turn": 0} | json.loads(text)
            if isinstance(found["turn"], int) and isinstance(found.get("session", ""), str):
                return found
        return {"turn": 0, "session": f"torn: {text!r}"}

    def _write(self, lease: dict) -> None:
        """In place: what is deleted or renamed over would lie in Drive's Trash."""
        self.path.write_text(json.dumps(lease) + "\n", encoding="utf-8")


def mounted(root: Path) -> bool:
    """Whether Drive is at `root`, one of ROOTS. On Colab it or the folder above must be a mount
    point, too: while Drive was gone, something may have made the same path."""
    if not COLAB.exists():
        return root.is_dir()
    return root.is_dir() and (os.path.ismount(root) or os.path.ismount(root.parent))


def _make(folder: Path) -> None:
    """Make the folder of a run, but none on the local disk that only looks like Drive.

    A path of Drive is known by one of ROOTS in it, which must be `mounted`. Any other is an
    ordinary folder, and made with its parents.
    """
    folder = folder.absolute()
    roots = [place for place in (folder, *folder.parents) if place.name in ROOTS]
    if roots and not mounted(roots[-1]):
        root = roots[-1]
        here = "is on the local disk: move it away, it is lost with this machine"
        why = here if root.is_dir() else "is missing"
        raise ValueError(
            f"{folder} is on Drive, and Drive is not mounted ({root} {why}). Mount it, as the "
            "setup cell does, and run this again; or take a folder elsewhere"
        )
    folder.mkdir(parents=True, exist_ok=True)


def _is_gone(lease: dict) -> bool:
    """Whether the lease's process has certainly ended: it ran on this machine, and is no more."""
    pid = lease.get("pid")
    if lease.get("host") != _host() or os.name != "posix" or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)  # signal 0 only asks whether the process is there
    except (OSError, OverflowError) as error:
        return isinstance(error, ProcessLookupError)
    return False


def _host() -> str:
    """This machine in this life: its name and, where Linux gives one, the number of its boot."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
        return f"{platform.node()}/{boot[:8]}"
    return platform.node()
