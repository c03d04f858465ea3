"""What a long run shows of itself while it runs: a bar with the time that is left, and how many
sessions that means; in a notebook also one picture of its curves, drawn anew at each evaluation.

The picture is replaced, never repeated, and the bar is a widget wherever ipywidgets are, so that a
stored notebook grows by one picture and one line, however long the run.
"""

import math
import sys
import time

import numpy as np
from tqdm.auto import tqdm

from evalib import timing


class Progress:
    """Of one session of a run.

    Input:
        step:     where the session begins, of `n_steps`.
        budget_s: seconds of a session, inf for as long as it takes.
        on:       False shows nothing.
    """

    def __init__(self, name: str, step: int, n_steps: int, *, budget_s: float, on: bool) -> None:
        self.name, self.first, self.n_steps = name, step, n_steps
        self.budget_s, self.on, self.picture = budget_s, on, None
        self.began = time.monotonic()
        # smoothing=0: sizes take turns and evaluations fall between, so only a mean tells the rest
        options = {"desc": name, "mininterval": 2, "smoothing": 0}
        self.bar = tqdm(total=n_steps, initial=step, disable=not on, **options)

    def log(self, history: list[dict]) -> None:
        """The last row's loss, and if it was evaluated, all curves so far."""
        step, loss = history[-1]["step"], history[-1]["loss"]
        note = [f"loss {loss:.3f}", self.sessions(step, more=False)]
        self.bar.set_postfix_str(", ".join(filter(None, note)), refresh=False)
        if self.on and "score" in history[-1] and in_notebook():
            self._draw(history)

    def sessions(self, step: int, *, more: bool) -> str:
        """About how many sessions the run needs: `more` ones, or counted with this one. Empty if
        they have no budget, or this one has made no step yet."""
        spent = time.monotonic() - self.began
        if math.isinf(self.budget_s) or step == self.first:
            return ""
        left = (self.n_steps - step) * spent / (step - self.first)
        n = max(1, math.ceil((left if more else spent + left) / self.budget_s))
        sessions = f"{'more ' * more}session{'s' * (n > 1)} of {timing.text(self.budget_s)}"
        return f"about {n} {sessions}{' with this one' * (not more)}"

    def _draw(self, history: list[dict]) -> None:
        from IPython.display import display

        from evalib import show  # here only: a run in a shell draws nothing

        names = dict.fromkeys(name for row in history for name in row)
        columns = {n: np.array([row.get(n, np.nan) for row in history], float) for n in names}
        whole = [n for n in names if n.endswith("_depth_rmse") and not n.endswith("_fg_depth_rmse")]
        panels = {"loss": ["loss"], "mask IoU": [n for n in names if n.endswith("_iou")]}
        title = f"{self.name}: step {history[-1]['step']:,} of {self.n_steps:,}"
        figure = show.curves(columns, panels | {"depth RMSE, 10 m": whole}, title)
        if self.picture:
            self.picture.update(figure)
        else:
            self.picture = display(figure, display_id=True)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this, which can replace a picture that it has shown."""
    ipython = sys.modules.get("IPython")  # it is loaded there, and slow to load elsewhere
    return hasattr(ipython and ipython.get_ipython(), "kernel")
