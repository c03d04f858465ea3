"""Is a run that was killed the run that was never stopped?

    python tests/benchmarks/bench_resume.py --kills 100

Sessions train in processes of their own, each with another number of workers, and are killed
(SIGKILL) at random moments: in a step, while a checkpoint is written, while it is copied to a slow
Drive. After half of the kills the local disk is lost, too. The run crosses ends of epochs and a
change of size. At its end, weights, optimizer, averaged weights and metrics.csv must be those of
an uninterrupted run, bit for bit. Then: what does saving cost?
"""

import argparse
import contextlib
import csv
import itertools
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "colab")]

from evalib import checkpoint, dataset, runs, timing, training  # noqa: E402

CONFIG = dict(sizes=((32, 50), (48, 30)), batch_size=8, log_every=5, evaluate_every=20, n_valid=8)
STEP, SAVE, COPY = "step", "save", "copy"
SLOW_S = 0.01  # each operation on Drive; a copy has about a dozen
EVERY_S = 0.3  # seconds between checkpoints, instead of ten minutes
LIMIT = 200  # samples: three epochs in a run


def main(kills: int = 100, seed: int = 0) -> None:
    """Kill and resume until there were `kills` kills, then print the tables."""
    print(f"{timing.machine()}; {timing.utc_now()[:10]}; seed {seed}\n")
    with tempfile.TemporaryDirectory() as folder:
        results = survive(Path(folder), kills, random.Random(seed))
    print(report(results))
    print(saving_cost())


def survive(folder: Path, kills: int, chance: random.Random) -> list[dict]:
    """Runs of both input ways in turn, killed and resumed; one result for each run."""
    for size, _ in CONFIG["sizes"]:
        dataset.build("mid-1000", size, limit=LIMIT, root=folder / "packs", progress=False)
    expected, results = {}, []
    for number in itertools.count():
        way = ("batch", "albumentations")[number % 2]
        if way not in expected:
            run = folder / f"straight-{way}"
            with session(folder, run, None, way, workers=0) as (child, _):
                assert child.wait() == 0
            expected[way] = final(run)
        run = folder / f"run-{number}"
        result = chain(folder, run, way, kills - sum(len(r["kills"]) for r in results), chance)
        result |= {"way": way, "same": same(final(run), expected[way])}
        results.append(result)
        shutil.rmtree(run)
        if sum(len(r["kills"]) for r in results) >= kills:
            return results


def chain(folder: Path, run: Path, way: str, kills: int, chance: random.Random) -> dict:
    """One run to its end, killed at most `kills` times on the way."""
    hits, torn, none, workers, lost, behind, saved = [], 0, 0, [], 0, 0, set()
    drive_dir = run.with_name(run.name + "-drive")
    while True:
        workers.append(chance.randrange(3))
        newest, since = max(map(newest_step, (run, drive_dir))), time.time()
        target = chance.choice((STEP, SAVE, COPY)) if len(hits) < kills else None
        with session(folder, run, drive_dir, way, workers[-1]) as (child, phase):
            hit = kill(child, phase, target, chance) if target else None
            if hit is None:
                assert child.wait() == 0, "a session failed by itself"
            begun = run / "sessions.csv"  # written once it has gone on: from the newest?
            if begun.exists() and begun.stat().st_mtime > since:
                behind += int(runs.read_sessions(run)[-1]["first_step"]) < newest
        if hit is None:
            shutil.rmtree(drive_dir)
            counts = {"torn": torn, "none": none, "lost": lost, "behind": behind}
            return {"kills": hits, "workers": workers} | counts
        hits.append(hit)
        for place in (run, drive_dir):
            names = sorted(place.glob("step-*.pt"))
            torn += bool(names) and not readable(names[-1])
            saved |= {place} if names else set()
            none += place in saved and newest_step(place) < 0
        if chance.random() < 0.5:  # the machine is gone, and its disk
            lost += 1
            saved.discard(run)
            shutil.rmtree(run)


@contextlib.contextmanager
def session(folder: Path, run: Path, drive_dir: Path | None, way: str, workers: int):
    """A new process that trains; the second value is its phase, in memory that both share."""
    with tempfile.TemporaryFile() as file:
        file.write(b"\0" * 2)
        file.flush()
        phase = mmap.mmap(file.fileno(), 2)
        settings = json.dumps([folder, run, drive_dir, way, workers, file.fileno()], default=str)
        child = subprocess.Popen(
            [sys.executable, __file__, settings],
            pass_fds=[file.fileno()],
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.DEVNULL,
        )
        try:
            yield child, phase
        finally:
            child.kill()
            child.wait()


def kill(child: subprocess.Popen, phase: mmap.mmap, target: str, chance: random.Random):
    """SIGKILL some time after the first step, in the phase `target` if it comes; where it hit, or
    None if the run was finished before."""
    while child.poll() is None and not phase[0]:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 1.2))
    wanted = {STEP: lambda: phase[0] == 1, SAVE: lambda: phase[0] == 2, COPY: lambda: phase[1]}
    end = time.monotonic() + 2
    while child.poll() is None and time.monotonic() < end and not wanted[target]():
        pass
    time.sleep(chance.uniform(0, {STEP: 0.01, SAVE: 0.01, COPY: 0.1}[target]))
    child.send_signal(signal.SIGKILL)
    if child.wait() != -signal.SIGKILL:
        return None
    return SAVE if phase[0] == 2 else COPY if phase[1] else STEP


