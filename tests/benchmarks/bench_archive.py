"""What an archive costs to read, way by way, and to pack, whole.

    python tests/benchmarks/bench_archive.py speed [--seconds 8]
    python tests/benchmarks/bench_archive.py pack [--samples 400000]

`speed`: samples a second from disk to a batch of 64 that is ready for the network (float, on the
CPU), of an archive of one background with 4,000 samples: 224 px JPEG in a zip a kind, as in layout
C. All ways in one run, one after the other, each for so many seconds after a first batch.
`pack`: an archive of so many samples of 64 px (layout A, one zip, 3 pictures a sample, a few
hundred different ones) becomes a pack, in a process that is killed on its way once; its memory is
that process' own at the most, as the system counts it.
"""

import argparse
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one

from evalib import augment, dataset, manifest, rooms, sources, timing
from evalib.batches import Batches, Epochs
from evalib.config import Config

N, N_DIFFERENT, BATCH, WORKERS = 4000, 250, 64, 2
SIZES = (64, 128, 224)
NAMES = tuple(name for name in augment.ALL if name != "crop")  # so that all pictures are of a size


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("speed", "pack"))
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--samples", type=int, default=400_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--folder", type=Path, help="of the archive and its packs")
    args = parser.parse_args(arguments)
    torch.set_num_threads(WORKERS)  # as many cores as the loaders have
    print(timing.machine(), timing.utc_now()[:10], sep="; ")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        {"speed": speed, "pack": pack}[args.what](args, Path(folder))


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()


