"""A run at one moment: network, optimizer, averaged weights and history, and how a step changes it.

Sample order, augmentation and learning rate are functions of (config, step), so `state()` is all
there is to save, and `restore` leaves a learner as if it had made every step itself. Accelerate
places the model and handles precision; its loader, scheduler and `save_state` do not resume
exactly, so they are not used.
"""

import copy
import math
import textwrap
from collections.abc import Iterator
from dataclasses import asdict

import torch
from torch import Tensor, nn

from evalib import dataset, metrics, recipes, schedule, timing, unet, weights
from evalib.batches import Batches
from evalib.config import Config
from evalib.optimizers import OPTIMIZERS
from evalib.training import heads, samples, session
from evalib.training.ranks import Ranks, accelerator


class Learner:
    """What `train` changes from step to step; see there for the arguments and errors. One at a
    time: a second learner takes over Accelerate's state, which is one a process."""

    def __init__(
        self,
        config: Config,
        data: dict[int, dataset.Pack] | str,
        valid: dataset.Pack | None = None,
        device: str | None = None,
        workers: int = 0,
    ) -> None:
        self.accelerator = accelerator(device)
        self.ranks = Ranks()
        self.device = self.accelerator.device
        self.config = config
        source, self.data = samples.source(config, data, self.ranks.share, workers, self.device)
        self.ranks.refuse_uneven({size: source.size_of_batch(size) for size in config.all_sizes})
        self.batches = Batches(source, config, self.device)
        if valid is None and isinstance(data, str):
            raise ValueError("a stream keeps nothing to score: give `valid`, a pack to evaluate on")
        self.valid = valid or data[config.all_sizes[0]]
        self.valid_rows = samples.validation(self.valid, config.n_valid)
        self.data["valid"] = self.valid.fingerprint
        samples.refuse_depth(config, source.kinds, self.valid.kinds)
        self.n_threads = 1 if isinstance(data, str) else workers
        torch.manual_seed(config.seed)
        self.network = recipes.build(config.network).to(self.device)
        self.network.to(memory_format=torch.channels_last)
        # Copied before it is prepared, which wraps `forward` for mixed precision.
        self.ema = copy.deepcopy(self.network)  # the averaged weights
        self.ranks.share_statistics(self.network)
        parameters = self.network.parameters()
        fused = True if self.device.type == "cuda" else None  # one kernel for all parameters
        make = OPTIMIZERS[config.optimizer]
        optimizer = make(parameters, config.lr, config.weight_decay, fused=fused)
        self.takes_depth = unet.takes_depth(self.network)
        # evaluation_mode: without DistributedDataParallel, for the reasons in `ranks`.
        self.model = self.accelerator.prepare_model(self.network, evaluation_mode=True)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        if config.weighting and self.ranks.world > 1:
            raise ValueError("weighting 'uncertainty' is of a whole batch: train in one process")
        self.loss = config.loss()
        tasks = {phase.split()[0] for phase, _ in config.phases} - {"both"}
        self.alone = {task: config.loss(task) for task in tasks}
        self.timer = timing.Timer()
        self.step = 0
        self.history: list[dict[str, float]] = []  # every logged row
        self.scores: list[float] = []  # of each evaluation so far
        self.sums: dict[str, Tensor | float] = {}  # of the losses since the last row

    def begin(self) -> None:
        """Take the weights that `config.init` names, if it does. Only a run that is new needs them.

        Raises: ValueError: they are of another network; FileNotFoundError.
        """
        init = self.config.init
        if not init:
            return
        path = None if init == "shipped" else init
        given = self.ranks.first(lambda: weights.load(path, "cpu").state_dict())
        try:
            self.network.load_state_dict(given)
            self.ema.load_state_dict(given)
        except RuntimeError as error:
            what = textwrap.shorten(str(error), 250)
            raise ValueError(
                f"init {init!r} is of another network than {self.config.network!r}: {what}"
            ) from error

    def to_come(self) -> Iterator[dict[str, Tensor]]:
        """The batches of all steps that are left, as `train_step` takes them; close it at last."""
        steps = range(self.step, self.config.n_steps)
        return self.batches.ahead(((k, self.config.size_at(k)) for k in steps), self.n_threads)

    def train_step(self, batches: Iterator[dict[str, Tensor]], lr: float | None = None) -> Tensor:
        """One optimizer step at the scheduled rate, or at `lr`; returns the loss, on the device."""
        with self.timer("data"):
            raw = next(batches)
        with self.timer("transfer and augment"):
            batch = self.batches.prepare(raw)
        with self.timer("forward"), self.accelerator.autocast():
            phase = schedule.phase(self.config.phases, self.step, self.config.n_steps)
            heads.freeze(self.network, phase)
            known = {"bg_depth": batch.get("told")} if self.takes_depth else {}
            out = self.model(batch["bg"], batch["fg_bg"], **known)
        with self.timer("loss"):
            loss, parts = self.loss(out, batch)
            task = phase.split()[0]
            if task != "both":  # the parts of both are told all the same
                loss, _ = self.alone[task](out, batch)
        with self.timer("backward"):
            self.accelerator.backward(loss)
            self.ranks.average_gradients(self.network.parameters())
        with self.timer("step"):
            self.lr = self.scheduled_lr() if lr is None else lr
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            # at first a copy
            share = 1 - self.config.ema if self.step else 1.0
            torch._foreach_lerp_(_floats(self.ema), _floats(self.network), share)
        self.step += 1
        with self.timer("log"):  # on the device: reading a value would wait for it
            parts = {"loss": loss.detach(), **parts}
            values = self.ranks.mean(torch.stack(list(parts.values())).double())
            for name, value in zip(parts, values, strict=True):
                self.sums[name] = self.sums.get(name, 0) + value
            self.sums["n"] = self.sums.get("n", 0) + 1
        return values[0]

    def scheduled_lr(self) -> float:
        """The learning rate of the step to come."""
        config = self.config
        return config.lr * schedule.factor(config.schedule, self.step, config.n_steps, self.scores)

    def due(self, every: int) -> bool:
        """Whether something that is done `every` so many steps is to be done now."""
        return self.step % every == 0 or self.step == self.config.n_steps

    def log(self, scores: dict[str, float]) -> dict[str, float]:
        """One row more in the history: mean losses since the last one, `scores` of this moment, if
        any, and where the time went. Raises: FloatingPointError: the weights are not finite."""
        self.refuse_nonfinite()
        n = float(self.sums.pop("n"))
        row = {"step": self.step, "size": self.config.size_at(self.step - 1), "lr": self.lr}
        row |= {name: float(total) / n for name, total in self.sums.items()}
        row |= scores
        row |= {f"{name}_s": round(s, 4) for name, s in self.timer.seconds.items()}
        self.history.append(row)
        if scores:
            self.scores.append(scores["score"])
        self.sums = {}
        self.timer.reset()
        return row

    def evaluate(self) -> tuple[dict[str, float], tuple[dict[str, Tensor], Tensor, Tensor]]:
        """Scores of the averaged weights, and a batch with its two predictions to look at. `score`
        chooses the best, by the first subset only: what is held out is reported, never chosen by.
        Raises: FloatingPointError, as `log`."""
        self.refuse_nonfinite()
        predictor = unet.predictor(self.ema)
        n = max(1, self.config.size_of_batch(self.valid.size) // self.ranks.world)
        scores = {}
        with self.timer("evaluate"):
            for name, rows in self.valid_rows.items():
                share = rows[self.ranks.rank :: self.ranks.world]
                batches = self.valid.batches(share, n, self.device)
                columns = metrics.evaluate(predictor, batches) if len(share) else {}
                summary = metrics.summary(metrics.joined(self.ranks.each(columns)))
                for key in ("iou", "depth_rmse", "fg_depth_rmse"):
                    if key in summary:  # a tier may have no depth
                        scores[f"{name}_{key}"] = summary[key]
            names = list(self.valid_rows)
            mask = scores[f"{names[0]}_iou"] if self.config.mask_loss else 0.0
            depth = scores[f"{names[0]}_depth_rmse"] if self.config.depth_loss else 0.0
            scores["score"] = mask - depth
            batch = self.valid.batch(self.valid_rows[names[-1]][:n], self.device)
            return scores, (batch, *predictor(batch))

    def best(self, score: float) -> dict:
        """The averaged weights as a checkpoint of the kind `best`."""
        model = self.ema.state_dict()
        return {"step": self.step, "model": model, "config": asdict(self.config), "score": score}

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
            "sums": {name: float(total) for name, total in self.sums.items()},
            "config": asdict(self.config),
            "data": self.data,
            "threads": torch.get_num_threads(),
            "processes": self.ranks.world,
        }

    def restore(self, state: dict) -> None:
        """Go on from `state`, in as many threads as it began with: sums depend on their number. In
        another number of processes no result but rounding changes; that is told.

        Raises: ValueError, naming what is of another config or data; RuntimeError: it is of another
        network of this name, or memory is short. The learner is of no use then.
        """
        ours = asdict(self.config) | {"data": self.data}
        # a run that began before there was some setting has its default
        theirs = asdict(Config()) | state["config"] | {"data": state["data"]}
        differ = [
            f"{name} {theirs.get(name)!r} instead of {ours.get(name)!r}"
            for name in sorted(ours.keys() | theirs.keys())
            if theirs.get(name) != ours.get(name)
        ]
        if differ:
            raise ValueError(
                f"it is of a run with {', '.join(differ)}. Give the settings it was started with "
                "to go on, or another folder to start anew"
            )
        self.network.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for group in state["optimizer"]["param_groups"]:
            group["fused"] = self.optimizer.defaults["fused"]  # as this device has it
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self.accelerator.scaler:  # a T4's run may go on without fp16
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.history = state["history"]
        self.scores = [row["score"] for row in self.history if "score" in row]
        self.sums = state["sums"]
        n_threads = state.get("threads", torch.get_num_threads())
        session.go_on_as(n_threads, state.get("processes", 1), self.ranks)

    def refuse_nonfinite(self) -> None:
        """Raises: FloatingPointError: a weight is not finite. Waits for the device once."""
        tensors = [*self.network.state_dict().values(), *self.ema.state_dict().values()]
        if not torch.stack([x.isfinite().all() for x in tensors]).all():
            raise FloatingPointError(
                f"the weights are not finite at step {self.step}. Lower lr (now {self.lr:g}) and "
                "start again in another folder; the checkpoints of this run are sound"
            )

    def finished(self) -> bool:
        """Whether the schedule is through, or nothing has improved for `config.patience`."""
        patience = self.config.patience
        gave_up = patience > 0 and schedule.stop_early(self.scores, patience)
        return gave_up or self.step >= self.config.n_steps

    def is_best(self, score: float) -> bool:
        return score > max(self.scores, default=-math.inf)


def _floats(network: nn.Module) -> list[Tensor]:
    """Parameters and running statistics; BatchNorm's count of its batches is none of them."""
    tensors = network.state_dict().values()
    return [x for x in tensors if x.is_floating_point()]
