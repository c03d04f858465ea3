"""One training loop, written so that nothing but the step decides what happens next.

Sample order, augmentation and learning rate are functions of (config, step), so a run that was
stopped anywhere goes on from its newest checkpoint as if it had never been: call `train` again
with the same folders. Accelerate places the model and handles precision; its loader, scheduler
and `save_state` do not resume exactly, so they are not used.
"""

import contextlib
import math
import signal
import threading
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from evalib import checkpoint, metrics, packs, runs, schedules, timing, unet
from evalib.config import OPTIMIZERS, Config, precision
from evalib.losses import Loss


def train(
    config: Config,
    packs_by_size: dict[int, packs.Pack],
    run_dir: Path | str,
    *,
    valid: packs.Pack | None = None,
    drive: Path | str | None = None,
    device: str | None = None,
    checkpoint_every_s: float = 600.0,
    time_budget_s: float | None = None,
    progress: bool = True,
) -> runs.Run:
    """Train until `config` is finished, the time budget is nearly spent, or somebody interrupts.

    Input:
        packs_by_size:      a pack of the same samples for every size in `config.sizes`.
        run_dir:            folder for checkpoints, metrics.csv, pictures and TensorBoard events.
        valid:              pack of the `evaluation` tier; None scores the training samples.
        drive:              folder to which finished checkpoints are copied, and from which a
                            machine with an empty disk goes on.
        checkpoint_every_s: seconds between checkpoints; the most that a killed session loses.
        time_budget_s:      seconds after which to save and return; None = no limit.
    Returns: the run so far. Interrupt (the stop button, SIGTERM): saved and returned likewise.
    Raises:
        ValueError: the run in `run_dir` was started with another config or other data.
    """
    training = Training(config, packs_by_size, Path(run_dir), valid, drive and Path(drive), device)
    return training.run(checkpoint_every_s, time_budget_s, progress)