def rendered(size: int) -> dict[str, list[bytes]]:
    """JPEG of a few samples of one background."""
    shots = rooms.render(range(0, 4000, 4000 // N_DIFFERENT), size)
    return {kind: [encoded(image) for image in images] for kind, images in shots.items()}


def row(folder: Path, layout: str) -> None:
    path = folder / "mine.csv"
    path.write_text(f"tier,source,address,layout\nmine,folder,{folder / 'data'},{layout}\n")
    os.environ["EVALIB_MANIFEST"] = str(path)


# --- speed ------------------------------------------------------------------------------------


def speed(args: argparse.Namespace, folder: Path) -> None:
    files = rendered(224)
    names = [f"room1_{'flip_' * (i % 2)}dog{i // 40}_{i % 40}.png" for i in range(N)]
    folders = {"fg_bg": "fg_bg", "mask": "fg_bg_masks", "depth": "depth_maps"}
    for kind, place in folders.items():
        (folder / "data" / place).mkdir(parents=True)
        with zipfile.ZipFile(folder / "data" / place / "room1.zip", "w") as file:
            for i, name in enumerate(names):
                file.writestr(name, files[kind][i % N_DIFFERENT])
    (folder / "data" / "bg").mkdir()
    empty = encoded(rooms.render_backgrounds([0], 224)["bg"][0])
    (folder / "data" / "bg" / "room1.jpg").write_bytes(empty)
    row(folder, "C")
    source = sources.open_source(manifest.find("mine"), folder)
    ways = ("a", "b", "b, as c", "c", "d", "e", "f")
    print(f"{'px':>4}" + "".join(f"{way:>12}" for way in ways), "samples/s", sep="  ")
    for size in args.sizes:
        packed = dataset.build("mine", size, root=folder / "packs", progress=False)
        zips = {kind: folder / "data" / place / "room1.zip" for kind, place in folders.items()}
        made = [
            loaded(TheirZips(zips, names, size, again=True)),
            loaded(TheirZips(zips, names, size)),
            loaded(TheirZips(zips, names, size, transforms=our_transforms)),
            loaded(OurArchive(source, size)),
            augmented(packed),
            plain(packed),
            copied(packed),
        ]
        found = [rate(batches, args.seconds) for batches in made]
        print(f"{size:4}" + "".join(f"{value:12,.0f}" for value in found), flush=True)


def rate(batches: Iterator[int], seconds: float) -> float:
    """Samples a second, after the first batch."""
    next(batches)
    n = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        n += next(batches)
    return n / (time.perf_counter() - start)


def forever(make: Callable[[], Iterator]) -> Iterator:
    while True:
        yield from make()


class TheirZips(Dataset):
    """What people write: zipfile, Pillow, albumentations; the zip opened for each image, as one of
    the write-ups did, or once in each worker."""

    def __init__(
        self,
        zips: dict[str, Path],
        names: list[str],
        size: int,
        transforms: Callable | None = None,
        again: bool = False,
    ) -> None:
        self.zips = zips
        self.names = names
        self.size = size
        self.transforms = transforms or their_transforms
        self.again = again
        self.open: dict[str, zipfile.ZipFile] = {}
        self.bg = zips["fg_bg"].parents[1] / "bg" / "room1.jpg"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        if not hasattr(self, "transform"):
            self.transform = self.transforms(self.size)
        images = {"image": np.array(Image.open(self.bg))}
        for kind, mode in (("fg_bg", "RGB"), ("mask", "L"), ("depth", "L")):
            images[kind] = np.array(Image.open(io.BytesIO(self.read(kind, i))).convert(mode))
        return self.transform(**images)

    def read(self, kind: str, i: int) -> bytes:
        if self.again:
            with zipfile.ZipFile(self.zips[kind]) as file:
                return file.read(self.names[i])
        if kind not in self.open:
            self.open[kind] = zipfile.ZipFile(self.zips[kind])
        return self.open[kind].read(self.names[i])


def our_transforms(size: int) -> Callable:
    """Their resizing, then what (c) does."""
    import albumentations as A

    resize = A.Compose([A.Resize(size, size)], additional_targets={"fg_bg": "image"})
    transform = augment.albumentations(NAMES)
    keys = iter(range(10**9))

    def both(depth, **images):
        sample = resize(**images)
        sample["depth"] = resize(image=depth)["image"]
        sample["bg"] = sample.pop("image")
        return transform(sample, next(keys))

    return both


def their_transforms(size: int) -> Callable:
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    steps = [
        A.Resize(size, size),
        A.HorizontalFlip(p=0.5),
        A.HueSaturationValue(p=0.5),
        A.RandomBrightnessContrast(p=0.5),
        A.GaussNoise(p=0.5),
        A.Normalize(),
        ToTensorV2(),
    ]
    return A.Compose(steps, additional_targets={"fg_bg": "image", "depth": "mask"})


class OurArchive(Dataset):
    """The archive as `sources` reads it, augmented by sample."""

    def __init__(self, source: sources.Archive, size: int) -> None:
        self.source = source
        self.size = size
        self.index = source.index()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        if not hasattr(self, "transform"):
            self.transform = augment.albumentations(NAMES)
        record = self.index[i : i + 1]
        sample = self.source.render(record["id"], self.size)
        sample |= self.source.render_backgrounds(record["bg"], self.size)
        return self.transform({kind: image[0] for kind, image in sample.items()}, i)


def loaded(data: Dataset, workers: int = WORKERS) -> Iterator[int]:
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, drop_last=True)
    for batch in forever(lambda: iter(loader)):
        yield len(dataset.floats(batch)["mask"])  # of bytes; theirs are floats already


def augmented(packed: dataset.Pack) -> Iterator[int]:
    config = Config(sizes=((packed.size, 10**6),), batch_size=BATCH, augment=NAMES)
    batches = Batches(Epochs({packed.size: packed}, np.arange(len(packed)), config), config)
    for step in range(10**6):
        yield len(batches.prepare(batches.gather(step, packed.size))["mask"])


def shuffled(packed: dataset.Pack) -> Iterator[np.ndarray]:
    order = np.random.default_rng(0).permutation(len(packed))
    return forever(lambda: iter(np.array_split(order, len(order) // BATCH)))


def plain(packed: dataset.Pack) -> Iterator[int]:
    for rows in shuffled(packed):
        yield len(packed.batch(rows)["mask"])


def copied(packed: dataset.Pack) -> Iterator[int]:
    """As many bytes as the batch has at last, from one place in memory to another."""
    whole = packed.batch(np.arange(BATCH))
    while True:
        yield len({name: x.clone() for name, x in whole.items()}["mask"])


PACKING = """
import sys
import time
from pathlib import Path

from evalib import dataset

def memory(name):
    # of ru_maxrss, a child would begin with its parent's
    return int(Path("/proc/self/status").read_text().partition(name)[2].split()[0]) // 1024

before = memory("VmRSS:")
start = time.perf_counter()
packed = dataset.build("mine", 64, root=sys.argv[1], progress=False)
print(f"{len(packed):,} samples, {len(packed.problems)} problems", end=", ")
print(f"went on for {time.perf_counter() - start:.0f} s")
print(f"memory at most {memory('VmHWM:'):,} MiB; {before} before, with nothing but evalib imported")
"""

# --- pack -------------------------------------------------------------------------------------


def pack(args: argparse.Namespace, folder: Path) -> None:
    files = rendered(64)
    (folder / "data").mkdir()
    places = {"fg_bg": "", "mask": "_mask", "depth": "_depth_map"}
    empty = encoded(rooms.render_backgrounds([0], 64)["bg"][0])
    with zipfile.ZipFile(folder / "data" / "all.zip", "w") as file:
        for bg in range(-(-args.samples // 4000)):
            file.writestr(f"bg/bg{bg + 1:03}.jpeg", empty)
        for i in range(args.samples):
            name = f"bg{i // 4000 + 1:03}_fg{i // 40 % 100 + 1:03}_{i % 40 + 1:02}"
            for kind, end in places.items():
                member = f"bg_fg{end}/{name}{end}.jpeg"
                file.writestr(member, files[kind][i % N_DIFFERENT])
    row(folder, "A")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", PACKING, str(folder / "packs")]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        while not list((folder / "packs").glob("*/pack.json")):
            time.sleep(1)
        time.sleep(20)
        first.send_signal(signal.SIGKILL)
    done = next((folder / "packs").glob("*/pack.json")).read_text().partition('"done": ')[2]
    print(f"killed after {done.split()[0].strip(',')} samples, {time.perf_counter() - start:.0f} s")
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")
    size = sum(path.stat().st_size for path in (folder / "packs").rglob("*") if path.is_file())
    print(f"pack: {size / 1e9:.2f} GB, in all {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
