"""Packs: a tier rendered once into flat uint8 arrays at one resolution, memory-mapped ever after.

A pack is a folder: `fg_bg.u8 mask.u8 depth.u8` (a row a sample, by id), `bg.u8 bg_depth.u8` (a row
a background), `index.npy` (id, bg, fg, placement), `pack.json` (what it is, how much is done),
`.lock` (empty: held while somebody builds).
Building only appends, so it goes on where it stopped, and a full disk is an error, not the crash
that a write into a sparse memory map would be.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from copy import copy
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from evalib import checkpoint, manifest, rng, sources, timing
from evalib.manifest import SUBSETS, Tier, subset_of
from evalib.worker import KINDS

VERSION = 2  # of the layout and of what rooms renders: raise it when either changes
CHUNK = 1024  # images that are copied to a device at a time
REMEDY = "delete the folder of this pack and build it again"
CHUNK_PIXELS = 1 << 20  # rendered at a time


def build(
    tier: str | Tier,
    size: int,
    *,
    limit: int | None = None,
    root: Path | str = "packs",
    progress: bool = True,
) -> "Pack":
    """Build the pack `<root>/<tier>-<n>-<size>px`, or go on building it, or just open it.

    If another process builds it, this one waits for that.
    Input: size: pixels a side. limit: so many of the tier's samples.
    Raises:
        ValueError: unknown tier or source; what lies in the folder is broken or of another version.
        OSError: the disk has no room for it, said before anything is rendered.
    """
    if size < 16:
        raise ValueError(f"size={size} pixels; needed: 16 or more")
    tier = manifest.find(tier) if isinstance(tier, str) else tier
    source = sources.open_source(tier, root)
    index = source.index(limit)
    path = Path(root) / f"{tier.name}-{len(index)}-{size}px"
    header = {"version": VERSION, "tier": tier.name, "size": size, "seed": source.tier.seed}
    header |= {"shapes": _shapes(source.kinds, index, size), "identity": source.identity}
    header["fingerprint"] = _fingerprint(header, index)
    if _done(path, header) < len(index):
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            header["done"] = _done(path, header)  # again: whoever was waited for went on
            if header["done"] < len(index):
                _check_room(path, header)
                _go_on(path, header, index, source, progress)
    return Pack(path)


class Pack:
    """A finished pack: `.fg_bg (N,S,S,3) .mask .depth (N,S,S)`, a row a sample, `.bg (n_bg,S,S,3)
    .bg_depth (n_bg,S,S)`, memory-mapped uint8, those of them that are `.kinds`; `.index .path .tier
    .size .fingerprint`.

    Opening checks version, counts, sizes and index, but not every pixel.
    Raises: FileNotFoundError, ValueError: with what to do about it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        header, self.index = _read(self.path)
        self.tier = header["tier"]
        self.size = header["size"]
        self.fingerprint = header["fingerprint"]
        self.skipped = header.get("skipped", [])  # ids whose pictures could not be read
        self.problems = header.get("problems", {})  # members of an archive: what is wrong
        if header["done"] < len(self.index):
            raise ValueError(
                f"pack {path} is unfinished ({header['done']} of {len(self.index)} samples); go "
                f"on with: evalib build {self.tier} --size {self.size} --limit {len(self.index)}"
            )
        self.kinds = [kind for kind in KINDS if kind in header["shapes"]]
        for kind, shape in header["shapes"].items():
            _check_bytes(self.path, kind, math.prod(shape))
            array = np.memmap(self.path / f"{kind}.u8", np.uint8, "r", shape=tuple(shape))
            setattr(self, kind, array)
        self._bg_row = np.unique(self.index["bg"], return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.index)

    def split(self) -> dict[str, np.ndarray]:
        """Rows of each subset: disjoint, from ids only; shuffled once, so that rows[:k] is fair."""
        order = np.argsort(rng.sample_keys(0, 0, self.index["id"]), kind="stable")
        order = order[~np.isin(self.index["id"][order], self.skipped)]
        subsets = subset_of(self.index)[order]
        return {name: order[subsets == number] for number, name in enumerate(SUBSETS)}

    def gather(self, rows: np.ndarray) -> dict[str, Tensor]:
        """uint8 bg, fg_bg (B,S,S,3), mask in {0, 255}, depth, bg_depth (B,S,S); row (B,) int64."""
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        where = {kind: self._bg_row[rows] if kind.startswith("bg") else rows for kind in self.kinds}
        raw = {kind: _at(getattr(self, kind), i) for kind, i in where.items()}
        return raw | {"row": torch.from_numpy(rows)}

    def on(self, device: torch.device | str) -> "Pack":
        """The same pack with its bytes on a device, as much as `nbytes`: batches are gathered there
        and never cross the bus. Source of the idea: airbench (Jordan 2024)."""
        other = copy(self)
        for kind in self.kinds:
            array = getattr(self, kind)
            there = torch.empty(array.shape, dtype=torch.uint8, device=device)
            for start in range(0, len(array), CHUNK):
                there[start : start + CHUNK] = torch.from_numpy(array[start : start + CHUNK].copy())
            setattr(other, kind, there)
        return other

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, kind).nbytes for kind in self.kinds)

    def batch(self, rows: np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The same as float 0..1 on `device`: images (B, 3, S, S), maps (B, 1, S, S)."""
        return floats(self.gather(rows), device)

    def batches(
        self, rows: np.ndarray, n: int, device: torch.device | str = "cpu"
    ) -> Iterator[dict[str, Tensor]]:
        """All `rows` once, in this order, `n` at a time: for evaluation."""
        for start in range(0, len(rows), n):
            yield self.batch(rows[start : start + n], device)


def _at(images: np.ndarray | Tensor, rows: np.ndarray) -> Tensor:
    """Copies of some rows, on the device that has the images."""
    if isinstance(images, Tensor):
        return images[torch.from_numpy(rows).to(images.device, non_blocking=True)]
    return torch.from_numpy(np.asarray(images)[rows])


def floats(raw: dict[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Move uint8 (B, H, W[, 3]) to the device, then make it float (B, 1 or 3, H, W) in 0..1."""
    to_gpu = torch.device(device).type == "cuda"
    batch = {}
    for name, x in raw.items():
        if to_gpu and x.device.type == "cpu":
            x = x.pin_memory()  # only such memory is copied while the CPU goes on
        x = x.to(device, non_blocking=True)
        if x.dtype == torch.uint8:
            x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()  # (B, C, H, W)
            x = x.float().div_(255)  # in place: fresh memory costs more than the division
        batch[name] = x
    return batch


def _shapes(kinds: Iterable[str], index: np.ndarray, size: int) -> dict[str, tuple[int, ...]]:
    """Of each file, for these samples."""
    maps = (len(index), size, size)
    bg_maps = (len(np.unique(index["bg"])), size, size)
    shapes = {"fg_bg": (*maps, 3), "mask": maps, "depth": maps}
    shapes |= {"bg": (*bg_maps, 3), "bg_depth": bg_maps}
    return {kind: shape for kind, shape in shapes.items() if kind in kinds}


def _fingerprint(header: dict, index: np.ndarray) -> str:
    fields = [header[name] for name in ("version", "tier", "size", "seed", "shapes")]
    if header.get("identity"):  # of pictures that somebody may change
        fields.append(header["identity"])
    return hashlib.sha256(json.dumps(fields).encode() + index.tobytes()).hexdigest()


def _done(path: Path, header: dict) -> int:
    """How many of the samples that `header` wants are in the folder."""
    if not (path / "pack.json").exists():
        return 0
    found, _ = _read(path)
    if found["fingerprint"] != header["fingerprint"]:
        raise ValueError(f"{path} holds other samples than {header['tier']} has today; {REMEDY}")
    return found["done"]


def _locked(path: Path) -> AbstractContextManager:
    """Build alone: the system takes the lock from a builder that ends, however it ends."""
    lock = FileLock(path / ".lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process builds {path}: waiting for it to finish.", flush=True)
        return lock.acquire()


def _go_on(path: Path, header: dict, index: np.ndarray, source, progress: bool) -> None:
    """Append what is missing, in id order: neighbours share a background, drawn when it is met.
    After each chunk it is recorded as done: no more than one has to be rendered again."""
    if not (path / "pack.json").exists():
        np.save(path / "index.npy", index)
    size, done = header["size"], header["done"]
    header = {"skipped": [], "problems": {}} | (_read(path)[0] if done else header)
    if progress and source.tier.source != "rooms":
        print(source.report(), flush=True)
    chunk = max(1, CHUNK_PIXELS // size**2)
    bar = tqdm(desc=path.name, total=len(index), initial=done, mininterval=1, disable=not progress)
    shapes = _shapes(source.kinds, index[:done], size)
    with bar, ExitStack() as stack:
        files = {k: stack.enter_context(_append(path, k, shape)) for k, shape in shapes.items()}
        for start in range(done, len(index), chunk):
            part = index[start : start + chunk]
            # backgrounds rise with ids: of those met before, only the last may come again
            met = np.setdiff1d(part["bg"], index["bg"][max(0, start - 1) : start])
            images = source.render_backgrounds(met, size) | source.render(part["id"], size)
            for kind, file in files.items():
                file.write(images[kind].tobytes())
                file.flush()
                os.fsync(file.fileno())  # before it is counted
            header["done"] += len(part)
            header["skipped"] = sorted({*header["skipped"], *source.skipped})
            header["problems"] |= source.problems
            checkpoint.write_whole(path / "pack.json", json.dumps(header, indent=1).encode())
            bar.update(len(part))
    sources.warn(path.name, header["problems"])


def _append(path: Path, kind: str, done: tuple[int, ...]) -> BinaryIO:
    """The file, cut to what was recorded as done: more may have been written than recorded."""
    _check_bytes(path, kind, math.prod(done), or_more=True)
    file = (path / f"{kind}.u8").open("ab")
    file.truncate(math.prod(done))
    return file


def _check_room(path: Path, header: dict) -> None:
    there = sum(file.stat().st_size for file in path.glob("*.u8"))
    need = sum(map(math.prod, header["shapes"].values())) - there
    free = shutil.disk_usage(path).free
    if need > free:
        raise OSError(
            f"{path} needs {need / 2**20:,.0f} MB more, its disk has {free / 2**20:,.0f} MB free; "
            "delete something, or choose a smaller size or limit, or another root"
        )


def _read(path: Path) -> tuple[dict, np.ndarray]:
    """Header and index, checked against each other."""
    if not (path / "pack.json").is_file():
        raise FileNotFoundError(f"no pack in {path} (no pack.json); build it: evalib build")
    try:
        header = json.loads((path / "pack.json").read_bytes())
        index = np.load(path / "index.npy")
        agree = _fingerprint(header, index) == header["fingerprint"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"pack {path} cannot be read ({error}); {REMEDY}") from error
    if header["version"] != VERSION:
        raise ValueError(f"pack {path} has version {header['version']}, not {VERSION}; {REMEDY}")
    if not agree:
        raise ValueError(f"{path}: index.npy and pack.json do not agree; {REMEDY}")
    return header, index


def _check_bytes(path: Path, kind: str, needed: int, *, or_more: bool = False) -> None:
    file = path / f"{kind}.u8"
    found = file.stat().st_size if file.is_file() else 0
    if found < needed or (found > needed and not or_more):
        raise ValueError(f"{file} has {found:,} bytes, needed: {needed:,}; {REMEDY}")


def speed(tier: str, size: int) -> float:
    """Samples of a tier that this machine renders in a second, measured for two."""
    source = sources.open_source(manifest.find(tier), "packs")
    ids = source.index(2000)["id"]  # in a pack, too, neighbours share a background
    parts = itertools.cycle(np.array_split(ids, 100))
    return len(ids) / 100 * timing.rate(lambda: source.render(next(parts), size))