class Training:
    """One session of one run: everything that `train` keeps between two steps."""

    def __init__(
        self,
        config: Config,
        packs_by_size: dict[int, packs.Pack],
        run_dir: Path | None,
        valid: packs.Pack | None = None,
        drive: Path | None = None,
        device: str | None = None,
    ) -> None:
        missing = [size for size, _ in config.sizes if size not in packs_by_size]
        if missing:
            raise ValueError(f"config.sizes needs packs of {missing} px; build them first")
        cpu = device == "cpu" or not torch.cuda.is_available()
        device = torch.device("cpu" if cpu else "cuda")
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=precision(device))
        if self.accelerator.num_processes > 1:
            raise ValueError("evalib trains in one process so far; start it without a launcher")
        self.config, self.run_dir, self.drive = config, run_dir, drive
        first = packs_by_size[config.sizes[0][0]]
        self.batches = packs.Batches(
            {size: packs_by_size[size] for size, _ in config.sizes},
            packs.split(first)["train"],
            batch_size=config.batch_size,
            seed=config.seed,
            augment=config.augment,
            device=self.accelerator.device,
        )
        self.data = {str(size): pack.fingerprint for size, pack in self.batches.packs.items()}
        self.data["valid"] = (valid or first).fingerprint
        self.valid = self._validation(valid or first)
        torch.manual_seed(config.seed)
        self.network = unet.build(config.network).to(self.accelerator.device)
        self.network.to(memory_format=torch.channels_last)
        # Copied before `prepare`, which wraps `forward` for mixed precision.
        average = get_ema_multi_avg_fn(config.ema)
        self.ema = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        optimizer = OPTIMIZERS[config.optimizer](
            self.network.parameters(), config.lr, config.weight_decay
        )
        self.model, self.optimizer = self.accelerator.prepare(self.network, optimizer)
        self.loss = Loss(config.mask_loss, config.depth_loss)
        self.timer = timing.Timer()
        self.uploads = runs.Uploads(drive)
        self.step, self.session, self.history, self.window = 0, 1, [], {}

    def run(
        self, checkpoint_every_s: float, time_budget_s: float | None, progress: bool
    ) -> runs.Run:
        """Resume, then step until the end; see `train`."""
        begin = last_save = time.monotonic()
        save_takes_s = 0.0
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.resume()
        n_steps = self.config.n_steps
        logger = runs.tensorboard(self.run_dir, self.step, self.history)
        bar = tqdm(total=n_steps, initial=self.step, disable=not progress, mininterval=2)
        with _stop_flag() as stop, contextlib.closing(logger), bar:
            while not self.finished() and not stop.is_set():
                self._train_step()
                bar.update()
                if self.step % self.config.log_every == 0 or self.step == n_steps:
                    bar.set_postfix_str(f"loss {self._log(logger):.3f}")
                now = time.monotonic()
                if time_budget_s and now - begin + 2 * save_takes_s > time_budget_s:
                    stop.set()
                if now - last_save > checkpoint_every_s or stop.is_set() or self.finished():
                    self.save()
                    last_save, save_takes_s = now, time.monotonic() - now
        self.uploads.finish()
        if not self.finished():
            print(f"Stopped at step {self.step} of {n_steps}. Run this again to go on.")
        return runs.Run(
            self.run_dir, self.step, self.ema.module.eval(), self.history, self.finished()
        )

    def _train_step(self, lr: float | None = None) -> Tensor:
        """One optimizer step at the scheduled rate, or at `lr`; returns the loss, on the device."""
        if lr is None:
            lr = self.config.lr * schedules.factor(
                self.config.schedule, self.step, self.config.n_steps, self._scores()
            )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.timer("data"):
            raw = self.batches.gather(self.step, self.config.size_at(self.step))
        with self.timer("transfer and augment"):
            batch = self.batches.prepare(raw)
        self.model.train()
        with self.timer("forward"), self.accelerator.autocast():
            out = self.model(batch["bg"], batch["fg_bg"])
        with self.timer("loss"):
            loss, parts = self.loss(out, batch)
        with self.timer("backward"):
            self.accelerator.backward(loss)
        with self.timer("step"):
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.ema.update_parameters(self.network)
        self.step += 1
        self._remember({"loss": loss, **parts})
        self.lr = lr
        return loss.detach()

    def _remember(self, values: dict[str, Tensor]) -> None:
        """Add to the sums of the row to come, on the device: reading a value would wait for it."""
        for name, value in values.items():
            self.window[name] = self.window.get(name, 0) + value.detach().double()
        self.window["n"] = self.window.get("n", 0) + 1

    def _log(self, logger) -> float:
        """Append one row to the history, files and TensorBoard; evaluate when it is time."""
        n = self.window.pop("n")
        row = {"step": self.step, "size": self.config.size_at(self.step - 1), "lr": self.lr}
        row |= {name: float(total) / n for name, total in self.window.items()}
        self.window = {}
        self._refuse_nonfinite()
        if self.step % self.config.evaluate_every == 0 or self.step == self.config.n_steps:
            with self.timer("evaluate"):
                row |= self._evaluate()
        row |= {f"{name}_s": round(seconds, 4) for name, seconds in self.timer.seconds.items()}
        row |= {"session": self.session}
        self.timer.reset()
        self.history.append(row)
        runs.write_csv(self.run_dir / "metrics.csv", self.history)
        runs.log_row(logger, row)
        return row["loss"]

    def _validation(self, pack: packs.Pack) -> dict[str, packs.Batches]:
        """Fixed batches to look at while training: two evaluation subsets, or what is trained."""
        rows = packs.split(pack)
        names = [name for name in ("seen", "unseen_both") if len(rows[name])] or ["train"]
        return {
            name: packs.Batches(
                pack,
                rows[name][: self.config.n_valid],
                batch_size=self.config.batch_size,
                device=self.accelerator.device,
            )
            for name in names
        }

    def _evaluate(self) -> dict[str, float]:
        """Scores of the averaged weights. `score`, by which the best is chosen, uses the first
        subset only: the backgrounds and objects held out are reported, never chosen by."""
        row = {}
        predictor = unet.predictor(self.ema.module)
        for name, batches in self.valid.items():
            scores = metrics.summary(metrics.evaluate(predictor, batches.in_order()))
            for key in ("iou", "depth_rmse", "fg_depth_rmse"):
                row[f"{name}_{key}"] = scores[key]
        first = next(iter(self.valid))
        mask = row[f"{first}_iou"] if self.config.mask_loss else 0.0
        depth = row[f"{first}_depth_rmse"] if self.config.depth_loss else 0.0
        row["score"] = mask - depth
        batch = next(iter(self.valid[list(self.valid)[-1]].in_order()))
        runs.write_picture(self.run_dir, self.step, batch, *predictor(batch))
        if row["score"] > max(self._scores(), default=-math.inf):
            best = {"model": self.ema.module.state_dict(), "step": self.step}
            best |= {"config": asdict(self.config), "score": row["score"]}
            self._write(best, kind="best", keep=1)
        return row

    def save(self) -> None:
        """Write a checkpoint of this moment.

        Raises: FloatingPointError: the weights are not finite; the checkpoints before are sound.
        """
        self._refuse_nonfinite()
        state = {
            "step": self.step,
            "session": self.session,
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),
            "history": self.history,
            "window": {k: float(v) for k, v in self.window.items()},
            "config": asdict(self.config),
            "data": self.data,
        }
        with self.timer("checkpoint"):
            self._write(state, kind="step", keep=2)

    def _refuse_nonfinite(self) -> None:
        if not all(p.isfinite().all() for p in self.network.parameters()):
            raise FloatingPointError(
                f"the weights are not finite at step {self.step}. Lower lr (now {self.lr:g}) and "
                f"start again in another folder; the last checkpoint in {self.run_dir} is sound."
            )

    def _write(self, state: dict, *, kind: str, keep: int) -> None:
        """Write and upload; a full disk is told, and training goes on."""
        try:
            self.uploads.add(checkpoint.save(self.run_dir, state, kind=kind, keep=keep))
        except OSError as error:
            warnings.warn(f"{error}. Training goes on; free some space.", stacklevel=2)

    def resume(self) -> None:
        """Take up the newest sound checkpoint, local or on Drive, if there is one."""
        folders = [folder for folder in (self.run_dir, self.drive) if folder]
        found = checkpoint.newest(folders)
        best = checkpoint.newest(folders, kind="best")
        if best and best[0].parent != self.run_dir:  # a new machine needs the best so far, too
            checkpoint.copy(best[0], self.run_dir, keep=1)
        runs.write_json(self.run_dir / "config.json", asdict(self.config))
        (self.run_dir / "env.txt").write_text(timing.machine() + "\n")
        if not found:
            return
        path, state = found
        self._refuse_other(state, path)
        try:
            self.network.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(
                f"{path} was written by another version of the network {self.config.network!r}; "
                "take another folder to start anew, or the evalib it was started with"
            ) from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        if state["scaler"] and self.accelerator.scaler:  # a T4's run may go on without fp16
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.history, self.window = state["step"], state["history"], state["window"]
        self.session = state["session"] + 1
        runs.write_csv(self.run_dir / "metrics.csv", self.history)
        print(f"Going on from step {self.step} of {self.config.n_steps} ({path.name}).")

    def _refuse_other(self, state: dict, path: Path) -> None:
        theirs, ours = state["config"], asdict(self.config)
        differ = [k for k in ours if theirs.get(k) != ours[k]]
        if state["data"] != self.data:
            differ.append("data (the packs)")
        if differ:
            raise ValueError(
                f"{path.parent} holds a run with another {', '.join(differ)}. Give the settings it "
                "was started with to go on, or another folder to start anew."
            )

    def finished(self) -> bool:
        """Whether the schedule is through, or nothing has improved for `config.patience`."""
        stopped = schedules.stop_early(self._scores(), self.config.patience)
        return stopped or self.step >= self.config.n_steps

    def _scores(self) -> list[float]:
        return [row["score"] for row in self.history if "score" in row]


def lr_range_test(
    config: Config,
    packs_by_size: dict[int, packs.Pack],
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
    training = Training(config, packs_by_size, None, device=device)
    rates, losses, smooth = np.geomspace(low, high, n_steps), [], 0.0
    for k, lr in enumerate(rates):
        smooth = 0.9 * smooth + 0.1 * float(training._train_step(lr=float(lr)))
        losses.append(smooth / (1 - 0.9 ** (k + 1)))
        if not math.isfinite(losses[-1]) or losses[-1] > 4 * min(losses):
            break
    return rates[: len(losses)], np.array(losses)


@contextlib.contextmanager
def _stop_flag():
    """An event that the stop button (SIGINT) or SIGTERM sets: the loop ends at its next step."""
    stop, old = threading.Event(), {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
