"""Training in sessions, any of which may die at any moment: call `train` again, and it goes on.

Everything about a step follows from its number (`learner`), checkpoints prove their own content
(`checkpoint`), and Drive is only a place to copy them to (`drive`). Here is the loop around these:
when to log, evaluate and save, when to stop, and where to go on from.
"""

import contextlib
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from evalib import checkpoint, dataset, drive, runs, timing
from evalib.config import Config
from evalib.learner import Learner
from evalib.progress import Progress


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
    Returns: the run so far. Interrupt (the stop button, SIGTERM): saved and returned likewise.
    Raises:
        ValueError: the run was started with another config or other data, or another session is
                    training it.
        OSError:    Drive does not answer, so it is not known how far the run is.
        FloatingPointError: the weights are not finite; the checkpoints before are sound.
    """
    learner = Learner(config, packs_by_size, valid, device)
    session = Session(learner, Path(run_dir), drive_dir and Path(drive_dir))
    every_s = timing.seconds(checkpoint_every)
    budget_s = math.inf if time_budget is None else timing.seconds(time_budget)
    with drive.Lease(session.drive_dir or session.run_dir, take_over=take_over) as lease:
        return session.run(every_s, budget_s, workers, lease.lost, progress)


class Session:
    """A learner for as long as this process lives, and the folders that outlive it."""

    def __init__(self, learner: Learner, run_dir: Path, drive_dir: Path | None) -> None:
        self.learner, self.run_dir, self.drive_dir = learner, run_dir, drive_dir
        self.uploads: drive.Uploads | None = None
        self.sessions: list[dict] = []

    def run(
        self,
        checkpoint_every_s: float,
        time_budget_s: float,
        workers: int,
        lost: threading.Event,
        progress: bool,
    ) -> runs.Run:
        """Resume, then step until the end, until interrupted or until `lost`; see `train`."""
        learner, config = self.learner, self.learner.config
        begin = last_save = time.monotonic()
        longest_s = 0.0  # of a step with all that may follow it: evaluation, saving
        with contextlib.ExitStack() as stack:
            if self.drive_dir:
                self.uploads = stack.enter_context(drive.Uploads(self.drive_dir))
            self._resume()
            logger = stack.enter_context(runs.tensorboard(self.run_dir, learner.history))
            where = (self.run_dir.name, learner.step, config.n_steps)
            shown = Progress(*where, budget_s=time_budget_s, on=progress)
            stack.enter_context(shown.bar)
            batches = stack.enter_context(contextlib.closing(learner.to_come(workers)))
            stop = stack.enter_context(_stop_flag())
            before = time.monotonic()
            while not learner.finished() and not stop.is_set():
                learner.train_step(batches)
                shown.bar.update()
                if learner.step % config.log_every == 0 or learner.step == config.n_steps:
                    self._log(logger)
                    shown.log(learner.history)
                now = time.monotonic()
                if now - begin + 2 * longest_s > time_budget_s or lost.is_set():
                    stop.set()
                ends_epoch = learner.step % learner.batches.steps_per_epoch == 0
                due = now - last_save > checkpoint_every_s / (10 if ends_epoch else 1)
                if due or stop.is_set() or learner.finished():
                    self._save()
                    last_save = time.monotonic()
                longest_s, before = max(longest_s, time.monotonic() - before), time.monotonic()
        self._tell(lost.is_set(), shown)
        return runs.Run(
            self.run_dir,
            learner.step,
            learner.ema.module.eval(),
            learner.history,
            learner.finished(),
            bool(self.uploads and self.uploads.all_there),
        )

    def _resume(self) -> None:
        """Take up the newest sound checkpoint, local or on Drive, if there is one."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        folders = [folder for folder in (self.run_dir, self.drive_dir) if folder]
        found = checkpoint.newest(folders)
        if found:
            path, state = found
            try:
                self.learner.restore(state)
                self.sessions = [dict(session) for session in state["sessions"]]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} cannot be gone on from: {error}.") from error
            n_steps = self.learner.config.n_steps
            where = "this disk" if path.parent == self.run_dir else "Drive"
            print(f"Going on from step {self.learner.step} of {n_steps} ({path.name}, {where}).")
        # To the place that lacks them: a new machine's disk, or Drive if it could not be reached.
        for path, _ in filter(None, (found, self._best(folders))):
            self._store(path.name, checkpoint.retried(path.read_bytes))
        began = {"first_step": self.learner.step, "began": timing.utc_now()}
        self.sessions.append(began | {"machine": timing.machine()})
        with self._tolerant():
            runs.write_json(self.run_dir / "config.json", asdict(self.learner.config))
            runs.write_csv(self.run_dir / "sessions.csv", self.sessions)
            runs.write_csv(self.run_dir / "metrics.csv", self.learner.history)

    def _best(self, folders: list[Path]) -> tuple[Path, dict] | None:
        try:
            return checkpoint.newest(folders, kind="best")
        except (OSError, ValueError) as error:
            warnings.warn(f"the best weights so far cannot be read: {error}", stacklevel=2)
            return None

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Say what could not be written to the run's folder, and go on: all of it can be made anew
        from a checkpoint, and there is Drive."""
        try:
            yield
        except OSError as error:
            text = f"{self.run_dir}: {error}. Training goes on; free some space."
            warnings.warn(text, stacklevel=3)

    def _log(self, logger) -> None:
        """One row more in the history, files and TensorBoard; evaluate when it is time."""
        learner, config = self.learner, self.learner.config
        row = learner.log()
        if learner.step % config.evaluate_every == 0 or learner.step == config.n_steps:
            with learner.timer("evaluate"):
                scores, picture = learner.evaluate()
                with self._tolerant():
                    runs.write_picture(self.run_dir, learner.step, *picture)
                if learner.is_best(scores["score"]):
                    self._store(*checkpoint.serialise(learner.best(scores["score"]), "best"))
            row |= scores
        row |= {f"{name}_s": round(s, 4) for name, s in learner.timer.seconds.items()}
        learner.timer.reset()
        with self._tolerant():
            runs.write_csv(self.run_dir / "metrics.csv", learner.history)
            runs.log_row(logger, row)

    def _save(self) -> None:
        """Write a checkpoint of this moment."""
        with self.learner.timer("checkpoint"):
            state = self.learner.state() | {"sessions": self.sessions}
            self._store(*checkpoint.serialise(state))

    def _store(self, name: str, data: bytes) -> None:
        """To the run's folder, and to Drive even if that is full; training goes on in any case.
        Where it is already, whole, it is left alone."""
        with self._tolerant():
            checkpoint.write(self.run_dir, name, data)
        if self.uploads:
            self.uploads.add(name, data)

    def _tell(self, lost: bool, shown: Progress) -> None:
        """How the session ended, and what is safe where."""
        learner = self.learner
        if shown.on and self.uploads and self.uploads.safe_step >= 0:
            print(f"On Drive, and read back from there: step {self.uploads.safe_step}.")
        if lost:
            print(f"Another session took this run over: stopped at step {learner.step}.")
        elif not learner.finished():
            at = f"Stopped at step {learner.step} of {learner.config.n_steps}"
            rest = shown.sessions(learner.step, more=True)
            print(f"{at}{rest and ', '}{rest}. Run this again to go on.")


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
    rates, losses, smooth = np.geomspace(low, high, n_steps), [], 0.0
    for k, lr in enumerate(rates):
        smooth = 0.9 * smooth + 0.1 * float(learner.train_step(batches, lr=float(lr)))
        losses.append(smooth / (1 - 0.9 ** (k + 1)))
        if not math.isfinite(losses[-1]) or losses[-1] > 4 * min(losses):
            break
    return rates[: len(losses)], np.array(losses)


@contextlib.contextmanager
def _stop_flag() -> Iterator[threading.Event]:
    """An event that the stop button (SIGINT) or SIGTERM sets: the loop ends at its next step. Asked
    a second time, it ends at once, without saving."""
    stop, old = threading.Event(), {}

    def handle(*_) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
