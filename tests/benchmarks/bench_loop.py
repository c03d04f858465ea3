"""Training `small` as evalib does it, beside a plain loop; where the time goes; memory.

    python tests/benchmarks/bench_loop.py [speed] [memory] [stream] [evaluation]

Each part runs in a process of its own. The plain loop has the same network, loss and optimizer, in
float32 and contiguous memory, from a Dataset that gives one sample at a time out of the same pack,
by a DataLoader. It has neither averaged weights nor clipping. Speeds are of CPU time, worker
processes included, in alternating rounds: neighbours slow both alike. Without a GPU only.
"""

import argparse
import contextlib
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one

import repeated

import evalib
from evalib import augment, dataset, metrics, recipes, timing, training, unet
from evalib.config import Config
from evalib.losses import Loss
from evalib.optimizers import OPTIMIZERS
from evalib.rng import sample_keys
from evalib.training import Learner, ranks

SIZE, BATCH = 64, 64
N_SAMPLES = 2048
ROUNDS, STEPS = 5, 20
AUGMENT = tuple(name for name in augment.ALL if name != "crop")  # as notebook 04
EPOCHS = 50
STREAMED = 10  # steps of a stream that count as an epoch
Data = dict[int, dataset.Pack] | str
N_EVALUATED = 80_000


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--evaluated", type=int, default=N_EVALUATED, help="samples")
    args = parser.parse_args(arguments)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; choose of {', '.join(PARTS)}")
    if len(args.parts) == 1:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[args.parts[0]](Path(folder), args)
        return
    print(timing.machine(), timing.utc_now()[:10], sep="; ", flush=True)
    sizes = ["--rounds", args.rounds, "--epochs", args.epochs, "--evaluated", args.evaluated]
    for part in args.parts or PARTS:
        subprocess.run([sys.executable, __file__, part, *map(str, sizes)], check=True)


def speed(folder: Path, args: argparse.Namespace) -> None:
    """Samples a CPU second of both loops, without and with augmentation, and our blocks."""
    pack = repeated.build("wide-400k", SIZE, N_SAMPLES, folder)
    for names in ((), AUGMENT):
        config = _config(names, 1_000_000)
        with patch.object(ranks, "precision", lambda device: "no"):
            precise = Learner(config, {SIZE: pack}, device="cpu")
        learner = Learner(config, {SIZE: pack}, device="cpu")
        loops = {
            "evalib": lambda learner=learner: ours(learner),
            "evalib, float32": lambda learner=precise: ours(learner),
            "plain": lambda names=names: plain(pack, names, workers=0),
            "plain, 2 workers": lambda names=names: plain(pack, names, workers=2),
        }
        rates = {name: [] for name in loops}
        for _, (name, loop) in itertools.product(range(args.rounds + 1), loops.items()):
            rates[name].append(STEPS * BATCH / cpu_s(loop))
        usual = {name: np.median(found[1:]) for name, found in rates.items()}  # the first warms up
        print(f"\nsamples per CPU second, {'augmented' if names else 'as they are'}:")
        for name, rate in usual.items():
            ratio = usual["evalib"] / rate
            print(f"{name:18}{rate:7.0f}   evalib is {ratio:.2f} times as fast")
        spent = learner.timer.seconds
        total = sum(spent.values())
        print("evalib's time: " + ", ".join(f"{k} {v / total:.1%}" for k, v in spent.items()))
        step_s = BATCH / usual["evalib"]
        share = timer_s(len(spent)) / step_s
        print(f"a step {1000 * step_s:.0f} ms of CPU time; timing it {share:.3%} of that")


def ours(learner: Learner) -> None:
    with contextlib.closing(learner.to_come()) as batches:
        for _ in range(STEPS):
            learner.train_step(batches)


class Samples(Dataset):
    """One sample at a time, as most loops do it; augmented by albumentations."""

    def __init__(self, pack: dataset.Pack, names: tuple[str, ...]) -> None:
        self.pack = pack
        self.transform = augment.albumentations(names) if names else lambda sample, key: sample

    def __len__(self) -> int:
        return len(self.pack)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        raw = self.pack.gather(np.array([row]))
        images = {name: x[0].numpy() for name, x in raw.items() if name != "row"}
        images = self.transform(images, int(sample_keys(0, 0, [row])[0]))
        tensors = {}
        for name, x in images.items():
            x = torch.from_numpy(np.ascontiguousarray(x))
            tensors[name] = (x[None] if x.ndim == 2 else x.permute(2, 0, 1)).float() / 255
        return tensors


