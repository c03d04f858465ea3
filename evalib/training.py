"""Training in sessions, any of which may die at any moment: call `train` again, and it goes on.

Everything about a step follows from its number (`learner`), checkpoints prove their own content
(`checkpoint`), and Drive is only a place to copy them to (`drive`). Here is the loop around these:
when to log, evaluate and save, when to stop, and where to go on from.
"""

import contextlib
import math
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from evalib import checkpoint, dataset, drive, runs, timing, weights
from evalib.config import Config
from evalib.learner import Learner

Store = Callable[[str, bytes], None]  # of a checkpoint's name and bytes
NO_MEMORY = re.compile("out of memory|can't allocate memory|CUDA error|CU[A-Z]+_STATUS")


def train(
    config: Config,
    packs_by_size: dict[int, dataset.Pack],
    run_dir: Path | str,
    *,
    valid: dataset.Pack | None = None,
    drive_dir: Path | str | None = None,
    device: str | None = None,
    workers: int = 0,
    checkpoint_every: str | float = "10min",
    time_budget: str | float | None = None,
    take_over: bool = False,
    progress: bool = True,
) -> runs.Run:
    """Train until `config` is finished, the time budget is nearly spent, or somebody interrupts.

    Input:
        packs_by_size:    a pack of the same samples for every size in `config.sizes`.
        run_dir:          folder for checkpoints, metrics.csv, pictures and TensorBoard events.
        valid:            pack of the `evaluation` tier; None scores the training samples.
        drive_dir:        folder to which finished checkpoints are copied, and from which a
                          machine with an empty disk goes on.
        workers:          threads that prepare batches ahead; no result depends on their number.
        checkpoint_every: time between checkpoints, as "10min" or seconds: the most that a killed
                          session loses. An epoch's end saves, too, if a tenth of it has passed.
        time_budget:      after which to save and return; "colab": what is left of its 12 hours.
        take_over:        train although another session seems to hold this run; that one stops.
    Returns: the run so far. The stop button (SIGINT) saves and returns it; SIGTERM saves it, and
        then ends the process, as was asked.
    Raises:
        ValueError: the run began with another config or other data, or another session trains it.
        OSError:    Drive does not answer, so it is not known how far the run is.
        MemoryError: too little memory is free to go on; the run is safe.
        FloatingPointError: the weights are not finite; the checkpoints before are sound.
    """
    begin = time.monotonic()
    every_s = timing.seconds(checkpoint_every)
    budget_s = math.inf if time_budget is None else timing.seconds(time_budget)
    run_dir = Path(run_dir)
    drive_dir = drive_dir and Path(drive_dir)
    learner = Learner(config, packs_by_size, valid, device)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())  # a resume may change it
        lease = stack.enter_context(drive.Lease(drive_dir or run_dir, take_over=take_over))
        uploads = stack.enter_context(drive.Uploads(drive_dir)) if drive_dir else None
        store = partial(_store, run_dir, uploads)
        sessions = _resume(learner, run_dir, drive_dir, store)
        events = stack.enter_context(runs.tensorboard(run_dir, learner.history))
        # smoothing=0: sizes take turns and evaluations fall between, so only a mean tells the rest
        shown = {"desc": run_dir.name, "disable": not progress, "mininterval": 2, "smoothing": 0}
        bar = stack.enter_context(tqdm(initial=learner.step, total=config.n_steps, **shown))
        batches = stack.enter_context(contextlib.closing(learner.to_come(workers)))
        stop = stack.enter_context(_stop_flag())
        first = learner.step
        picture = None
        left = ""  # of the run, in sessions
        saved = before = time.monotonic()
        longest_s = 0.0  # of a step with all that may follow it: evaluation, saving
        while not learner.finished() and not stop.is_set():
            learner.train_step(batches)
            if learner.due(config.log_every):
                scores = {}
                if learner.due(config.evaluate_every):
                    scores = _evaluate(learner, run_dir, store)
                row = learner.log(scores)
                with runs.tolerant(run_dir):
                    runs.write_csv(run_dir / "metrics.csv", learner.history)
                    runs.log_row(events, row)
                bar.set_description(f"{run_dir.name}, loss {row['loss']:.3f}", refresh=False)
                if scores and progress:
                    picture = _draw(picture, learner.history, run_dir.name)
            now = time.monotonic()
            longest_s = max(longest_s, now - before)
            before = now
            left = _sessions_left(learner, first, now - begin, budget_s)
            bar.set_postfix_str(left, refresh=False)
            bar.update()
            if lease.lost.is_set() or now - begin + 2 * longest_s > budget_s:
                stop.set()
            ends_epoch = learner.step % learner.batches.steps_per_epoch == 0
            due = now - saved > (every_s / 10 if ends_epoch else every_s)
            if due or stop.is_set() or learner.finished():
                with learner.timer("checkpoint"):
                    store(*checkpoint.serialise(learner.state() | {"sessions": sessions}))
                saved = now
    if progress and uploads and uploads.safe_step >= 0:
        print(f"On Drive, and read back from there: step {uploads.safe_step}.")
    if lease.lost.is_set():
        print(f"Another session took this run over: stopped at step {learner.step}.")
    elif not learner.finished():
        steps = f"{learner.step} of {config.n_steps}"
        print(f"Stopped at step {steps}. Run this again to go on. {left}")
    if stop.terminated:  # saved; now for the one who was asked
        sys.stdout.flush()
        signal.raise_signal(signal.SIGTERM)
    model = _best_model(learner, run_dir)
    on_drive = bool(uploads and uploads.all_there)
    return runs.Run(run_dir, learner.step, model, learner.history, learner.finished(), on_drive)


