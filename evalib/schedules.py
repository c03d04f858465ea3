"""Learning rates as plain functions of the step: there is no scheduler whose state could be lost.

`factor(...)` gives what the peak rate is multiplied by. ReduceLROnPlateau and early stopping look
at the scores logged so far, which live in the checkpoint, and so are functions as well.
"""

import math
from collections.abc import Sequence

SCHEDULES = ("constant", "onecycle", "step", "plateau")


def factor(name: str, step: int, n_steps: int, scores: Sequence[float] = ()) -> float:
    """What the peak learning rate is multiplied by at `step` of `n_steps`.

    Input:
        name:   constant; onecycle: 1/25 up to 1 over the first 30 %, then down to 1/25e4, both as
                cosines; step: a tenth after every third of the run (seed 002); plateau: a half
                after each 3 scores in a row that do not improve.
        scores: validation scores so far, oldest first, higher is better ("plateau" only).
    Raises: ValueError naming the schedules, for an unknown one.
    Source: Smith & Topin 2018, as in torch's OneCycleLR; torch's StepLR and ReduceLROnPlateau.
    """
    if name == "constant":
        return 1.0
    if name == "onecycle":
        peak, last = 0.3 * n_steps - 1, n_steps - 1
        if step <= peak:
            return _cosine(1 / 25, 1.0, step / peak)
        return _cosine(1.0, 1 / 25e4, min(1.0, (step - peak) / (last - peak)))
    if name == "step":
        return 0.1 ** (3 * step // max(1, n_steps))
    if name == "plateau":
        return 0.5 ** (_bad_scores(scores, every=3))
    raise ValueError(f"schedule {name!r} is unknown; choose one of {', '.join(SCHEDULES)}")


def stop_early(scores: Sequence[float], patience: int) -> bool:
    """True once `patience` scores in a row did not improve on the best; patience 0 never stops."""
    if not patience or not scores:
        return False
    best = max(range(len(scores)), key=scores.__getitem__)
    return len(scores) - 1 - best >= patience


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _bad_scores(scores: Sequence[float], every: int) -> int:
    """How many times `every` scores in a row failed to improve on the best before them."""
    best, bad, reductions = -math.inf, 0, 0
    for score in scores:
        best, bad = (score, 0) if score > best else (best, bad + 1)
        if bad == every:
            reductions, bad = reductions + 1, 0
    return reductions