def plain(pack: dataset.Pack, names: tuple[str, ...], workers: int) -> None:
    torch.manual_seed(0)
    model = recipes.build("small").train()
    optimizer = OPTIMIZERS["adamw"](model.parameters(), 4e-3, 1e-2)
    loss_of = Loss()
    loader = DataLoader(Samples(pack, names), BATCH, shuffle=True, num_workers=workers)
    batches = iter(loader)
    with patch.object(unet, "normal", lambda image: (image - 0.5) / 0.25):  # contiguous
        for _ in range(STEPS):
            batch = next(batches)
            loss, _ = loss_of(model(batch["bg"], batch["fg_bg"]), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if workers:
        batches._shutdown_workers()  # only then the system tells their time


def cpu_s(work: Callable[[], None]) -> float:
    """CPU seconds of this process and of its children that ended."""
    before = os.times()
    work()
    return sum(os.times()[:4]) - sum(before[:4])


def timer_s(blocks: int, n: int = 10_000) -> float:
    """Seconds that the timer takes for the blocks of a step."""
    timer = timing.Timer()
    begin = time.process_time()
    for _ in range(n):
        with timer("nothing"):
            pass
    return blocks * (time.process_time() - begin) / n


def memory(folder: Path, args: argparse.Namespace) -> None:
    """What training of a small tier holds."""
    pack = repeated.build("mid-1000", SIZE, 1000, folder)
    valid = repeated.build("evaluation", SIZE, 256, folder)
    steps = len(pack.split()["train"]) // BATCH
    config = _config(AUGMENT, args.epochs * steps, log_every=steps, evaluate_every=5 * steps)
    print(f"\nmemory, {args.epochs} epochs of {len(pack)} samples of {SIZE} px")
    _print_held(config, {SIZE: pack}, valid, folder)


def stream(folder: Path, args: argparse.Namespace) -> None:
    """What training on a stream holds, as notebook 04 without a GPU."""
    valid = repeated.build("evaluation", 128, 512, folder)
    every = {"log_every": STREAMED, "evaluate_every": 5 * STREAMED}
    config = _config(AUGMENT, args.epochs * STREAMED, (64, 128, 128), reuse=1, **every)
    print(f"\nmemory, a stream of 64 and 128 px, a logged row each {STREAMED} steps")
    _print_held(config, "wide-400k", valid, folder)


def _print_held(config: Config, data: Data, valid: dataset.Pack, folder: Path) -> None:
    """Memory at each logged row of a run, evaluation and saving included."""
    held = []
    rendering = []
    log = Learner.log

    def watched(learner: Learner, scores: dict) -> dict:
        held.append(own_mib())
        rendering.append(0.0)
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                rendering[-1] += own_mib(child)
        return log(learner, scores)

    with patch.object(Learner, "log", watched):
        options = {"valid": valid, "device": "cpu", "progress": False, "checkpoint_every": 20}
        training.train(config, data, folder / "run", **options)
    shown = sorted({0, 4, 9, len(held) // 2, len(held) - 1} & set(range(len(held))))
    print("MiB of its own: " + ", ".join(f"{held[k]:.0f} after row {k + 1}" for k in shown))
    print(f"resident at most {peak_mib():.0f} MiB, pages of files included")
    print("processes that render: " + ", ".join(f"{rendering[k]:.0f}" for k in shown))


def evaluation(folder: Path, args: argparse.Namespace) -> None:
    """What scoring a large subset holds: it must not grow with the number of samples."""
    pack = repeated.build("full-400k", SIZE, args.evaluated, folder)
    model = evalib.load(device="cpu")
    held = [own_mib()]

    def watched(batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        for batch in batches:
            held.append(own_mib())
            yield batch

    rows = np.arange(len(pack))
    metrics.evaluate(unet.predictor(model), watched(pack.batches(rows, BATCH)))
    pack_mib = sum(path.stat().st_size for path in pack.path.glob("*.u8")) / 2**20
    print(f"\nevaluation of {len(pack):,} samples of {SIZE} px, a pack of {pack_mib:.0f} MiB:")
    parts = np.array_split(held[1:], min(10, len(held) - 1))
    print(f"{held[0]:.0f} MiB of its own before; at most in each tenth of the samples:")
    print(", ".join(f"{part.max():.0f}" for part in parts))


def own_mib(process: psutil.Process | None = None) -> float:
    """Resident memory that is no page of a file, which the system takes back when it likes."""
    info = (process or psutil.Process()).memory_info()
    return (info.rss - info.shared) / 2**20


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _config(
    names: tuple[str, ...], n_steps: int, sizes: tuple[int, ...] = (SIZE,), **changes: int
) -> Config:
    return Config(sizes=((sizes, n_steps),), batch_size=BATCH, augment=names, **changes)


PARTS = {"speed": speed, "memory": memory, "stream": stream, "evaluation": evaluation}

if __name__ == "__main__":
    main()
