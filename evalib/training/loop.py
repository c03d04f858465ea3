"""Training in sessions, any of which may die at any moment: call `train` again, and it goes on.

Everything about a step follows from its number (`learner`), checkpoints prove their own content
(`checkpoint`), and Drive is only a place to copy them to (`drive`). Here is the loop around these:
when to log, evaluate and save, when to stop, and where to go on from.
"""

import contextlib
import math
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from evalib import checkpoint, dataset, drive, runs, timing, weights
from evalib.config import Config
from evalib.training import session
from evalib.training.learner import Learner

Store = Callable[[str, bytes], None]  # of a checkpoint's name and bytes


def train(
    config: Config,
    data: dict[int, dataset.Pack] | str,
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

    Of several processes (`ranks`) all call it; the main one alone writes files, prints and asks
    Drive, and all stop after the same step, whichever of them was asked to.

    Input:
        data:             {size: pack} of the same samples for every size in `config.sizes`, or
                          the name of a tier that is rendered while it trains (`stream`).
        run_dir:          folder for checkpoints, metrics.csv, pictures and TensorBoard events.
        valid:            pack of the `evaluation` tier; None scores the training samples.
        drive_dir:        folder to which finished checkpoints are copied, and from which a
                          machine with an empty disk goes on.
        workers:          threads that prepare batches ahead, or processes that render a stream
                          (at least one); no result depends on their number.
        checkpoint_every: time between checkpoints, as "10min" or seconds: the most that a killed
                          session loses. An epoch's end saves, too, if a tenth of it has passed.
        time_budget:      after which to save and return; "colab": what is left of its 12 hours.
        take_over:        train although another session seems to hold this run; that one stops.
    Returns: the run so far. The stop button (SIGINT) saves and returns it; SIGTERM saves it, and
        then ends the process, as was asked.
    Raises:
        ValueError: the run began with another config or other data, or another session trains it.
        OSError:    Drive does not answer, so it is not known how far the run is; or the processes
                    that render a stream do not stay alive (ChildProcessError).
        MemoryError: too little memory is free to go on; the run is safe.
        FloatingPointError: the weights are not finite; the checkpoints before are sound.
    """
    budget = session.Budget(math.inf if time_budget is None else timing.seconds(time_budget))
    every_s = timing.seconds(checkpoint_every)
    run_dir = Path(run_dir)
    drive_dir = Path(drive_dir) if drive_dir else None
    learner = Learner(config, data, valid, device, workers)
    ranks = learner.ranks
    lease = drive.Lease(drive_dir or run_dir, take_over=take_over)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())  # a resume may change it
        stack.enter_context(session.repeating_exactly(learner.device))
        ranks.first(lambda: stack.enter_context(lease) is lease)  # a lease cannot be sent to all
        uploads = drive.Uploads(drive_dir) if drive_dir and ranks.main else None
        if uploads:
            stack.enter_context(uploads)
        store = partial(_store, run_dir, uploads)
        sessions = _resume(learner, run_dir, drive_dir, store)
        events = None
        if ranks.main:
            events = stack.enter_context(runs.tensorboard(run_dir, learner.history))
        shows = progress and ranks.main
        # smoothing=0: sizes take turns and evaluations fall between, so only a mean tells the rest
        shown = {"desc": run_dir.name, "disable": not shows, "mininterval": 2, "smoothing": 0}
        bar = stack.enter_context(tqdm(initial=learner.step, total=config.n_steps, **shown))
        batches = stack.enter_context(contextlib.closing(learner.to_come()))
        stop = stack.enter_context(session.stop_signals(launched=ranks.world > 1))
        picture = None
        saved = budget.tick()
        while not learner.finished():
            learner.train_step(batches)
            if learner.due(config.log_every):
                scores = {}
                if learner.due(config.evaluate_every):
                    scores = _evaluate(learner, run_dir, store)
                row = learner.log(scores)
                with learner.timer("log"):  # of the next row
                    if ranks.main:
                        _write(run_dir, events, learner.history)
                    bar.set_description(f"{run_dir.name}, loss {row['loss']:.3f}", refresh=False)
                    if scores and shows:
                        picture = _draw(picture, learner.history, run_dir.name)
            budget.step()
            per_epoch = learner.batches.steps_per_epoch  # a stream has none
            ends_epoch = per_epoch and learner.step % per_epoch == 0
            due = budget.now - saved > (every_s / 10 if ends_epoch else every_s)
            with learner.timer("log"):
                bar.set_postfix_str(budget.left(config.n_steps - learner.step), refresh=False)
                bar.update()
                # All do the same next: one that has to stop stops all, after this step.
                last = stop.asked or budget.spent or lease.lost.is_set() or learner.finished()
                last, due = ranks.any(last, due)
            if due or last:
                with learner.timer("checkpoint"):
                    state = learner.state() | {"sessions": sessions}
                    if ranks.main:
                        store(*checkpoint.serialise(state))
                saved = budget.now
            if last:
                break
    # Nobody ends, and with it its launcher all others, before everything is written.
    [terminated] = ranks.any(stop.terminated)
    if shows and uploads and uploads.safe_step >= 0:
        print(f"On Drive, and read back from there: step {uploads.safe_step}.")
    if ranks.main and lease.lost.is_set():
        print(f"Another session took this run over: stopped at step {learner.step}.")
    elif ranks.main and not learner.finished():
        steps = f"{learner.step} of {config.n_steps}"
        left = budget.left(config.n_steps - learner.step)
        print(f"Stopped at step {steps}. Run this again to go on. {left}")
    if terminated:  # saved; now for the one who was asked
        sys.stdout.flush()
        signal.raise_signal(signal.SIGTERM)
    model = _best_model(learner, run_dir) if ranks.main else learner.ema.eval()
    on_drive = bool(uploads and uploads.all_there)
    return runs.Run(run_dir, learner.step, model, learner.history, learner.finished(), on_drive)


def _resume(learner: Learner, run_dir: Path, drive_dir: Path | None, store: Store) -> list[dict]:
    """Take up the newest sound checkpoint, local or on Drive, if there is one; all sessions."""
    ranks = learner.ranks
    folders = [run_dir, drive_dir] if drive_dir else [run_dir]
    sessions = []
    # Read by one, as others may have other disks: all go on from the same step.
    found = ranks.first(lambda: checkpoint.newest(folders))
    if found:
        path, state = found
        sessions += _restore(learner, path, state)
    else:
        learner.begin()
    if not ranks.main:
        return sessions
    run_dir.mkdir(parents=True, exist_ok=True)
    if found:
        where = "this disk" if path.parent == run_dir else "Drive"
        n_steps = learner.config.n_steps
        print(f"Going on from step {learner.step} of {n_steps} ({path.name}, {where}).")
        # To the place that lacks them: a new machine's disk, or Drive if it could not be reached.
        store(path.name, checkpoint.retried(path.read_bytes))
        try:
            if best := checkpoint.best(folders, learner.history):
                store(best[0].name, checkpoint.retried(best[0].read_bytes))
        except (OSError, ValueError, MemoryError) as error:
            warnings.warn(f"the best weights so far cannot be read: {error}", stacklevel=3)
    began = {"first_step": learner.step, "began": timing.utc_now()}
    sessions.append(began | {"machine": timing.machine()})
    with runs.tolerant(run_dir):
        runs.write_json(run_dir / "config.json", asdict(learner.config))
        runs.write_csv(run_dir / "sessions.csv", sessions)
        runs.write_csv(run_dir / "metrics.csv", learner.history)
    return sessions


def _restore(learner: Learner, path: Path, state: dict) -> list[dict]:
    """`learner.restore`, and the sessions so far; what goes wrong there is said of `path`. No
    advice costs a sound run."""
    todo = "Go on with the evalib it was started with"
    try:
        learner.restore(state)
        return list(state["sessions"])
    except (LookupError, TypeError) as error:
        raise ValueError(f"{path} is no run of this evalib ({error!r}). {todo}") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be gone on from: {error}.") from error
    except (MemoryError, RuntimeError) as error:
        if checkpoint.no_memory(error):
            advice = "The run is safe: free memory, or restart the runtime, and run this again"
            raise MemoryError(f"too little to go on from {path} ({error}). {advice}") from error
        network = f"the network {learner.config.network!r} of this evalib"
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
    if learner.ranks.main:
        with runs.tolerant(run_dir):
            runs.write_picture(run_dir, learner.step, *picture)
        if learner.is_best(scores["score"]):
            store(*checkpoint.serialise(learner.best(scores["score"]), "best"))
    return scores


def _write(run_dir: Path, events, history: list[dict]) -> None:
    """The newest row, where people look."""
    with runs.tolerant(run_dir):
        runs.write_csv(run_dir / "metrics.csv", history)
        runs.log_row(events, history[-1])


def _best_model(learner: Learner, run_dir: Path) -> nn.Module:
    """What `evalib.load(run_dir)` gives; where that cannot be read, the averaged weights of now."""
    try:
        return weights.load(run_dir, str(learner.device))
    except (OSError, ValueError, MemoryError, RuntimeError) as error:
        instead = f"the averaged weights of step {learner.step} instead"
        warnings.warn(f"the best weights cannot be read ({error}): {instead}", stacklevel=3)
        return learner.ema.eval()


def _draw(picture, history: list[dict], name: str):
    """In a notebook, the curves so far as one picture, replaced each time; None elsewhere."""
    ipython = sys.modules.get("IPython")  # it is loaded there, and slow to load elsewhere
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        return None
    from evalib import show  # here only: a run in a shell draws nothing

    figure = show.training_curves(history, f"{name}: step {history[-1]['step']:,}")
    if picture is None:
        return ipython.display.display(figure, display_id=True)
    picture.update(figure)
    return picture