def child(folder, run, drive_dir, way, workers, fd) -> None:
    """What a session does: train, and say in shared memory what it is doing."""
    import faults

    phase = mmap.mmap(fd, 2)
    write = checkpoint.write
    step = training.Learner.train_step

    def watched_write(place, *args, **options):
        where, before = (1, 0) if str(place) == drive_dir else (0, 1)
        phase[where] = 2
        path = write(place, *args, **options)
        phase[where] = before
        return path

    def watched_step(*args, **options):
        phase[0] = 1
        return step(*args, **options)

    checkpoint.write, training.Learner.train_step = watched_write, watched_step
    sizes = dict(CONFIG["sizes"])
    built = {
        s: dataset.build("mid-1000", s, limit=LIMIT, root=Path(folder) / "packs") for s in sizes
    }
    with faults.Drive(drive_dir or "/nowhere", faults.slow(SLOW_S)).mounted():
        training.train(
            training.Config(way=way, **CONFIG),
            built,
            run,
            drive_dir=drive_dir,
            device="cpu",
            workers=workers,
            checkpoint_every=EVERY_S,
            progress=False,
        )


def readable(path: Path) -> bool:
    with contextlib.suppress(ValueError):
        return bool(checkpoint.load(path))
    return False


def newest_step(folder: Path) -> int:
    """Of the checkpoints in `folder` that can be read; -1 if none can."""
    names = sorted(folder.glob("step-*.pt"), reverse=True)
    return next((int(path.name[5:15]) for path in names if readable(path)), -1)


def named_step(folder: Path) -> int:
    """Of the newest checkpoint in `folder`, whole or not: quick to tell; -1 if there is none."""
    return max((int(path.name[5:15]) for path in folder.glob("step-*.pt")), default=-1)


def final(run: Path) -> dict:
    """What must not depend on kills: the last state, metrics.csv but for times, TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, state = checkpoint.newest([run])
    with open(run / "metrics.csv", newline="") as file:
        rows = [{k: v for k, v in r.items() if not k.endswith("_s")} for r in csv.DictReader(file)]
    events = EventAccumulator(str(run / "tensorboard")).Reload().Scalars("loss")
    kept = {name: state[name] for name in ("model", "optimizer", "ema", "step")}
    return {**kept, "metrics.csv": rows, "TensorBoard": [(e.step, e.value) for e in events]}


def same(found: dict, expected: dict) -> dict[str, bool]:
    return {name: equal(found[name], expected[name]) for name in expected}


def equal(a, b) -> bool:
    """Equal to the last bit, down through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def report(results: list[dict]) -> str:
    """The results as text, with two tables."""
    hits = [hit for result in results for hit in result["kills"]]
    used = [n for result in results for n in result["workers"]]
    total = {key: sum(r[key] for r in results) for key in ("torn", "none", "lost", "behind")}
    lines = [
        f"{len(hits)} kills in {len(results)} runs: "
        + ", ".join(f"{hits.count(where)} in mid {where}" for where in (STEP, SAVE, COPY))
        + f"; {total['lost']} of them with the local disk lost. {len(used)} sessions: "
        + ", ".join(f"{used.count(n)} with {n} workers" for n in range(3)),
        "",
        "| after the kill, local disk and Drive | times |",
        "|---|---|",
        f"| the file with the newest name was unreadable | {total['torn']} |",
        f"| no checkpoint was readable where there had been one | {total['none']} |",
        f"| the next session began behind the newest readable one | {total['behind']} |",
        "",
        "| at the end, bit for bit as never stopped | runs |",
        "|---|---|",
    ]
    for name in results[0]["same"]:
        good = sum(r["same"][name] for r in results)
        lines.append(f"| {name} | {good} of {len(results)} |")
    return "\n".join(lines)


def saving_cost(rounds: int = 3, every_s: float = 1.0, n_steps: int = 300) -> str:
    """Training with a save each `every_s` and without any but the last, in turns, as one line."""
    clocks, times, n_saves = {"saving": every_s, "not saving": 1e9}, {}, {}
    config = training.Config(sizes=((64, n_steps),), log_every=100, evaluate_every=100, n_valid=64)
    with tempfile.TemporaryDirectory() as folder:
        pack = dataset.build("mid-1000", 64, root=Path(folder) / "packs", progress=False)
        for _, (name, clock) in itertools.product(range(rounds), clocks.items()):
            run = Path(folder) / "run"
            shutil.rmtree(run, ignore_errors=True)
            options = dict(drive_dir=run / "drive", checkpoint_every=clock, progress=False)
            with mock.patch.object(checkpoint, "serialise", wraps=checkpoint.serialise) as save:
                begin = time.monotonic()
                training.train(config, {64: pack}, run, **options)
            times.setdefault(name, []).append(time.monotonic() - begin)
            n_saves[name] = n_saves.get(name, 0) + save.call_count
    more = sum(times["saving"]) - sum(times["not saving"])
    each = more / (n_saves["saving"] - n_saves["not saving"])
    took = " and ".join(f"{', '.join(f'{t:.1f}' for t in ts)} s {k}" for k, ts in times.items())
    return (
        f"\nSaving: {n_steps} steps at 64 px took {took}: {1000 * each:.0f} ms a checkpoint, with "
        f"its copy to Drive's folder. One in 10 minutes is {100 * each / 600:.3f} % of the time."
    )


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("["):
        warnings.simplefilter("ignore")
        child(*json.loads(sys.argv[1]))
    else:
        parser = argparse.ArgumentParser(description="Kill a run again and again; is it the same?")
        parser.add_argument("--kills", type=int, default=100)
        main(parser.parse_args().kills)