def _resume(learner: Learner, run_dir: Path, drive_dir: Path | None, store: Store) -> list[dict]:
    """Take up the newest sound checkpoint, local or on Drive, if there is one; all sessions."""
    run_dir.mkdir(parents=True, exist_ok=True)
    folders = [run_dir, drive_dir] if drive_dir else [run_dir]
    sessions = []
    if found := checkpoint.newest(folders):
        path, state = found
        _restore(learner, path, state)
        sessions += state["sessions"]
        where = "this disk" if path.parent == run_dir else "Drive"
        n_steps = learner.config.n_steps
        print(f"Going on from step {learner.step} of {n_steps} ({path.name}, {where}).")
        # To the place that lacks them: a new machine's disk, or Drive if it could not be reached.
        store(path.name, checkpoint.retried(path.read_bytes))
        try:
            if best := checkpoint.best(folders, learner.history):
                store(best[0].name, checkpoint.retried(best[0].read_bytes))
        except (OSError, ValueError) as error:
            warnings.warn(f"the best weights so far cannot be read: {error}", stacklevel=3)
    began = {"first_step": learner.step, "began": timing.utc_now()}
    sessions.append(began | {"machine": timing.machine()})
    with runs.tolerant(run_dir):
        runs.write_json(run_dir / "config.json", asdict(learner.config))
        runs.write_csv(run_dir / "sessions.csv", sessions)
        runs.write_csv(run_dir / "metrics.csv", learner.history)
    return sessions


def _restore(learner: Learner, path: Path, state: dict) -> None:
    """`learner.restore`; what goes wrong there is said of `path`. No advice costs a sound run."""
    try:
        learner.restore(state)
    except ValueError as error:
        raise ValueError(f"{path} cannot be gone on from: {error}.") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            todo = "The run is safe: free memory, or restart the runtime, and run this again"
            raise MemoryError(f"too little to go on from {path} ({error}). {todo}") from error
        network = f"the network {learner.config.network!r} of this evalib"
        todo = "Go on with the evalib it was started with"
        raise ValueError(f"{path} does not fit {network}: {error}. {todo}") from error


