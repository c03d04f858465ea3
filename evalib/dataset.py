"""Packs: a tier rendered once into flat uint8 arrays at one resolution, memory-mapped ever after.

A pack is a folder: `fg_bg.u8 mask.u8 depth.u8` (a row a sample, by id), `bg.u8 bg_depth.u8` (a row
a background), `index.npy` (id, bg, fg, placement), `pack.json` (what it is, what is done, what it
took). Building only appends, so it goes on where it stopped, and a full disk is an error, not the
crash that a write into a sparse memory map would be.
"""

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from evalib import manifest, rng, rooms
from evalib.manifest import SUBSETS, index_of, sample_ids, subset_of

VERSION = 1  # of the layout and of what rooms renders: raise it when either changes
IDENTITY = ("version", "tier", "size", "seed", "shapes")  # with the index: the fingerprint
SAMPLE_KINDS, BG_KINDS = ("fg_bg", "mask", "depth"), ("bg", "bg_depth")
SAVE_EVERY_S = 5.0  # the most rendering that a killed build has to do again
CHUNK_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 23}  # rendered at a time


def build(
    tier: str,
    size: int,
    *,
    limit: int | None = None,
    root: Path | str = "packs",
    device: str | None = None,
    progress: bool = True,
) -> "Pack":
    """Build the pack `<root>/<tier>-<n>-<size>px`, or go on building it, or just open it.

    Input: size: pixels a side. limit: only the tier's first samples. device: None = GPU if any.
    Raises:
        ValueError: unknown tier or source; what lies in the folder is broken or of another version.
        OSError: the disk has no room for it, said before anything is rendered.
    """
    row = manifest.find(tier)
    if row.source != "rooms":
        raise ValueError(f"{tier} has the source {row.source!r}; packs can be built from: rooms")
    if size < 16:
        raise ValueError(f"size={size} pixels; needed: 16 or more")
    index = index_of(np.sort(sample_ids(tier, limit)))
    path = Path(root) / f"{tier}-{len(index)}-{size}px"
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    header = _header(row, size, index)
    if (path / "pack.json").exists():
        found, _ = _read(path)
        if found["fingerprint"] != header["fingerprint"]:
            raise ValueError(f"{path} holds other samples than {tier} has today; {_remedy(path)}")
        header = found
    if not header["complete"]:
        path.mkdir(parents=True, exist_ok=True)
        _check_room(path, header)
        if not header["took"]:
            _begin(path, header, index, device)
        _go_on(path, header, index, device, progress)
    return Pack(path)


class Pack:
    """A finished pack: `.fg_bg (N,S,S,3) .mask .depth (N,S,S)`, a row a sample, `.bg (n_bg,S,S,3)
    .bg_depth (n_bg,S,S)`, memory-mapped uint8; `.index .path .tier .size .fingerprint .took`.

    Opening checks version, counts, sizes and index, but not every pixel.
    Raises: FileNotFoundError, ValueError: with the command that builds it anew, or to its end.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        header, self.index = _read(self.path)
        if not header["complete"]:
            raise ValueError(
                f"pack {path} is unfinished ({header['done']} of {len(self.index)} samples); "
                f"go on with: {_command(self.path)}"
            )
        self.tier, self.size, self.took = header["tier"], header["size"], header["took"]
        self.fingerprint = header["fingerprint"]
        for kind, shape in header["shapes"].items():
            _check_bytes(self.path, kind, math.prod(shape))
            array = np.memmap(self.path / f"{kind}.u8", np.uint8, "r", shape=tuple(shape))
            setattr(self, kind, array)
        self._bg_row = np.unique(self.index["bg"], return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.index)

    def split(self) -> dict[str, np.ndarray]:
        """Rows of each subset: disjoint, from ids only; shuffled once, so that rows[:k] is fair."""
        order = np.argsort(rng.sample_keys(0, 0, self.index["id"]).numpy(), kind="stable")
        subsets = subset_of(self.index)[order]
        return {name: order[subsets == number] for number, name in enumerate(SUBSETS)}

    def gather(self, rows: np.ndarray) -> dict[str, Tensor]:
        """uint8 bg, fg_bg (B,S,S,3), mask in {0, 255}, depth, bg_depth (B,S,S); row (B,) int64."""
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        where = dict.fromkeys(SAMPLE_KINDS, rows) | dict.fromkeys(BG_KINDS, self._bg_row[rows])
        raw = {k: torch.from_numpy(np.asarray(getattr(self, k))[i]) for k, i in where.items()}
        return raw | {"row": torch.from_numpy(rows)}

    def batch(self, rows: np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The same as float 0..1 on `device`: images (B, 3, S, S), maps (B, 1, S, S)."""
        return floats(self.gather(rows), device)

    def batches(
        self, rows: np.ndarray, n: int, device: torch.device | str = "cpu"
    ) -> Iterator[dict[str, Tensor]]:
        """All `rows` once, in this order, `n` at a time: for evaluation."""
        for start in range(0, len(rows), n):
            yield self.batch(rows[start : start + n], device)


