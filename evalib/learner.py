"""A run at one moment: network, optimizer, averaged weights and history, and how a step changes it.

Sample order, augmentation and learning rate are functions of (config, step), so `state()` is all
there is to save, and `restore` leaves a learner as if it had made every step itself. Accelerate
places the model and handles precision; its loader, scheduler and `save_state` do not resume
exactly, so they are not used.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from evalib import config as settings
from evalib import dataset, metrics, recipes, timing, unet
from evalib.batches import Batches
from evalib.config import OPTIMIZERS, Config, precision
from evalib.losses import Loss

UNFIT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Learner:
    """What `train` changes from step to step; see there for the arguments.

    Raises: ValueError: a pack of one of the config's sizes is missing; more than one process.
    """

    def __init__(
        self,
        config: Config,
        packs_by_size: dict[int, dataset.Pack],
        valid: dataset.Pack | None = None,
        device: str | None = None,
    ) -> None:
        missing = [size for size in config.all_sizes if size not in packs_by_size]
        if missing:
            raise ValueError(f"config.sizes needs packs of {missing} px; build them first")
        cpu = device == "cpu" or not torch.cuda.is_available()
        if not cpu:  # a resumed run is the same run only if the kernels repeat themselves
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        mixed_precision = precision(torch.device("cpu" if cpu else "cuda"))
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=mixed_precision)
        if self.accelerator.num_processes > 1:
            raise ValueError("evalib trains in one process so far; start it without a launcher")
        self.config = config
        first = packs_by_size[config.all_sizes[0]]
        self.batches = Batches(
            {size: packs_by_size[size] for size in config.all_sizes},
            first.split()["train"],
            batch_size=config.batch_size,
            seed=config.seed,
            augment=config.augment,
            way=config.way,
            device=self.accelerator.device,
        )
        self.data = {str(size): pack.fingerprint for size, pack in self.batches.packs.items()}
        self.data["valid"] = (valid or first).fingerprint
        self.valid = valid or first
        self.valid_rows = self._validation(self.valid)
        torch.manual_seed(config.seed)
        self.network = recipes.build(config.network).to(self.accelerator.device)
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
        self.step, self.history, self.window = 0, [], {}

    def to_come(self, workers: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches of all steps that are left, as `train_step` takes them; close it at last."""
        steps = range(self.step, self.config.n_steps)
        return self.batches.ahead(((k, self.config.size_at(k)) for k in steps), workers)

    def train_step(self, batches: Iterator[dict[str, Tensor]], lr: float | None = None) -> Tensor:
        """One optimizer step at the scheduled rate, or at `lr`; returns the loss, on the device."""
        if lr is None:
            lr = self.config.lr * settings.factor(
                self.config.schedule, self.step, self.config.n_steps, self.scores()
            )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.timer("data"):
            raw = next(batches)
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

    def log(self) -> dict[str, float]:
        """The row of the steps since the last one: their mean losses, and where their time went.

        Raises: FloatingPointError: the weights are not finite.
        """
        n = self.window.pop("n")
        row = {"step": self.step, "size": self.config.size_at(self.step - 1), "lr": self.lr}
        row |= {name: float(total) / n for name, total in self.window.items()}
        self.window = {}
        self.refuse_nonfinite()
        self.history.append(row)
        return row

    def evaluate(self) -> tuple[dict[str, float], tuple[dict[str, Tensor], Tensor, Tensor]]:
        """Scores of the averaged weights, and a batch with its two predictions to look at.

        `score`, by which the best is chosen, uses the first subset only: the backgrounds and
        objects held out are reported, never chosen by.
        """
        scores, predictor = {}, unet.predictor(self.ema.module)
        n, device = self.config.batch_size, self.accelerator.device
        for name, rows in self.valid_rows.items():
            batches = self.valid.batches(rows, n, device)
            summary = metrics.summary(metrics.evaluate(predictor, batches))
            for key in ("iou", "depth_rmse", "fg_depth_rmse"):
                scores[f"{name}_{key}"] = summary[key]
        first, last = next(iter(self.valid_rows)), list(self.valid_rows)[-1]
        mask = scores[f"{first}_iou"] if self.config.mask_loss else 0.0
        depth = scores[f"{first}_depth_rmse"] if self.config.depth_loss else 0.0
        scores["score"] = mask - depth
        batch = self.valid.batch(self.valid_rows[last][:n], device)
        return scores, (batch, *predictor(batch))

    def best(self, score: float) -> dict:
        """The averaged weights as a checkpoint of the kind `best`."""
        best = {"model": self.ema.module.state_dict(), "step": self.step}
        return best | {"config": asdict(self.config), "score": score}

    def state(self) -> dict:
        """All there is to save. Raises: FloatingPointError: the weights are not finite."""
        self.refuse_nonfinite()
        return {
            "step": self.step,
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),
            "history": self.history,
            "window": {k: float(v) for k, v in self.window.items()},
            "config": asdict(self.config),
            "data": self.data,
        }

    def restore(self, state: dict) -> None:
        """Go on from `state`. Raises: ValueError, naming what is of another config, or data, or
        does not fit; the learner is of no use then."""
        theirs, ours = state.get("config"), asdict(self.config)
        if not isinstance(theirs, dict):
            raise ValueError("it holds no config; it was not written by evalib's training")
        differ = [k for k in ours if theirs.get(k) != ours[k]]
        if state.get("data") != self.data:
            differ.append("data (the packs)")
        if differ:
            raise ValueError(
                f"it is of a run with another {', '.join(differ)}. Give the settings it was "
                "started with to go on, or another folder to start anew"
            )
        try:
            self._restore(state)
        except UNFIT as error:
            raise ValueError(
                f"it does not fit the network {self.config.network!r} of this evalib ({error}). "
                "Take another folder to start anew, or the evalib it was started with"
            ) from error

    def _restore(self, state: dict) -> None:
        self.network.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for weight, moments in self.optimizer.state.items():
            if any(m.numel() > 1 and m.shape != weight.shape for m in moments.values()):
                raise ValueError(f"moments that do not fit a weight of {tuple(weight.shape)}")
        if state["scaler"] and self.accelerator.scaler:  # a T4's run may go on without fp16
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = int(state["step"])
        self.history = [dict(row) | {"step": int(row["step"])} for row in state["history"]]
        self.window = {name: float(total) for name, total in state["window"].items()}

    def refuse_nonfinite(self) -> None:
        states = {**self.network.state_dict(prefix="network."), **self.ema.state_dict()}
        if not all(x.isfinite().all() for x in states.values()):
            raise FloatingPointError(
                f"the weights are not finite at step {self.step}. Lower lr (now {self.lr:g}) and "
                "start again in another folder; the checkpoints of this run are sound"
            )

    def finished(self) -> bool:
        """Whether the schedule is through, or nothing has improved for `config.patience`."""
        if self.step >= self.config.n_steps:
            return True
        patience = self.config.patience  # asked at every step: the history is walked if need be
        return bool(patience) and settings.stop_early(self.scores(), patience)

    def scores(self) -> list[float]:
        """The score of each evaluation so far."""
        return [row["score"] for row in self.history if "score" in row]

    def is_best(self, score: float) -> bool:
        return score > max(self.scores(), default=-math.inf)

    def _remember(self, values: dict[str, Tensor]) -> None:
        """Add to the sums of the row to come, on the device: reading a value would wait for it."""
        for name, value in values.items():
            self.window[name] = self.window.get(name, 0) + value.detach().double()
        self.window["n"] = self.window.get("n", 0) + 1

    def _validation(self, pack: dataset.Pack) -> dict[str, np.ndarray]:
        """Fixed rows to look at while training: two evaluation subsets, or what is trained."""
        rows = pack.split()
        names = [name for name in ("seen", "unseen_both") if len(rows[name])] or ["train"]
        return {name: rows[name][: self.config.n_valid] for name in names}
