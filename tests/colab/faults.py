"""A folder that fails as Google Drive does on Colab.

On the machine: any operation below `root` can fail with an errno, be slow, or lose the end of what
was written. In the cloud: each operation arrives some time later, not in order, and a file whose
upload was under way when the machine disappeared is there in part. `Drive.cloud` is what the next
machine finds. Facts: Colab's Drive is written to the machine's disk first and synced later
(googlecolab/colabtools issues 287, 434, 2607, 4032, 5877, 5970, 6106).
"""

import builtins
import io
import os
import pathlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ONE_PATH = ("mkdir", "unlink", "stat", "listdir", "scandir", "open")  # of os, but for open()


class Drive:
    """`with Drive(root).mounted(): ...` watches, counts and spoils what is done below `root`.

    fault(n, operation): called before the n-th operation; it may raise OSError or sleep.
    lose:  share of the bytes of each file that is lost when it is closed, silently.
    clock: virtual seconds now; files get it as their time of modification.
    """

    def __init__(self, root: Path, fault: Callable[[int, str], None] = lambda n, what: None):
        self.root, self.fault = Path(root), fault
        self.n, self.lose, self.clock = 0, 0.0, 0.0
        self.journal: list[tuple[float, str, str, object]] = []  # clock, what, name, with what

    @contextmanager
    def mounted(self) -> Iterator["Drive"]:
        originals = {name: getattr(os, name) for name in (*ONE_PATH, "replace", "statvfs")}
        self.opened = builtins.open
        for name in (*ONE_PATH, "statvfs"):
            setattr(os, name, self._watched(name, originals[name]))
        os.replace = self._replace(originals["replace"])
        os.unlink = self._journalled("delete", os.unlink)
        builtins.open = io.open = self._open(self.opened)
        # Until Python 3.10, pathlib kept functions of its own from the time of its import.
        accessor = getattr(pathlib, "_normal_accessor", None)
        for name in originals if accessor else ():
            setattr(accessor, name, getattr(os, name))
        if accessor:
            accessor.open = builtins.open
        try:
            yield self
        finally:
            for name, function in originals.items():
                setattr(os, name, function)
            builtins.open = io.open = self.opened
            if accessor:
                vars(accessor).clear()

    def point(self, operation: str) -> None:
        self.n += 1
        self.fault(self.n, operation)

    def _below(self, path: object) -> bool:
        return isinstance(path, (str, os.PathLike)) and Path(path).is_relative_to(self.root)

    def _watched(self, name: str, original: Callable) -> Callable:
        def call(path=".", *args, **options):
            if self._below(path):
                self.point(name)
            return original(path, *args, **options)

        return call

    def _journalled(self, what: str, function: Callable) -> Callable:
        def call(path, *args, **options):
            function(path, *args, **options)
            if self._below(path):
                self.journal.append((self.clock, what, Path(path).name, None))

        return call

    def _replace(self, original: Callable) -> Callable:
        def replace(source, target):
            if self._below(target):
                self.point("replace")
                self.journal.append((self.clock, "rename", Path(source).name, Path(target).name))
            original(source, target)

        return replace

    def _open(self, original: Callable) -> Callable:
        def open_(path, mode="r", *args, **options):
            if not self._below(path):
                return original(path, mode, *args, **options)
            self.point(f"open {mode}")
            file = original(path, mode, *args, **options)
            return _Written(self, file, Path(path)) if "w" in mode else file

        return open_

    def cloud(self, folder: Path, seconds: float, delay_s: float, seed: int) -> None:
        """Make `folder` what the cloud holds `seconds` after the start, if each operation takes up
        to `delay_s` to arrive, each on its own."""
        chance = random.Random(seed)
        arrived, names, contents = [], {}, {}
        for number, (begun, what, name, value) in enumerate(self.journal):
            if begun <= seconds:
                done = begun + chance.uniform(0, delay_s)
                arrived.append((done, number, what, name, value))
        # A file keeps its identity over a rename, so first find which one each operation means.
        identity, owner = {}, {}
        for number, (_, what, name, value) in enumerate(self.journal):
            owner.setdefault(name, number)
            identity[number] = owner[name]
            if what == "rename":
                owner[value] = owner.pop(name)
            elif what == "delete":
                owner.pop(name)
        for done, number, what, name, value in sorted(arrived):
            file = identity[number]
            if what == "write":
                if done > seconds:  # under way when the machine disappeared
                    value = value[: int(len(value) * chance.random())]
                    if file in contents or chance.random() < 0.5:
                        continue
                contents[file] = value
                names.setdefault(file, name)
            elif done <= seconds:
                names[file] = value if what == "rename" else None
        folder.mkdir(parents=True)
        for file, content in contents.items():
            if names[file]:
                path = folder / names[file]
                if path.exists():
                    path = path.with_name(f"{path.stem} (1){path.suffix}")
                path.write_bytes(content)


class _Written:
    """A file opened for writing: each write is a point of failure, after half of the bytes."""

    def __init__(self, drive: Drive, file, path: Path) -> None:
        self.drive, self.file, self.path = drive, file, path

    def write(self, data) -> int:
        try:
            self.drive.point("write")
        except OSError:
            self.file.write(data[: len(data) // 2])
            raise
        return self.file.write(data)

    def fileno(self) -> int:
        self.drive.point("fsync")  # nobody asks for the number but to flush it to the disk
        return self.file.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        with self.drive.opened(self.path, "r+b") as file:
            data = file.read()
            data = data[: int(len(data) * (1 - self.drive.lose))]
            file.truncate(len(data))
        os.utime(self.path, (self.drive.clock, self.drive.clock))
        self.drive.journal.append((self.drive.clock, "write", self.path.name, data))

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def fail(number: int, at: int, *, lasting: bool = False) -> Callable[[int, str], None]:
    """The `at`-th operation, or all from there on, raise OSError(number)."""

    def fault(n: int, operation: str) -> None:
        if n == at or lasting and n > at:
            raise OSError(number, f"{os.strerror(number)} (at {operation})")

    return fault


def slow(seconds: float) -> Callable[[int, str], None]:
    """Every operation takes its time."""
    return lambda n, operation: time.sleep(seconds)
