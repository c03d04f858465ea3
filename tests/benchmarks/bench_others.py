"""Checkpoints of Lightning, Accelerate and evalib side by side: killed in mid save, resumed.

A. A process saves 24 MB (a network and AdamW's state) again and again, gets SIGKILL at some moment
   after its third save, and a new process reads what is left with the tool's own reader. "Newest"
   is what the tool resumes from: `last.*`, or the highest number. The folder is on another
   filesystem than temporary files, as Google Drive is on Colab.
B. A run of 60 steps in epochs of 20 stops after step 27 and goes on in a new process: is it still
   the run that was never stopped? Order, flips and brightness are random; every tool is seeded,
   saved and resumed as its documentation says. Two unstopped runs show that it can repeat itself.
   Of the 104 samples that the epoch still needs, some come a second time; as many never come.

All of it runs on the CPU, under Linux (it forks), in a few minutes:

    pip install -r tests/benchmarks/requirements.txt
    python tests/benchmarks/bench_others.py [FOLDER]    (on Colab: /content/drive/MyDrive)
"""

import hashlib
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import date
from functools import partial
from importlib.metadata import version
from itertools import count, product
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one
from evalib import checkpoint, dataset, losses, timing, training

try:
    import lightning.pytorch as pl
except ImportError:
    pl = None
NO_LIGHTNING = "Lightning is left out: pip install -r tests/benchmarks/requirements.txt"

FORK = multiprocessing.get_context("fork")
N_SAMPLES, BATCH, PER_EPOCH, N_STEPS, STOP = 160, 8, 160 // 8, 60, 27
# What a tool resumes from first: `last`, or the highest number.
NAME = re.compile(r"last\.|(epoch=\d+-step=|checkpoint_|step-)(?P<number>\d+)")
Send = Callable[[object], None]
Save, Load = Callable[[Path, Send], None], Callable[[Path], object]  # save: for ever
Result = tuple[list[list[int]], str]  # samples of each step; hash of the final weights
Train = Callable[[Path, int, int | None], Result]  # folder, workers, step to stop after


def main(folder: str | None = None, n_kills: int = 60) -> None:
    """Print versions and machine, then table A and table B; save to `folder`, or to memory."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before CUDA starts: it does not survive a fork
    torch.set_num_threads(1)  # neither do OpenMP's threads
    choices = [folder] if folder else ["/dev/shm", tempfile.gettempdir()]
    parent = next((Path(choice) for choice in choices if os.access(choice, os.W_OK)), None)
    if parent is None:
        raise SystemExit(f"{folder} is no folder that can be written to: name another")
    print(date.today(), timing.machine(), f"accelerate {version('accelerate')}", sep=", ")
    print(f"lightning {version('lightning')}, fsspec {version('fsspec')}" if pl else NO_LIGHTNING)
    same = parent.stat().st_dev == os.stat(tempfile.gettempdir()).st_dev
    other = "the SAME filesystem, unlike on Colab" if same else "another filesystem"
    print(f"\nA. SIGKILL while saving to {parent}; temporary files on {other}; n = {n_kills}\n")
    print_kills(n_kills, parent)
    print(f"\nB. Stopped after step {STOP} of {N_STEPS}, in epochs of {PER_EPOCH}; n = 1\n")
    print_resumes(parent)


@contextmanager
def session(work: Callable[[Send], object]) -> Iterator[Connection]:
    """Run work(send) in a process that is killed on leaving; yields what receives.

    It is forked, because to import everything anew takes seconds; as the parent only waits, a
    session still knows nothing of the one before but what that wrote to the disk.
    """
    with tempfile.TemporaryDirectory() as scratch:
        receiver, sender = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_quietly, args=(work, sender.send, scratch))
        process.start()
        sender.close()  # so that a session which fails ends the wait for it
        try:
            yield receiver
        finally:
            process.kill()
            process.join()


def _quietly(work: Callable[[Send], object], send: Send, scratch: str) -> None:
    tempfile.tempdir = scratch  # what Lightning stages here, a kill leaves behind
    logging.disable()
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as sink, redirect_stdout(sink), redirect_stderr(sink):
        work(send)


def print_kills(n: int, parent: Path) -> None:
    print("| writer | newest checkpoint unreadable | no readable checkpoint left |")
    print("|---|---:|---:|")
    for name, (save, load) in writers().items():
        rng = np.random.default_rng(0)
        left = [_survivors(save, load, parent, rng) for _ in range(n)]
        newest, none = (sum(not any(readable[:k]) for readable in left) for k in (1, None))
        print(f"| {name} | {newest}/{n} | {none}/{n} |", flush=True)


def _survivors(save: Save, load: Load, parent: Path, rng: np.random.Generator) -> list[bool]:
    """Kill one session; which of the checkpoints it left can be read, newest first."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        with session(partial(save, Path(folder))) as receiver:
            times = [receiver.recv() for _ in range(3)]
            time.sleep(rng.uniform(0, 3) * (times[2] - times[0]) / 2)  # 0 to 3 saves more
        with session(partial(_read, load, Path(folder))) as receiver:
            return receiver.recv()


