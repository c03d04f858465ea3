import matplotlib

matplotlib.use("Agg")

import io

import numpy as np
import pytest
import torch
from PIL import Image

from evalib import colab, metrics, show


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
        show.histograms({"a": np.arange(5)}, "x", "t"),
        show.heat(batch["mask"][:, 0].numpy(), "t"),
        show.curves(history, {"loss": ["loss"]}, "t", begins=[2]),
        show.range_test({"adam": (np.array([1e-3, 1e-2]), np.array([1.0, 2.0]))}, 1e-3),
        show.ranking({"a": [0.5, 0.6], "b": [0.4]}, "IoU", "t"),
        show.time_shares({"forward": 2.0, "data": 1.0}, "t"),
    ]
    for figure in figures:
        assert pixels(figure).std() > 5


def test_the_mask_error_has_its_own_colour_for_found_invented_and_missed():
    pred, true = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    found, invented, missed, nothing = show.mask_error(pred, true)[0]
    assert found.argmax() == 1 and invented.argmax() == 0 and missed.argmax() == 2
    assert nothing.max() < 0.2


def test_the_three_sizes_never_share_a_folder(monkeypatch):
    monkeypatch.setenv("EVALIB_SMOKE", "1")
    assert colab.size() == "smoke" and colab.choose(smoke=1, cpu=2, gpu=3) == 1
    assert colab.home().name == "smoke"
    monkeypatch.delenv("EVALIB_SMOKE")
    expected = "gpu" if torch.cuda.is_available() else "cpu"
    assert colab.size() == expected == colab.home().name


def test_without_colab_a_folder_beside_the_runs_plays_drive(capsys):
    assert not colab.on_colab() and colab.folders("run")[1] == colab.home() / "drive" / "run"
    colab.setup()
    assert "Drive: none" in capsys.readouterr().out
