"""The members of a zip, of a folder, or of a folder with zips in it, read in place by their names.

Archives come from strangers: all that a directory says is looked at before any member is read, what
could do harm is refused by its name, and nothing is unpacked to disk. The directory is parsed here,
as `zipfile` keeps a Python object a member: 710 MB for 1.2 million of them, instead of 250.
"""

import os
import re
import struct
import weakref
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAX_MEMBERS = 5_000_000  # four times the largest data set of this kind, 400,000 x 3
MAX_DIRECTORY = 128 * MAX_MEMBERS  # bytes: the names in it are kept in memory
MAX_BYTES = 64 << 20  # of a member, packed or not
MAX_NAME = 1000  # characters: expressions are searched in it
MAX_RATIO = 200  # of a member above 1 MiB
MAX_EMPTY = 1000  # members without a byte, if they are the most
MAX_OPEN = 100  # zips that stay open: macOS allows a process 256 files
STORED, DEFLATED = 0, 8
REMEDY = "get it again, or unpack it with its own program, and give the folder"
WIDE = 0xFFFFFFFF  # stands for a number that did not fit 32 bits
ENTRY = struct.Struct("<4s4x2H4x3I3H4x2I")  # of a zip's directory
ROW = struct.Struct("<iqIIIH")  # a member: its zip (-1: none), offset, packed size, size, CRC, way
NAMES = ("zip", "offset", "packed", "size", "crc", "way")
ROWS = np.dtype(list(zip(NAMES, ("<i4", "<i8", "<u4", "<u4", "<u4", "<u2"), strict=True)))
UNSAFE = re.compile(r"^/|^[A-Za-z]:|[\x00-\x1f]|(?:^|/)\.\.(?:/|$)")
JUNK = re.compile(r"(?:^|/)(?:__MACOSX/.*|\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini)$", re.I)
DATA = re.compile(r"\.(?:h5|npy|npz|csv|tsv|txt|json|xml|log|pth?|py|ipynb|md|pdf|html?)$", re.I)
NESTED = re.compile(r"\.(?:zip|7z|rar|tar|tgz|tar\.gz)$", re.I)


def open_files(path: Path | str) -> "Files":
    """Open a zip, a folder, or a folder with zips in it, each of which then counts as a folder.

    Raises: FileNotFoundError; ValueError: a damaged zip, or the member that is refused, and why.
    """
    return Files(Path(path))


class Files:
    """`.names` of all members, sorted, without `./`, folders and what systems leave behind.

    Threads may share it, and so may forked processes; pickled, it opens its path again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = _walk(path) if path.is_dir() else [""]  # path / "" is the zip itself
        zips = sorted(name for name in found if not name or name.lower().endswith(".zip"))
        names = sorted(set(found).difference(zips))
        rows = bytearray()
        for name in names:
            size = min((path / name).stat().st_size, WIDE)
            rows += ROW.pack(-1, 0, 0, size, 0, 0)
        for number, zip_name in enumerate(zips):
            folder = zip_name[:-4] + "/" if zip_name else ""
            for name, *row in _members(path / zip_name, MAX_MEMBERS - len(names)):
                names.append(folder + name)
                rows += ROW.pack(number, *row)
        order = sorted(range(len(names)), key=names.__getitem__)
        self.names = [names[i] for i in order]
        self._rows = np.frombuffer(rows, ROWS)[order]
        self.sums = self._rows[["size", "crc"]]  # (N,) of files in folders, only sizes
        for name, following in pairwise(self.names):
            if name == following:
                raise ValueError(f"{path} has {name!r} twice; remove the wrong one")
        self._zips = [path / name for name in zips]
        n_open = MAX_OPEN if hasattr(os, "pread") else 0  # Windows opens them again and again
        self._open = [file.open("rb") for file in self._zips[:n_open]]
        self.close = weakref.finalize(self, _close, self._open)  # at the latest when it goes

    def read(self, name: str) -> bytes:
        """The bytes of a member. Raises: KeyError: there is none; ValueError: it is damaged."""
        at = bisect_left(self.names, name)
        if at == len(self.names) or self.names[at] != name:
            raise KeyError(f"{self.path} has no {name!r}")
        number, offset, packed, size, crc, way = self._rows[at].item()
        if number < 0:
            with (self.path / name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise ValueError(f"{self.path / name} is larger than {MAX_BYTES >> 20} MiB")
            return data
        if max(size, packed) > MAX_BYTES:
            raise ValueError(f"{name} is larger than {MAX_BYTES >> 20} MiB")
        head = self._bytes(number, offset, 30).ljust(30, b"\0")
        n_before = 30 + sum(struct.unpack_from("<2H", head, 26))  # its name again, an extra field
        data = self._bytes(number, offset + n_before, packed)
        if way == DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, size + 1)  # however much is in it
            except zlib.error:
                data = b""
        if head[:4] != b"PK\3\4" or len(data) != size or zlib.crc32(data) != crc:
            raise ValueError(f"{self._zips[number]}: {name!r} is damaged; get the archive again")
        return data

    def _bytes(self, number: int, offset: int, n: int) -> bytes:
        if number < len(self._open):  # moves no position that threads or processes share
            return os.pread(self._open[number].fileno(), n, offset)
        with self._zips[number].open("rb") as file:
            file.seek(offset)
            return file.read(n)

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return open_files, (self.path,)


def _close(files: list[BinaryIO]) -> None:
    for file in files:
        file.close()


def _walk(folder: Path) -> list[str]:
    """Names of the files in a folder and below it; no link to a folder is followed."""
    inside = os.path.realpath(folder)
    names = []
    todo = [""]
    while todo:
        prefix = todo.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(inside):
                    raise ValueError(f"{folder}: {name!r} is a link that leads out; copy it in")
                if entry.is_dir(follow_symlinks=False):
                    todo.append(name + "/")
                elif entry.is_file() and not JUNK.search(name):
                    names.append(name)
    return names


def _members(path: Path, n_max: int) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Name, offset, packed size, size, CRC and way of packing of each file in a zip."""
    n = n_empty = 0
    with path.open("rb", buffering=1 << 20) as file:
        start, left, n_declared = _directory(file, path)
        file.seek(start)
        while left >= ENTRY.size and n <= n_max:
            entry = ENTRY.unpack(file.read(ENTRY.size))
            mark, flags, way, crc, packed, size, n_name, n_extra, n_comment, mode, offset = entry
            name = file.read(n_name).decode("utf-8" if flags & 0x800 else "cp437", "replace")
            extra = file.read(n_extra + n_comment)[:n_extra]
            left -= ENTRY.size + n_name + n_extra + n_comment
            if WIDE in (packed, size, offset):
                packed, size, offset = _widened(extra, packed, size, offset)
            if mark != b"PK\1\2" or offset + packed > start:
                break
            n += 1
            name = name.replace("\\", "/")  # as some programs on Windows write it
            if UNSAFE.search(name):
                raise ValueError(f"{path}: {name!r} leads out of the archive; do not trust it")
            if name.endswith("/") or JUNK.search(name):
                continue
            n_empty += not size
            if why := _refusal(name, flags, way, packed, size, mode):
                raise ValueError(f"{path}: {name[:MAX_NAME]!r} {why}")
            if n_empty > max(MAX_EMPTY, n / 2):
                raise ValueError(f"{path}: {name!r} is empty, as are {n_empty - 1:,} others")
            if "./" in name or "//" in name:
                name = "/".join(part for part in name.split("/") if part not in ("", "."))
            yield name, offset, packed, size, crc, way
    if n > n_max:
        raise ValueError(f"{path} has more than {n_max:,} members; split it")
    if left or (n - n_declared) % 65536:  # a count of 16 bits runs over, and some let it
        raise ValueError(f"{path} is damaged at entry {n} of its directory; {REMEDY}")


