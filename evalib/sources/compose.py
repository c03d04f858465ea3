"""Write photographs pasted together as a data set that others can read: a zip a background, in the
layout of the first public one (A in `layouts`), with labels."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from evalib import rng
from evalib.manifest import N_PLACEMENTS
from evalib.sources.photos import Photos

QUALITY = 90  # of JPEG; masks, whose edges it blurs, are thresholded where they are read
TOGETHER = 200  # samples in memory


def compose(
    photos: Photos,
    out: Path | str,
    *,
    limit: int | None = None,
    size: int = 224,
    seed: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Write OUT/bg001.zip and so on; a zip that is there is whole, and left alone.

    limit: so many samples of all, drawn by chance; None: every background with every object at
    every place.
    Returns: the zips. Raises: ValueError: others are there.
    """
    ids = chosen(photos, limit, seed)
    bg = photos.index_of(ids)["bg"]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    told = json.dumps({"limit": limit, "size": size, "seed": seed, "photos": photos.identity})
    note = out / "compose.json"
    if note.exists() and note.read_text(encoding="utf-8") != told:
        raise ValueError(
            f"{out} holds what was composed of other photographs, or with another limit, size or "
            "seed; delete it, or name another folder"
        )
    note.write_text(told, encoding="utf-8")
    paths = []
    with tqdm(total=len(ids), desc=out.name, disable=not progress, mininterval=1) as bar:
        for number in np.unique(bg).tolist():
            path = out / f"bg{number + 1:03d}.zip"
            mine = ids[bg == number]
            if not path.exists():
                part = path.with_suffix(".part")
                with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as file:  # JPEG is small
                    _fill(file, photos, number, mine, size, seed)
                os.replace(part, path)
            bar.update(len(mine))
            paths.append(path)
    return paths


def chosen(photos: Photos, limit: int | None, seed: int) -> np.ndarray:
    """(n,) int64: the samples that `compose` writes, ascending."""
    n = len(photos.bg_paths) * len(photos.fg_paths) * N_PLACEMENTS
    return np.sort(rng.permuted(np.arange(min(limit or n, n)), n, seed, 0))


def _fill(file: zipfile.ZipFile, photos: Photos, bg: int, ids: np.ndarray, size: int, seed: int):
    """One background with its samples. Placements 1 to 20 are as they are, 21 to 40 mirrored."""
    name = f"bg{bg + 1:03d}"
    _write(file, f"bg/{name}.jpeg", photos.render_backgrounds([bg], size)["bg"][0])
    names = []
    boxes = []
    for start in range(0, len(ids), TOGETHER):
        some = ids[start : start + TOGETHER]
        pictures = photos.render(some, size, seed=seed)
        for sample, image, mask in zip(
            photos.index_of(some), pictures["fg_bg"], pictures["mask"], strict=True
        ):
            place, mirrored = divmod(int(sample["placement"]), 2)
            stem = f"{name}_fg{sample['fg'] + 1:03d}_{20 * mirrored + place + 1:02d}"
            _write(file, f"bg_fg/{stem}.jpeg", image)
            _write(file, f"bg_fg_mask/{stem}_mask.jpeg", mask)
            names.append(f"{name}\t{stem}\t{stem}_mask\n")
            x, y, w, h = Image.fromarray(mask).getbbox() or (0, 0, 0, 0)
            boxes.append(f"{stem}.jpeg\t{x}\t{y}\t{w - x}\t{h - y}\n")
    file.writestr("file_map.txt", "".join(names))
    file.writestr("bbox.txt", "".join(boxes))


def _write(file: zipfile.ZipFile, name: str, pixels: np.ndarray) -> None:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=QUALITY)
    file.writestr(name, encoded.getvalue())
