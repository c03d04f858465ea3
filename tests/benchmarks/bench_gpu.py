"""Everything that a GPU has to show, in one command of less than ten minutes, without a network:

    python tests/benchmarks/bench_gpu.py [PART ...] [--out output/gpu.json]

Each part prints a table and stands in the file as soon as it is done. A part that fails leaves its
traceback there, the others go on, and the exit status is 1. Where there is no GPU the same runs on
the CPU; EVALIB_SMOKE=1 makes it tiny, to see that it works.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this evalib, not an installed one

import bench_resume
import card
import repeated

import evalib
from evalib import (
    config,
    dataset,
    manifest,
    metrics,
    rooms,
    runs,
    timing,
    training,
    unet,
)
from evalib.training import ranks, session

Rows = list[dict[str, object]]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300  # with a process of ours
SMOKE = os.environ.get("EVALIB_SMOKE") == "1"
CUDA = card.CUDA
DEVICE = card.DEVICE
TESTS = ROOT / "tests" / ("test_cuda.py" if SMOKE and not CUDA else "")
NOTEBOOKS = ("02_*", "03_*", "04_*", "05_*") if CUDA or not SMOKE else ("02_*",)
ROOMS_SIZES = (64,) if SMOKE else (64, 128, 224)  # px
PROCESSES = sorted({config.cores()} if SMOKE else {1, config.cores()})
ROOMS_S = 0.2 if SMOKE else 4.0  # seconds of rendering a figure
A_BACKGROUND = 32  # samples rendered of each background
NETWORKS = ("small",) if SMOKE else ("small", "lean", "resnet")
BATCHES = (8, 16) if SMOKE else (64, 256, 1024, 2048)
SIZE = 32 if SMOKE else 64  # px, of training
N_PACK = 64 if SMOKE else 4096  # samples
STEP_S = 0.2 if SMOKE else 3.0  # seconds of training a figure
PRECISE_STEPS = 4 if SMOKE else 200  # before two precisions are compared
STREAMED = (32,) if SMOKE else (64, 128, 128)  # px, that take turns
WINDOW = 128 if SMOKE else 4096  # samples rendered before the first step
N_VALID = 2 if SMOKE else 128
KILLS = 1 if SMOKE else 3
KILLED_STEPS = 30 if SMOKE else 600
FRAME_SIZES = (64,) if SMOKE else (64, 128, 224, 448)
FRAME_S = 0.1 if SMOKE else 1.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("output/gpu.json"))
    args = parser.parse_args(arguments)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; choose of {', '.join(PARTS)}")
    found = {"machine": timing.machine(), "began": timing.utc_now(), "smoke": SMOKE, "parts": {}}
    print(found["machine"], found["began"], sep="\n", flush=True)
    for name in args.parts or PARTS:
        part = attempt(PARTS[name])
        found["parts"][name] = part
        runs.write_json(args.out, found)
        print(f"\n{name}, {part['seconds']:.0f} s: {PARTS[name].__doc__.partition('.')[0]}")
        print(part.get("failed") or metrics.format_table(part["rows"], columns(part["rows"])))
        sys.stdout.flush()
    return int(any("failed" in part for part in found["parts"].values()))


def attempt(part: Callable[[Path], Rows]) -> dict[str, object]:
    """Rows of a part, which gets an empty folder, or what went wrong."""
    begin = time.monotonic()
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            result["rows"] = part(Path(folder))
        except Exception:  # one broken part must not hide what the others have to say
            result["failed"] = traceback.format_exc()
    return result | {"seconds": round(time.monotonic() - begin, 1)}


def columns(rows: Rows) -> list[str]:
    """Every name that occurs, in order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def tests(folder: Path) -> Rows:
    """The tests marked `cuda`."""
    command = ["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "-W", "default"]
    return [{"tests": finished([*command, TESTS], ROOT)}]


def notebooks(folder: Path) -> Rows:
    """Notebooks from top to bottom at smoke size, in a copy of the project."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("evalib", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "data_manifest.csv", folder)
    (folder / "pytest.ini").write_text("[pytest]\n")  # nothing of the tests' settings
    options = "-q -x -p no:cacheprovider -W ignore --nbval-lax --nbval-current-env"
    command = ["-m", "pytest", *options.split(), "--nbval-cell-timeout=300"]
    rows = []
    for pattern in NOTEBOOKS:
        (path,) = (folder / "notebooks").glob(f"{pattern}.ipynb")
        said = finished([*command, path], folder, EVALIB_SMOKE="1")
        rows.append({"notebook": path.stem, "cells": said})
    sessions = (folder / "output").rglob("sessions.csv")
    machines = {runs.read_sessions(path.parent)[-1]["machine"] for path in sessions}
    return rows + [{"notebook": "trained on", "cells": machine} for machine in machines]


def finished(command: list, folder: Path, **environment: str) -> str:
    """The last line that a Python process printed. Raises: RuntimeError: its status is not 0."""
    command = [sys.executable, *map(str, command)]
    said = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    if said.returncode:
        tail = "\n".join((said.stdout + said.stderr).splitlines()[-60:])
        raise RuntimeError(f"{' '.join(command)} ended with {said.returncode}:\n{tail}")
    return said.stdout.strip().splitlines()[-1]


def rendering(folder: Path) -> Rows:
    """Rooms, fresh backgrounds of 32 samples each, in one process and in one a core."""
    rows = []
    for size in ROOMS_SIZES:
        row = {"px": size}
        for n in PROCESSES:
            context = multiprocessing.get_context("spawn")
            together = context.Barrier(n, timeout=PATIENCE_S)
            with context.Pool(n, hold, (together,)) as pool:
                found = pool.starmap(render_rate, [(size, k) for k in range(n)], chunksize=1)
            row[f"samples/s, {n} processes"] = round(sum(found))
        rows.append(row)
    return rows


def hold(together) -> None:
    """Keep what the workers wait at; a barrier cannot be an argument of a task."""
    global barrier
    barrier = together
    torch.set_num_threads(1)


def render_rate(size: int, worker: int) -> float:
    """Samples a second of this worker, while all of them render."""
    first = 1000 * worker  # backgrounds of its own
    render(first, size)  # compiles, or reads what was compiled
    barrier.wait()
    n = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < ROOMS_S:
        n += 1
        render(first + n, size)
    return n * A_BACKGROUND / (time.perf_counter() - begin)


def render(bg: int, size: int) -> None:
    of_a_background = manifest.N_FG * manifest.N_PLACEMENTS
    spread = range(0, of_a_background, of_a_background // A_BACKGROUND)
    rooms.render_backgrounds([bg], size)
    rooms.render([bg * of_a_background + k for k in spread], size)


def speed(folder: Path) -> Rows:
    """Training, from a pack in memory; shares are of the time and of what the card can do."""
    pack = repeated.build("wide-400k", SIZE, N_PACK, folder)
    precision = config.precision(DEVICE)
    rows = []
    for network in NETWORKS:
        for batch_size in BATCHES:
            row = {"network": network, "batch": batch_size, "precision": precision}
            try:
                row |= train_rate(network, batch_size, pack)
            except torch.OutOfMemoryError:
                row["note"] = "out of memory"
            rows.append(row)
    return rows


def precisions(folder: Path) -> Rows:
    """`small` with each precision: fp16 as on a T4, bf16, float32."""
    pack = repeated.build("wide-400k", SIZE, N_PACK, folder)
    rows = []
    for precision in ("no", "bf16", "fp16") if CUDA else ("no", "bf16"):
        with patch.object(ranks, "precision", lambda device, name=precision: name):
            row = train_rate("small", BATCHES[1], pack, precision, PRECISE_STEPS)
        rows.append({"precision": precision} | row)
    return rows


def train_rate(
    network: str,
    batch_size: int,
    pack: dataset.Pack,
    precision: str | None = None,
    n_before: int = 4,
) -> dict[str, object]:
    """Speed after `n_before` steps; the loss of the last of them."""
    card.release()
    settings = config.Config(network=network, sizes=((SIZE, 1_000_000),), batch_size=batch_size)
    trained = training.Learner(settings, {SIZE: pack}, device=DEVICE.type)
    with contextlib.closing(trained.to_come()) as batches, session.repeating_exactly(DEVICE):

        def step():
            return trained.train_step(batches)

        for _ in range(n_before):
            loss = float(step())
        waits = card.n_waits(step)
        trained.timer.reset()
        step_s = card.seconds(step, STEP_S)
        blocks = trained.timer.seconds
        overall_s = sum(blocks.values())
    precision = precision or config.precision(DEVICE)
    bytes_s, flops_s = card.limits(precision)
    flops, n_bytes = card.cost(network, SIZE, precision)
    return {
        "samples/s": round(batch_size / step_s),
        "data wait": blocks["data"] / overall_s,
        "of bandwidth": batch_size * n_bytes / bytes_s / step_s,
        "of arithmetic": batch_size * flops / flops_s / step_s,
        "waits": waits,
        "peak MiB": card.peak_mib(),
        "loss": loss,
    }


def first_step(folder: Path) -> Rows:
    """Seconds from an empty disk to the first step of a stream, as notebook 04 has it."""
    began = time.time()
    compiled = str(folder / "compiled")  # by numba, which would find what an earlier run left
    command = [__file__, "--child", "first", folder]
    said = finished(command, folder, NUMBA_CACHE_DIR=compiled)
    rows = []
    for name, at in json.loads(said).items():
        rows.append({"until": name, "seconds": at - began})
    return rows


def child_first(folder: Path) -> None:
    marks = {"imported": time.time()}
    settings = config.Config(
        sizes=((STREAMED, 1000),), batch_size=BATCHES[0], window=WINDOW, n_valid=N_VALID
    )
    options = {"limit": 4 * N_VALID, "root": folder, "progress": False}  # of four subsets
    valid = dataset.build("evaluation", settings.all_sizes[-1], **options)
    marks["evaluation list rendered"] = time.time()
    trained = training.Learner(settings, "wide-400k", valid, workers=config.cores())
    marks["network on the device"] = time.time()
    with contextlib.closing(trained.to_come()) as batches:
        float(trained.train_step(batches))
        marks["first step"] = time.time()
    print(json.dumps(marks))


def kills(folder: Path) -> Rows:
    """A run killed (SIGKILL) and resumed, against one that never was: equal bit for bit?"""
    chance = random.Random(0)
    repeated.build("wide-400k", SIZE, N_PACK, folder / "packs")
    started(folder, "straight").wait(PATIENCE_S)
    hits = []
    for _ in range(KILLS):
        before = bench_resume.newest_step(folder / "killed")
        with started(folder, "killed") as process, contextlib.ExitStack() as stack:
            stack.callback(process.kill)
            end = time.monotonic() + PATIENCE_S
            while process.poll() is None and bench_resume.named_step(folder / "killed") <= before:
                if time.monotonic() > end:
                    raise RuntimeError(f"no checkpoint after step {before} in {PATIENCE_S} s")
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:
                hits.append(bench_resume.newest_step(folder / "killed"))
    started(folder, "killed").wait(PATIENCE_S)
    expected = bench_resume.final(folder / "straight")
    same = bench_resume.same(bench_resume.final(folder / "killed"), expected)
    if not all(same.values()) or len(hits) < KILLS:
        raise RuntimeError(f"killed after saving {hits} of {KILLED_STEPS} steps; equal: {same}")
    return [{"killed after saving step": str(hits), "of": KILLED_STEPS, "equal": "all"}]


def started(folder: Path, run: str) -> subprocess.Popen:
    command = [sys.executable, __file__, "--child", "train", folder, run]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)


def child_train(folder: Path, run: str) -> None:
    settings = config.Config(
        sizes=((SIZE, KILLED_STEPS),),
        batch_size=BATCHES[0],
        log_every=5,
        evaluate_every=KILLED_STEPS // 2,
        n_valid=16,
    )
    packs = {SIZE: repeated.build("wide-400k", SIZE, N_PACK, folder / "packs")}
    training.train(settings, packs, folder / run, checkpoint_every=0.3, progress=False)


def frames(folder: Path) -> Rows:
    """Predictions with the network that comes with evalib, float32."""
    card.release()
    model = evalib.load(device=DEVICE.type)
    rows = []
    for size in FRAME_SIZES:
        for n in (1, 64):
            bg, fg_bg = torch.rand(2, n, 3, size, size, device=DEVICE)
            kept = unet.encode(model, bg[:1])
            row = {"px": size, "batch": n}
            ways = {"frames/s": (bg, fg_bg), "background kept": (bg[:1], fg_bg, kept)}
            for way, images in ways.items():
                one_s = card.seconds(lambda images=images: unet.predict(model, *images), FRAME_S)
                row[way] = round(n / one_s)
            rows.append(row | {"peak MiB": card.peak_mib()})
    return rows


PARTS = {
    "tests": tests,
    "speed": speed,
    "frames": frames,
    "precisions": precisions,
    "kills": kills,
    "first_step": first_step,
    "rooms": rendering,
    "notebooks": notebooks,
}
CHILDREN = {"first": child_first, "train": child_train}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        CHILDREN[sys.argv[2]](Path(sys.argv[3]), *sys.argv[4:])
    else:
        sys.exit(main())