def _read(load: Load, folder: Path, send: Send) -> None:
    names = [(NAME.match(path.name), path) for path in folder.rglob("*")]
    found = [(float(name["number"] or "inf"), path) for name, path in names if name]
    readable = []
    for _, path in sorted(found, reverse=True):
        readable.append(True)
        try:
            load(path)
        except Exception:  # each library raises its own kinds; all mean that this one is lost
            readable[-1] = False
    send(readable)


def writers() -> dict[str, tuple[Save, Load]]:
    """The rows of table A; what the first two give is known and checks the method."""
    rows = {}
    for how, name in ((" over `last.pt`", "last.pt"), (" beside it, `os.replace`", "new.pt")):
        rows[f"`torch.save`{how}"] = partial(save_state, partial(_torch_save, name)), torch.load
    for k in (0, 1) if pl else ():
        name = f"Lightning `ModelCheckpoint(save_last=True, save_top_k={k})`"
        rows[name] = partial(save_lightning, k), pl.plugins.io.TorchCheckpointIO().load_checkpoint
    for limit in (1, 3):
        name = f"Accelerate `save_state`, `total_limit={limit}`"
        rows[name] = partial(save_accelerate, limit), load_accelerate
    rows["evalib `checkpoint.write`"] = partial(save_state, _write), checkpoint.load
    return rows


def trained() -> tuple[nn.Module, AdamW]:
    """Two million weights and, after one step, AdamW's two moments of each: 24 MB."""
    net = nn.Linear(2000, 1000)
    optimizer = AdamW(net.parameters())
    net.weight.grad = torch.ones_like(net.weight)
    optimizer.step()
    return net, optimizer


def save_state(save: Callable[[Path, dict], object], folder: Path, send: Send) -> None:
    net, optimizer = trained()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
    for step in count():
        save(folder, state | {"step": step})
        send(time.monotonic())


def _write(folder: Path, state: dict) -> None:
    checkpoint.write(folder, *checkpoint.serialise(state))


def _torch_save(name: str, folder: Path, state: dict) -> None:
    torch.save(state, folder / name)
    os.replace(folder / name, folder / "last.pt")  # changes nothing if that is the name


def save_lightning(save_top_k: int, folder: Path, send: Send) -> None:
    def loss(step: int, batch: Tensor) -> Tensor:  # next to no work between two saves
        if step:  # the callback saved at the end of the step before
            send(time.monotonic())
        return net.bias.sum()

    net, optimizer = trained()
    fit((net, optimizer, DataLoader(range(10**6))), loss, folder, every=1, save_top_k=save_top_k)


def save_accelerate(total_limit: int, folder: Path, send: Send) -> None:
    naming = {"automatic_checkpoint_naming": True, "total_limit": total_limit}
    accelerator = Accelerator(cpu=True, project_config=ProjectConfiguration(str(folder), **naming))
    accelerator.prepare(*trained())
    while True:
        accelerator.save_state()
        send(time.monotonic())


