import matplotlib

matplotlib.use("Agg")

import io

import numpy as np
import pytest
import torch
from PIL import Image

from evalib import metrics, recipes, show


@pytest.fixture(scope="module")
def batch(playground):
    return playground.batch(playground.split()["train"][:3])


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_every_figure_draws_something(batch):
    preds = metrics.baseline(batch)
    history = {"step": np.arange(1, 5.0)}
    history["loss"] = np.array([4, 3, np.nan, 1.0])
    figures = [
        show.samples(batch, 2),
        show.predictions(batch, *preds, captions=["a", "b", "c"], title="t"),
        show.masks(batch, {"p": preds[0]}, "t"),
        show.depths(batch, {"p": preds[1]}, "t"),
        show.row(batch, *preds),
        show.pair(recipes.build("small"), *np.full((2, 48, 64, 3), 200, np.uint8)),
        show.histograms({"a": np.arange(5)}, "x", "t"),
        show.heat(batch["mask"].mean((0, 1)), "t", "share"),
        show.curves(history, {"loss": ["loss"]}, "t", begins=[2]),
        show.range_test({"adam": (np.array([1e-3, 1e-2]), np.array([1.0, 2.0]))}, 1e-3),
        show.ranking({"a": [0.5, 0.6], "b": [0.4]}, "IoU", "t"),
        show.time_bar([{"forward_s": 2.0, "data_s": 1.0}], "t"),
    ]
    for figure in figures:
        assert pixels(figure).std() > 5


def test_the_mask_error_has_its_own_colour_for_found_invented_and_missed():
    pred = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)
    true = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 1, 4)
    found, invented, missed, nothing = show.mask_error(pred, true)[0, :, 0].T  # (3,) each
    assert found.argmax() == 1 and invented.argmax() == 0 and missed.argmax() == 2
    assert nothing.max() < 0.2


def test_depth_is_drawn_in_metres_beside_a_bar_of_fixed_range(batch):
    figure = show.predictions(batch, batch["mask"], batch["depth"] + 0.1, title="t")
    drawn = {axes.get_ylabel(): axes.images[0] for axes in figure.axes if axes.get_ylabel()}
    true, error = drawn["depth true, m"], drawn["depth error, m"]
    metres = 10 * batch["depth"][0, 0].numpy()
    assert np.allclose(true.get_array(), metres) and true.get_clim() == (0, 10)
    assert np.allclose(error.get_array(), 1, atol=1e-5) and error.get_clim() == (-2, 2)
    assert drawn["mask predicted"].get_clim() == (0, 1)
    n_bars = sum(len(axes.child_axes) for axes in figure.axes)
    assert n_bars == 3 and figure.get_suptitle() == "t"


HISTORY = [
    {"step": 1, "loss": 2.0, "seen_iou": 0.1, "seen_depth_rmse": 0.3, "seen_fg_depth_rmse": 0.4},
    {"step": 2, "loss": 1.0, "note": "no number"},
    {"step": 3, "loss": 0.5, "seen_iou": 0.6, "seen_depth_rmse": 0.2, "seen_fg_depth_rmse": 0.3},
]


def test_training_curves_are_those_of_the_logged_rows():
    panels = show.training_curves(HISTORY, "run").axes
    assert [axes.get_ylabel() for axes in panels] == ["loss", "mask IoU", "depth RMSE, m"]
    lines = [line.get_xydata().tolist() for axes in panels for line in axes.lines]
    assert lines == [[[1, 2], [2, 1], [3, 0.5]], [[1, 0.1], [3, 0.6]], [[1, 3], [3, 2]]]


def test_before_the_first_evaluation_there_is_only_the_loss():
    assert len(show.training_curves(HISTORY[1:2], "run").axes) == 1


def test_the_time_bar_adds_up_the_rows_and_shows_shares_and_seconds():
    rows = [{"step": 1, "forward_s": 2.0, "data_s": 0.5}, {"step": 2, "forward_s": 1.0}]
    rows += [{"step": 3, "loss": 0.1, "forward_s": 3.0, "data_s": 0.5, "checkpoint_s": 3.0}]
    (axes,) = show.time_bar(rows, "t").axes
    names = [label.get_text() for label in axes.get_yticklabels()]  # upwards
    assert names == ["data", "checkpoint", "forward"]
    assert [bar.get_width() for bar in axes.patches] == [10, 30, 60]
    labels = [text.get_text() for text in axes.texts]
    assert labels == [" 10.0 %, 1.0 s", " 30.0 %, 3.0 s", " 60.0 %, 6.0 s"]
