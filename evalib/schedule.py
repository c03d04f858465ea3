"""The learning rate of a step, and when to stop early: functions, so no state can be lost.

ReduceLROnPlateau and early stopping look at the scores so far, which every checkpoint holds.
"""

import math
from collections.abc import Sequence

NAMES = ("constant", "onecycle", "step", "plateau")


def factor(name: str, step: int, n_steps: int, scores: Sequence[float] = ()) -> float:
    """What the peak learning rate is multiplied by at `step` of `n_steps`.

    Input:
        name:   constant; onecycle: 1/25 up to 1 over the first 30 %, then down to 1/25e4, both as
                cosines; step: a tenth after every third of the run (document 002); plateau: a half
                after each 3 scores in a row that do not improve on the best before them.
        scores: of each evaluation so far, oldest first, higher is better ("plateau" only).
    Source: Smith & Topin 2018, as in torch's OneCycleLR; torch's StepLR and ReduceLROnPlateau.
    """
    if name == "onecycle":
        peak = 0.3 * n_steps - 1
        last = n_steps - 1
        if step <= peak:
            return _cosine(1 / 25, 1.0, step / peak)
        return _cosine(1.0, 1 / 25e4, min(1.0, (step - peak) / (last - peak)))
    if name == "step":
        return 0.1 ** (3 * step // n_steps)
    if name == "plateau":
        return 0.5 ** _reductions(scores, every=3)
    return 1.0


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
