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

RENEW_S, STALE_S = 60.0, 180.0  # a lease is renewed each minute, and void after three
LATE_S = checkpoint.SETTLE_S  # a lease older than this is no late view of a live one
PATIENCE_S = 60.0  # how long the end of a session waits for a Drive that fails
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 120.0  # between two tries; twice as long each time


class Uploads:
    """Copies checkpoints to `folder` in a thread: the newest of each kind, tried until it works.

    `with Uploads(folder)` waits at its end for what is under way.
    `safe_step` is the step of the newest checkpoint that was read back whole; -1 before. The cloud
    itself may be behind: what is read back is this machine's view of Drive. `all_there`: nothing
    waited at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.safe_step, self.all_there = folder, -1, False
        self._waiting: dict[str, tuple[str, bytes]] = {}
        self._error: Exception | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def add(self, name: str, data: bytes) -> None:
        """Hand over a serialised checkpoint; one of its kind that still waits is overtaken."""
        with self._changed:
            self._waiting[_kind(name)] = name, data
            self._changed.notify_all()
        self.report()

    def report(self) -> None:
        """Warn, in the caller's thread, of what went wrong since the last report."""
        error, self._error = self._error, None
        if error:
            warnings.warn(
                f"Drive: {error}. The local copy is kept; Drive is tried again.", stacklevel=3
            )

    def __enter__(self) -> "Uploads":
        return self

    def __exit__(self, *_) -> None:
        """Wait for a failing Drive no longer than PATIENCE_S, and a second for each 5 MiB."""
        with self._changed:
            size_mb = sum(len(data) for _, data in self._waiting.values()) / 2**20
            empty = self._changed.wait_for(lambda: not self._waiting, PATIENCE_S + size_mb / 5)
            self.all_there, self._closed = empty, True
            self._changed.notify_all()
        if not self.all_there:
            warnings.warn(
                f"Drive: {self._error or 'no answer yet'}. The newest checkpoint is only on this "
                "machine; run this again to copy it.",
                stacklevel=2,
            )

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                kind, (name, data) = next(iter(self._waiting.items()))
            try:
                checkpoint.write(self.folder, name, data, settle_s=checkpoint.SETTLE_S)
            except Exception as error:  # whatever it is, training must not end for it
                self._error = error
                with self._changed:  # a newer checkpoint, or the end, cuts the pause short
                    self._waiting[kind] = self._waiting.pop(kind)  # the other kind comes first now
                    self._changed.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause = FIRST_PAUSE_S
            with self._changed:
                if self._waiting[kind][0] == name:
                    del self._waiting[kind]
                if kind == "step":
                    self.safe_step = int(checkpoint.NAME.fullmatch(name)["step"])
                self._changed.notify_all()


class Lease:
    """`with Lease(folder):` one session trains a run at a time; `lease.json` says which.

    A second session waits until the lease is void: at once if the first one's process is known to
    be gone, else when it was not renewed for STALE_S. If it is renewed meanwhile, somebody is at
    work there, and the second session is refused. Drive has no locks: machines that see each
    other's file late may both write for a while. Names of checkpoints are never used twice, so they
    cannot harm each other, and whoever came first stops when it sees the other's lease (`lost`).

    take_over: do not wait, do not ask.
    Raises: ValueError: another session holds the run. OSError: the folder does not answer.
    """

    def __init__(self, folder: Path, *, take_over: bool = False) -> None:
        self.path, self.take_over = Path(folder) / "lease.json", take_over
        self.lost = threading.Event()
        self._ended = threading.Event()
        self._me = {"session": checkpoint.SESSION, "host": _host(), "pid": os.getpid()}
        self._me |= {"since": time.time()}
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        checkpoint.retried(lambda: self.path.parent.mkdir(parents=True, exist_ok=True))
        if not self.take_over:
            self._wait_until_void()
        try:
            checkpoint.retried(self._write)
        except OSError as error:
            warnings.warn(f"{self.path}: {error}. No other machine is told.", stacklevel=2)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join(10)  # a slow renewal must not come after the release
        with contextlib.suppress(OSError):
            if self._is_mine(self._read()):
                self.path.write_text("{}")  # not deleted: it would lie in Drive's Trash

    def _wait_until_void(self) -> None:
        first = checkpoint.retried(self._read)
        if not first or self._is_mine(first) or _is_gone(first):
            return
        age_s = max(time.time() - first["renewed"], 0)
        if age_s > LATE_S:
            return
        wait_s = max(STALE_S - age_s, 2 * RENEW_S)
        who = f"{first.get('host', 'another machine')}, for {_minutes(first)}"
        print(
            f"This run was in use {age_s:.0f} s ago ({who}). Waiting up to {wait_s:.0f} s to see "
            "whether it still is."
        )
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            time.sleep(min(5.0, STALE_S / 20))
            now = checkpoint.retried(self._read)
            if not now:
                return
            if now["renewed"] != first["renewed"]:
                raise ValueError(
                    f"another session is training this run ({who}; {self.path}). Stop it, or take "
                    "another folder, or pass take_over=True and it will stop by itself"
                )

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            with contextlib.suppress(OSError):  # an absent Drive is tried again next time
                found = self._read()
                theirs = found.get("session") and not self._is_mine(found)
                if theirs and found["since"] > self._me["since"]:
                    self.lost.set()
                    return
                self._write()

    def _is_mine(self, lease: dict) -> bool:
        return all(lease.get(name) == self._me[name] for name in ("session", "pid"))

    def _read(self) -> dict:
        """What stands in the file; {} if there is none or it was given back. A torn one is taken
        for somebody's: it is void when it is old."""
        try:
            found = json.loads(self.path.read_bytes())
            times = {name: float(found[name]) for name in ("since", "renewed")} if found else {}
            return dict(found) | times
        except FileNotFoundError:
            return {}
        except (KeyError, TypeError, ValueError):
            return {"renewed": self.path.stat().st_mtime}

    def _write(self) -> None:
        self.path.write_text(json.dumps(self._me | {"renewed": time.time()}) + "\n")


def _minutes(lease: dict) -> str:
    return f"{(time.time() - lease['since']) / 60:.0f} min" if "since" in lease else "unknown time"


def _is_gone(lease: dict) -> bool:
    """Whether the lease's process has certainly ended: it ran on this machine, and is no more."""
    if lease.get("host") != _host() or os.name != "posix":
        return False
    try:
        os.kill(int(lease["pid"]), 0)  # signal 0 only asks whether the process is there
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, KeyError, TypeError, ValueError):
        pass
    return False


def _host() -> str:
    """This machine in this life: its name and, where Linux gives one, the number of its boot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        return f"{platform.node()}/{boot.read_text()[:8]}"
    return platform.node()


def _kind(name: str) -> str:
    return checkpoint.NAME.fullmatch(name)["kind"]