def _refusal(name: str, flags: int, way: int, packed: int, size: int, mode: int) -> str:
    """Why a member is not to be read; nothing if it may be."""
    if len(name) > MAX_NAME:
        return f"has a name of {len(name):,} characters"
    if mode >> 28 not in (0, 8):  # neither unknown nor a file
        return "is a link or a device, no file; leave it out"
    if flags & 0x2041:
        return "is encrypted; unpack the archive with its password, and give the folder"
    if NESTED.search(name):
        return "is an archive in an archive; unpack the outer one, and give the folder"
    if way not in (STORED, DEFLATED):
        return f"is packed in a way (number {way}) other than deflate; pack it again"
    if DATA.search(name):
        return ""  # whatever its size: no picture, so it stays unread
    if max(size, packed) > MAX_BYTES or size > max(1 << 20, MAX_RATIO * packed):
        return f"would unpack from {packed:,} to {size:,} bytes; no picture does that"
    return ""


def _directory(file: BinaryIO, path: Path) -> tuple[int, int, int]:
    """Start, size and number of entries of a zip's directory, from the records at its end."""
    length = file.seek(0, os.SEEK_END)
    first = max(0, length - 76 - 22 - 65535)  # records of zip64, end record, the longest comment
    file.seek(first)
    tail = file.read()
    at = tail.rfind(b"PK\5\6", 0, len(tail) - 18)
    if at < 0:
        raise ValueError(f"{path} is no zip, or its end is missing; {REMEDY}")
    count, size, offset = struct.unpack_from("<H2I", tail, at + 10)
    if at >= 76 and tail[at - 76 : at - 72] == b"PK\6\6" and tail[at - 20 : at - 16] == b"PK\6\7":
        at -= 76
        count, size, offset = struct.unpack_from("<3Q", tail, at + 32)
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise ValueError(
            f"{path} declares {count:,} members in a directory of {size:,} bytes, at most "
            f"{MAX_MEMBERS:,} and {MAX_DIRECTORY:,} are read; split it"
        )
    if offset + size != first + at:
        raise ValueError(f"{path} misses a part, or has bytes too many; {REMEDY}")
    return offset, size, count


def _widened(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    """The three numbers, those that need more than 32 bits from zip64's extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, n = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{min(n, len(extra) - at) // 8}Q", extra, at))
            size = next(numbers, size) if size == WIDE else size
            packed = next(numbers, packed) if packed == WIDE else packed
            offset = next(numbers, offset) if offset == WIDE else offset
        at += n
    return packed, size, offset