def floats(raw: dict[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Move uint8 (B, H, W[, 3]) to the device, then make it float (B, 1 or 3, H, W) in 0..1."""
    batch = {}
    for name, x in raw.items():
        x = x.to(device, non_blocking=True)
        if x.dtype == torch.uint8:
            x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
            x = x.float() / 255
        batch[name] = x
    return batch


def _header(row: manifest.Tier, size: int, index: np.ndarray) -> dict:
    channels = {"fg_bg": (3,), "bg": (3,)}
    counts = dict.fromkeys(SAMPLE_KINDS, len(index))
    counts |= dict.fromkeys(BG_KINDS, len(np.unique(index["bg"])))
    shapes = {k: (n, size, size, *channels.get(k, ())) for k, n in counts.items()}
    identity = dict(zip(IDENTITY, (VERSION, row.name, size, row.seed, shapes), strict=True))
    progress = {"done": 0, "complete": False, "took": {}}
    return identity | {"fingerprint": _fingerprint(identity, index)} | progress


def _fingerprint(header: dict, index: np.ndarray) -> str:
    fields = json.dumps([header[key] for key in IDENTITY])
    return hashlib.sha256(fields.encode() + index.tobytes()).hexdigest()


def _begin(path: Path, header: dict, index: np.ndarray, device: str) -> None:
    """Index and empty files; `pack.json` comes last, so that what it tells of is there."""
    np.save(path / "index.npy", index)
    for kind in SAMPLE_KINDS + BG_KINDS:
        (path / f"{kind}.u8").write_bytes(b"")
    _record(path, header, 0.0, device)


def _go_on(path: Path, header: dict, index: np.ndarray, device: str, progress: bool) -> None:
    """Append what is missing, in id order: neighbours share a background, drawn when it is met."""
    size = header["size"]
    chunk = max(1, CHUNK_PIXELS["cuda" if "cuda" in device else "cpu"] // size**2)
    started = time.monotonic() - header["took"]["seconds"]
    recorded = time.monotonic()
    with ExitStack() as stack:
        done = dict.fromkeys(SAMPLE_KINDS, header["done"])
        done |= dict.fromkeys(BG_KINDS, len(np.unique(index["bg"][: header["done"]])))
        files = {k: stack.enter_context(_append(path, k, header, n)) for k, n in done.items()}
        options = {"desc": path.name, "mininterval": 1, "disable": not progress}
        bar = stack.enter_context(tqdm(total=len(index), initial=header["done"], **options))
        try:
            while header["done"] < len(index):
                part = index[header["done"] :][:chunk]
                met = np.setdiff1d(part["bg"], index["bg"][: header["done"]])
                where = {"seed": header["seed"], "device": device}
                images = rooms.render_backgrounds(met, size, **where)
                images |= rooms.render(part["id"], size, **where)
                for kind, file in files.items():
                    file.write(_bytes(images[kind]))
                header["done"] += len(part)
                bar.update(len(part))
                if time.monotonic() - recorded > SAVE_EVERY_S:
                    recorded = time.monotonic()
                    _record(path, header, recorded - started, device, files.values())
        finally:  # so that an interrupted cell loses nothing
            _record(path, header, time.monotonic() - started, device, files.values())


def _bytes(x: Tensor) -> bytes:
    assert x.dtype == torch.uint8, f"rooms renders uint8, not {x.dtype}"
    return x.cpu().numpy().tobytes()


def _append(path: Path, kind: str, header: dict, done: int) -> BinaryIO:
    """The file, cut to what was recorded as done: more may have been written than recorded."""
    n_bytes = done * math.prod(header["shapes"][kind][1:])
    _check_bytes(path, kind, n_bytes, or_more=True)
    file = (path / f"{kind}.u8").open("ab")
    file.truncate(n_bytes)
    return file


def _record(
    path: Path, header: dict, seconds: float, device: str, files: Iterable[BinaryIO] = ()
) -> None:
    """Write `pack.json` by renaming, after the samples it counts are on the disk."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    header["complete"] = header["done"] == header["shapes"]["mask"][0]
    header["took"] = {
        "seconds": round(seconds, 2),
        "samples_per_s": round(header["done"] / max(seconds, 0.01), 1),
        "mb": round(sum(map(math.prod, header["shapes"].values())) / 2**20, 1),
        "device": device,
    }
    temporary = path / ".pack.json"
    temporary.write_text(json.dumps(header, indent=1))
    os.replace(temporary, path / "pack.json")


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
        raise FileNotFoundError(f"no pack in {path} (no pack.json); build it: {_command(path)}")
    try:
        header = json.loads((path / "pack.json").read_bytes())
        version = header["version"]
        if version == VERSION:
            index = np.load(path / "index.npy")
            agree = _fingerprint(header, index) == header["fingerprint"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"pack {path} cannot be read ({error}); {_remedy(path)}") from error
    if version != VERSION:
        raise ValueError(f"pack {path} has version {version}, not {VERSION}; {_remedy(path)}")
    if not agree:
        raise ValueError(f"{path}: index.npy and pack.json do not agree; {_remedy(path)}")
    return header, index


def _check_bytes(path: Path, kind: str, needed: int, *, or_more: bool = False) -> None:
    file = path / f"{kind}.u8"
    found = file.stat().st_size if file.is_file() else 0
    if found < needed or (found > needed and not or_more):
        raise ValueError(f"{file} has {found:,} bytes, needed: {needed:,}; {_remedy(path)}")


def _remedy(path: Path) -> str:
    return f"rebuild it: rm -r {shlex.quote(str(path))} && {_command(path)}"


def _command(path: Path) -> str:
    """The command that builds this folder, from its name."""
    match = re.fullmatch(r"(.+)-(\d+)-(\d+)px", path.name)
    tier, n, size = match.groups() if match else ("TIER", "N", "SIZE")
    root = shlex.quote(str(path.parent))
    return f"python -m evalib build {tier} --size {size} --limit {n} --packs {root}"
