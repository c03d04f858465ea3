import sys
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

from evalib import progress, timing, training
from evalib.progress import Progress

TINY = dict(sizes=((32, 8),), batch_size=8, log_every=2, evaluate_every=4, n_valid=8, ema=0.5)
CELL = """
from pathlib import Path
from evalib import dataset, training

here = Path(HERE)
pack = dataset.build("mid-1000", 16, root=here / "packs", limit=200)
config = training.Config(**TINY)
training.train(config, {16: pack}, here / "run", time_budget="50min", device="cpu").done
"""


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def row(step, **scores):
    return {"step": step, "loss": 1.0, **scores}


def test_the_sessions_that_are_left_follow_from_what_this_one_did(clock):
    shown = Progress("run", 1000, 4000, budget_s=3000, on=False)
    assert shown.sessions(1000, more=False) == ""  # no step, no estimate
    clock.s = 1000  # 500 steps took 1000 s: 2500 more take 5000
    assert shown.sessions(1500, more=False) == "about 2 sessions of 50 min with this one"
    clock.s = 2990
    assert shown.sessions(2495, more=True) == "about 2 more sessions of 50 min"
    assert shown.sessions(3990, more=True) == "about 1 more session of 50 min"


def test_without_a_budget_nothing_is_said_of_sessions(clock):
    shown = Progress("run", 0, 10, budget_s=float("inf"), on=False)
    clock.s = 5
    assert shown.sessions(5, more=False) == ""


@pytest.mark.parametrize(
    ("s", "text"), [(0.5, "0.5 s"), (45, "45 s"), (600, "10 min"), (5400, "1.5 h"), (41400, "12 h")]
)
def test_times_are_said_in_their_unit(s, text):
    assert timing.text(s) == text


def test_a_run_says_in_the_end_how_many_sessions_are_left(playground, tmp_path, capsys):
    config = training.Config(**TINY)
    options = dict(device="cpu", time_budget=1e-3, progress=False)
    run = training.train(config, {32: playground}, tmp_path, **options)
    assert not run.done
    assert ", about " in capsys.readouterr().out


def test_the_curve_is_one_picture_that_is_replaced(monkeypatch):
    shown, updated = [], []

    def display(figure, display_id):
        shown.append(figure)
        return SimpleNamespace(update=updated.append)

    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    run = Progress("run", 0, 8, budget_s=60, on=True)
    history = []
    for step in (2, 4, 6, 8):
        scores = {"score": 0.5, "seen_iou": 0.5, "seen_depth_rmse": 0.1, "seen_fg_depth_rmse": 1}
        history.append(row(step, **(scores if step % 4 == 0 else {})))
        run.log(history)
    run.bar.close()
    assert len(shown) == 1 and len(updated) == 1
    axes = updated[0].axes
    assert [len(a.lines) for a in axes] == [1, 1, 1] and len(axes[0].lines[0].get_xdata()) == 4
    assert list(axes[1].lines[0].get_xdata()) == [4, 8]


@pytest.mark.parametrize(("on", "notebook"), [(False, True), (True, False)])
def test_no_picture_in_a_shell_or_when_told_to_be_quiet(monkeypatch, on, notebook):
    monkeypatch.setattr(progress, "in_notebook", lambda: notebook)
    run = Progress("run", 0, 8, budget_s=60, on=on)
    run.log([row(4, score=0.5)])
    run.bar.close()
    assert run.picture is None


def test_a_shell_is_no_notebook(monkeypatch):
    assert not progress.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not progress.in_notebook()


def test_a_stored_notebook_holds_one_line_a_bar_and_one_picture(tmp_path):
    """Executed as `nbconvert --execute` does it."""
    code = f"HERE, TINY = {str(tmp_path)!r}, {TINY | {'sizes': ((16, 40),)}}\n{CELL}"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120).execute()
    outputs = notebook.cells[0].outputs
    kinds = ["text/plain", "image/png", "application/vnd.jupyter.widget-view+json"]
    counts = [sum(kind in output.get("data", {}) for output in outputs) for kind in kinds]
    assert counts == [4, 1, 2]  # bars of rendering and training, the curve, the cell's value
    assert not [output for output in outputs if output.get("name") == "stderr"]
