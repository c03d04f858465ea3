"""What follows from a step's number: learning rate, phase, and when to stop early. They are
functions, so no state can be lost.

ReduceLROnPlateau and early stopping look at the scores so far, which every checkpoint holds.
"""

import math
from collections.abc import Sequence

NAMES = ("constant", "onecycle", "step", "plateau")
PHASES = ("both", "mask", "depth", "mask head", "depth head")


def factor(name: str, step: int, n_steps: int, scores: Sequence[float] = ()) -> float:
    """What the peak learning rate is multiplied by at `step` of `n_steps`.

    Input:
        name:   constant; onecycle: 1/25 up to 1 over the first 30 %, then down to 1/25e4, both as
                cosines; step: a tenth after every third of the run, or after those shares of it
                that follow, as in "step:.5,.75"; plateau: a half, or as in "plateau:.1", after
                each 3 scores in a row that do not improve on the best before them.
        scores: of each evaluation so far, oldest first, higher is better ("plateau" only).
    Raises: ValueError: no such schedule.
    Source: Smith & Topin 2018, as in torch's OneCycleLR; torch's StepLR and ReduceLROnPlateau.
    """
    name, numbers = _parsed(name)
    if name == "onecycle":
        peak = 0.3 * n_steps - 1
        last = n_steps - 1
        if step <= peak:
            return _cosine(1 / 25, 1.0, step / peak)
        return _cosine(1.0, 1 / 25e4, min(1.0, (step - peak) / (last - peak)))
    if name == "step":
        return 0.1 ** sum(step >= share * n_steps for share in numbers or (1 / 3, 2 / 3))
    if name == "plateau":
        by = numbers[0] if numbers else 0.5
        return by ** _reductions(scores, every=3)
    return 1.0


def _parsed(text: str) -> tuple[str, list[float]]:
    """("step", [.5, .75]) of "step:.5,.75"."""
    name, _, numbers = text.partition(":")
    try:
        values = [float(number) for number in numbers.split(",")] if numbers else []
    except ValueError:
        values = [-1.0]
    most = {"step": math.inf, "plateau": 1}.get(name, 0)
    if name not in NAMES or len(values) > most or not all(0 < value < 1 for value in values):
        known = f"one of {', '.join(NAMES)}, or as step:.5,.75 and plateau:.1"
        raise ValueError(f"schedule {text!r}: needed {known}")
    return name, values


def phase(phases: Sequence[tuple[str, float]], step: int, n_steps: int) -> str:
    """Which of PHASES `step` of `n_steps` is in: they share the run as their numbers say.

    both: both tasks' losses; mask, depth: that loss alone, and what it reaches; mask head, depth
    head: and of that only what is the task's own, all that the two share as it is.
    """
    total = sum(share for _, share in phases)
    end = 0.0
    for name, share in phases:
        end += share
        if step < end / total * n_steps:
            return name
    return phases[-1][0] if phases else "both"


def stop_early(scores: Sequence[float], patience: int) -> bool:
    """True once `patience` scores in a row did not improve on the best."""
    best = max(range(len(scores)), key=scores.__getitem__, default=0)
    return len(scores) - 1 - best >= patience


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _reductions(scores: Sequence[float], every: int) -> int:
    """How many times `every` scores in a row failed to improve on the best before them."""
    best = -math.inf
    bad = 0
    reductions = 0
    for score in scores:
        bad = 0 if score > best else bad + 1
        best = max(best, score)
        if bad and bad % every == 0:
            reductions += 1
    return reductions