def _store(run_dir: Path, uploads: drive.Uploads | None, name: str, data: bytes) -> None:
    """To the run's folder, and to Drive even if that is full; training goes on in any case.
    Where it is already, whole, it is left alone."""
    with runs.tolerant(run_dir):
        checkpoint.write(run_dir, name, data)
    if uploads:
        uploads.add(name, data)


def _evaluate(learner: Learner, run_dir: Path, store: Store) -> dict[str, float]:
    """The scores of this moment; the weights are kept if they are the best so far."""
    scores, picture = learner.evaluate()
    with runs.tolerant(run_dir):
        runs.write_picture(run_dir, learner.step, *picture)
    if learner.is_best(scores["score"]):
        store(*checkpoint.serialise(learner.best(scores["score"]), "best"))
    return scores


def _best_model(learner: Learner, run_dir: Path) -> nn.Module:
    """What `evalib.load(run_dir)` gives; where that cannot be read, the averaged weights of now."""
    try:
        return weights.load(run_dir).to(learner.device)
    except (OSError, ValueError, MemoryError, RuntimeError) as error:
        instead = f"the averaged weights of step {learner.step} instead"
        warnings.warn(f"the best weights cannot be read ({error}): {instead}", stacklevel=3)
        return learner.ema.module.eval()


def lr_range_test(
    config: Config,
    packs_by_size: dict[int, dataset.Pack],
    *,
    low: float = 1e-5,
    high: float = 1.0,
    n_steps: int = 100,
    device: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Raise the learning rate by a constant factor a step and watch the loss.

    Returns: rates and losses (smoothed over about 10 steps), each (n,); it ends early once the
    loss is four times its best. Take a rate where the loss still falls steeply, not its lowest.
    Source: Smith 2017, Cyclical Learning Rates, section 3.3.
    """
    learner = Learner(config, packs_by_size, device=device)
    size = config.all_sizes[0]
    batches = learner.batches.ahead((step, size) for step in range(n_steps))
    rates = np.geomspace(low, high, n_steps)
    losses = []
    smooth = 0.0
    for k, lr in enumerate(rates):
        smooth = 0.9 * smooth + 0.1 * float(learner.train_step(batches, lr=float(lr)))
        losses.append(smooth / (1 - 0.9 ** (k + 1)))
        if not math.isfinite(losses[-1]) or losses[-1] > 4 * min(losses):
            break
    return rates[: len(losses)], np.array(losses)


def _sessions_left(learner: Learner, first: int, spent_s: float, budget_s: float) -> str:
    """For how many sessions the run goes on, if steps take as long as since `first`; "" without
    a budget."""
    if math.isinf(budget_s):
        return ""
    left_s = (learner.config.n_steps - learner.step) * spent_s / (learner.step - first)
    n = max(1, math.ceil(left_s / budget_s))
    return f"Sessions of {timing.text(budget_s)} left: about {n}."


def _draw(picture, history: list[dict], name: str):
    """In a notebook, the curves so far as one picture, replaced each time; None elsewhere."""
    ipython = sys.modules.get("IPython")  # it is loaded there, and slow to load elsewhere
    if not hasattr(ipython and ipython.get_ipython(), "kernel"):
        return None
    from evalib import show  # here only: a run in a shell draws nothing

    figure = show.training_curves(history, f"{name}: step {history[-1]['step']:,}")
    if picture is None:
        return ipython.display.display(figure, display_id=True)
    picture.update(figure)
    return picture


@contextlib.contextmanager
def _stop_flag() -> Iterator[threading.Event]:
    """An event that the stop button (SIGINT) or SIGTERM sets (then it is `terminated`): the loop
    ends at its next step. Asked a second time, it ends at once, without saving."""
    stop = threading.Event()
    stop.terminated = False
    former = {}

    def handle(number: int, _) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.terminated = number == signal.SIGTERM
        stop.set()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            former[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
