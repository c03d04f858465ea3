"""An entry of a contest: train it, score what nobody trained on, and tell what it cost.

Everything about an entry is a dict that its run folder keeps as results.json, so that an entry that
was stopped goes on, and one that is finished is only read.
"""

import json
import math
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from evalib import dataset, metrics, recipes, runs, timing, unet
from evalib.config import Config
from evalib.training.loop import train

SUBSETS = ("seen", "unseen_both")
SCORES = ("iou", "dice", "boundary_f", "false_area")
SCORES += ("depth_rmse", "depth_rmse_over_std", "depth_absrel", "depth_log10", "depth_mae")
SCORES += ("depth_delta1", "depth_delta2", "depth_delta3", "fg_depth_rmse")
COSTS = ("parameters", "multiply_adds", "per_s", "ms")
LOWER_IS_BETTER = {name for name in SCORES if "depth" in name and "delta" not in name}
LOWER_IS_BETTER |= {"false_area"}


def enter(
    config: Config,
    packs: dict[int, dataset.Pack],
    evaluation: dataset.Pack,
    run_dir: Path | str,
    *,
    drive_dir: Path | str | None = None,
    n_scored: int = 500,
    **about: str | int,
) -> dict:
    """Train, or go on, and score up to `n_scored` pictures of each of SUBSETS.

    Returns: `about`, as it came; config; parameters, and multiply_adds a picture; where and when;
        samples that were seen, per_s, how many of them a second in training, and train_s in all;
        ms a picture, alone on the device; the mean SCORES of each subset by its name. If training
        ended with weights that are not finite: `failed`, what it said, instead of all that.
    Raises: KeyboardInterrupt: training was stopped; what `train` raises.
    """
    path = Path(run_dir) / "results.json"
    scored = {"n": n_scored, "pack": evaluation.fingerprint}
    if path.exists():
        row = json.loads(path.read_text(encoding="utf-8"))
        if (row["config"], row["scored"]) == (json.loads(json.dumps(asdict(config))), scored):
            return row | about
    cost = recipes.measure(config.network, evaluation.size)
    row = about | {
        "config": asdict(config),
        "parameters": cost["parameters"],
        "multiply_adds": cost["multiply_adds"],
        "machine": timing.machine(),
        "date": timing.utc_now()[:10],
        "scored": scored,
    }
    try:
        run = train(config, packs, run_dir, drive_dir=drive_dir, valid=evaluation, progress=False)
    except FloatingPointError as error:  # a result, too: other entries go on
        row["failed"] = str(error).partition(".")[0]
        runs.write_json(path, row)
        return row
    if not run.done:
        raise KeyboardInterrupt(f"{run_dir} is unfinished; do this again to go on")
    blocks = timing.blocks(run.history)
    train_s = sum(blocks.values()) - blocks.get("evaluate", 0)
    row["samples"] = sum(config.size_of_batch(int(size)) for size in config.turns[: run.step])
    row["train_s"] = round(train_s, 3)
    row["per_s"] = round(row["samples"] / train_s, 1)
    row["ms"] = round(milliseconds(run.model, evaluation.size), 2)
    row |= scores(unet.predictor(run.model), evaluation, n_scored)
    runs.write_json(path, row)
    return row


def scores(
    predictor: metrics.Predictor, evaluation: dataset.Pack, n_scored: int = 500
) -> dict[str, dict[str, float]]:
    """The mean SCORES of each of SUBSETS, but for those that no picture has."""
    found = {}
    rows = evaluation.split()
    for subset in SUBSETS:
        means = metrics.score(predictor, evaluation, rows[subset][:n_scored])
        known = [name for name in SCORES if means.get(f"n_{name}")]
        found[subset] = {name: round(means[name], 5) for name in known}
    return found


def milliseconds(model: torch.nn.Module, size: int) -> float:
    """What one pair of photographs takes, by itself, where the model is."""
    bg, fg_bg = torch.rand(2, 1, 3, size, size, device=next(model.parameters()).device)
    return 1000 / timing.rate(partial(unet.predict, model, bg, fg_bg))


def stored() -> list[dict]:
    """The rows that took hours, as tests/benchmarks/bench_contest.py wrote them."""
    path = Path(recipes.__file__).with_name("results.json")
    return json.loads(path.read_text(encoding="utf-8"))


def table(rows: list[dict], subset: str = "unseen_both") -> list[dict]:
    """A line for each entry, budget and kind of data: `seeds`, how many `failed`, its COSTS, the
    mean of each score over the seeds that did not, and `± iou`, their standard deviation (NaN of
    one). Best mask last."""
    lines = []
    for (data, entry, budget), came in _grouped(rows).items():
        found = [row for row in came if subset in row]
        line = {"data": data, "entry": entry, "budget": budget, "seeds": len(came)}
        line["failed"] = len(came) - len(found)
        one = (found or came)[0]
        line |= {name: one[name] for name in COSTS if name in one}
        for name in SCORES:
            if values := [row[subset][name] for row in found if name in row[subset]]:
                line[name] = float(np.mean(values))
        ious = [row[subset]["iou"] for row in found]
        line["± iou"] = float(np.std(ious, ddof=1)) if len(ious) > 1 else math.nan
        lines.append(line)
    return sorted(lines, key=lambda line: line.get("iou", 0))


def compare(
    rows: list[dict], one: str, other: str, score: str = "iou", subset: str = "unseen_both"
) -> dict[str, float]:
    """How much better `one` is than `other`, both of one kind of data, at their largest budget.

    Returns: gain, above 0 if `one` is better, whichever way the score runs; noise, twice the
        standard error of a difference, from the spread over seeds of all entries of that budget
        (one equal pair in twenty differs by more); both means; budget. Failed runs do not count.
    Raises: ValueError: they have no budget in common, no entry of it has two seeds, or data differ.
    """
    if len({row.get("data") for row in rows}) > 1:
        raise ValueError("rows of several kinds of data came, needed one: what differs is the data")
    finished = [row for row in rows if subset in row]
    groups = {
        key[1:]: [row[subset][score] for row in found if score in row[subset]]
        for key, found in _grouped(finished).items()
    }
    budgets = [budget for entry, budget in groups if entry == one and (other, budget) in groups]
    if not budgets:
        raise ValueError(f"{one!r} and {other!r} never saw as many samples: train one of them more")
    budget = max(budgets)
    alike = [values for key, values in groups.items() if key[1] == budget]
    variances = [np.var(values, ddof=1) for values in alike if len(values) > 1]
    if not variances:
        raise ValueError("no entry was trained with two seeds: their spread is not known")
    better, worse = groups[one, budget], groups[other, budget]
    gain = float(np.mean(better) - np.mean(worse))
    if score in LOWER_IS_BETTER:
        gain = -gain
    noise = 2 * math.sqrt(np.mean(variances) * (1 / len(better) + 1 / len(worse)))
    means = {one: float(np.mean(better)), other: float(np.mean(worse))}
    return {"gain": gain, "noise": noise, "budget": budget} | means


def _grouped(rows: list[dict]) -> dict[tuple[str, str, int], list[dict]]:
    groups: dict[tuple[str, str, int], list[dict]] = {}
    for row in rows:
        key = row.get("data", ""), row["entry"], row.get("budget", 0)
        groups.setdefault(key, []).append(row)
    return groups