def load_accelerate(path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(*trained())
    accelerator.load_state(str(path))


def print_resumes(parent: Path) -> None:
    print("| tool | workers | unstopped runs agree | resumed run agrees | samples trained twice |")
    print("|---|---:|---|---|---:|")
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        for (name, train), workers in product(trainings(Path(folder)).items(), (0, 2)):
            row = _compare(train, Path(folder, f"{name}-{workers}"), workers)
            print(f"| {name} | {workers} | {' | '.join(row)} |", flush=True)


def trainings(folder: Path) -> dict[str, Train]:
    """The rows of table B."""
    pack = dataset.build("mid-1000", 32, limit=N_SAMPLES, root=folder, progress=False)
    rows = {"Lightning `fit(ckpt_path='last')`": train_lightning} if pl else {}
    return rows | {
        "Accelerate `skip_first_batches`": partial(train_accelerate, False),
        "Accelerate, `use_seedable_sampler`, `set_epoch`": partial(train_accelerate, True),
        "evalib `train`": partial(train_evalib, pack),
    }


def _compare(train: Train, folder: Path, workers: int) -> tuple[str, str, str]:
    """The last three cells of a row."""

    def run(name: str, stop: int | None = None) -> Result:
        with session(lambda send: send(train(folder / name, workers, stop))) as receiver:
            return receiver.recv()

    (_, one), (_, two) = run("one"), run("two")
    (before, _), (after, resumed) = run("stopped", STOP), run("stopped")
    assert (len(before), len(after)) == (STOP, N_STEPS - STOP), f"{len(before)}, {len(after)} steps"
    start = STOP - STOP % PER_EPOCH
    samples = sum((before + after)[start : start + PER_EPOCH], [])
    twice = f"{len(samples) - len(set(samples))} of {(start + PER_EPOCH - STOP) * BATCH}"
    return ("no", "yes")[one == two], ("no", "yes")[one == resumed], twice


def _hash(weights: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(x.numpy().tobytes() for x in weights.values())).hexdigest()


class Pictures(TensorDataset):
    """Flipped and made lighter or darker at random, in the way that datasets often are."""

    def __getitem__(self, i: int) -> tuple[int, Tensor]:
        picture = self.tensors[0][i].flip([-1] if torch.rand(()) < 0.5 else [])
        return i, picture * np.random.uniform(0.8, 1.2)  # noqa: NPY002


def _beginning(workers: int) -> tuple[nn.Module, AdamW, DataLoader]:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    pictures = Pictures(torch.rand(N_SAMPLES, 3, 16, 16))
    return net, AdamW(net.parameters()), DataLoader(pictures, BATCH, True, num_workers=workers)


def train_lightning(folder: Path, workers: int, stop: int | None) -> Result:
    def loss(step: int, batch: tuple[Tensor, Tensor]) -> Tensor:
        samples.append(batch[0].tolist())
        return nn.functional.mse_loss(net(batch[1]), batch[1])

    samples: list[list[int]] = []
    pl.seed_everything(0, workers=True)
    net, *_ = parts = _beginning(workers)
    fit(parts, loss, folder, every=STOP, max_steps=stop or N_STEPS)
    return samples, _hash(net.state_dict())


def fit(parts, loss: Callable, folder: Path, every: int, *, save_top_k=1, max_steps=-1) -> None:
    """Lightning's loop over `parts` (net, optimizer, loader), from its last checkpoint if any."""
    net, optimizer, loader = parts

    class Module(pl.LightningModule):
        def configure_optimizers(self) -> AdamW:
            return optimizer

        def training_step(self, batch: object, index: int) -> Tensor:
            return loss(self.global_step, batch)

    module = Module()
    module.net = net
    saving = {"save_last": True, "save_top_k": save_top_k, "every_n_train_steps": every}
    callbacks = [pl.callbacks.ModelCheckpoint(folder, **saving)]
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", max_steps=max_steps, callbacks=callbacks, **quiet)
    trainer.fit(module, loader, ckpt_path="last")


def train_accelerate(best: bool, folder: Path, workers: int, stop: int | None) -> Result:
    """`best`: with the options that make an epoch's order a function of its number."""
    set_seed(0)
    config = DataLoaderConfiguration(use_seedable_sampler=best)
    accelerator = Accelerator(cpu=True, dataloader_config=config)
    net, optimizer, loader = accelerator.prepare(*_beginning(workers))
    samples, step = [], 0
    if folder.exists():
        accelerator.load_state(str(folder))
        step = STOP
    while step < (stop or N_STEPS):
        epoch, skip = divmod(step, PER_EPOCH)
        if best:
            loader.set_epoch(epoch)
        for rows, x in accelerator.skip_first_batches(loader, skip) if skip else loader:
            samples.append(rows.tolist())
            accelerator.backward(nn.functional.mse_loss(net(x), x))
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step == stop:
                accelerator.save_state(str(folder))
                break
    return samples, _hash(net.state_dict())


def train_evalib(pack: dataset.Pack, folder: Path, workers: int, stop: int | None) -> Result:
    def note(self: losses.Loss, out: dict, batch: dict) -> tuple[Tensor, dict]:
        samples.append(batch["row"].tolist())
        if len(samples) == stop:
            signal.raise_signal(signal.SIGINT)  # the stop button
        return call(self, out, batch)

    samples: list[list[int]] = []
    call, losses.Loss.__call__ = losses.Loss.__call__, note
    # Of evalib's two ways to augment, the one that does it in the workers, as the others do.
    config = training.Config(sizes=((32, N_STEPS),), batch_size=BATCH, way="albumentations")
    training.train(config, {32: pack}, folder, device="cpu", workers=workers, progress=False)
    return samples, _hash(checkpoint.newest([folder])[1]["model"])


if __name__ == "__main__":
    main(*sys.argv[1:2])
