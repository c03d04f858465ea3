import csv
import json

import numpy as np
import pytest
import torch

from evalib import checkpoint, runs, training

TINY = dict(sizes=((32, 8),), batch_size=8, log_every=2, evaluate_every=4, n_valid=8, ema=0.5)


def train(config, pack, folder, **options):
    return training.train(config, {32: pack}, folder, device="cpu", progress=False, **options)


def stop_after(monkeypatch, n_steps):
    """Let the next session end after `n_steps`, as an interrupt would."""
    step = training.Training._train_step
    count = iter(range(10**6))

    def counted(self, lr=None):
        if next(count) + 1 == n_steps:
            training.signal.raise_signal(training.signal.SIGINT)
        return step(self, lr)

    monkeypatch.setattr(training.Training, "_train_step", counted)


def rows_without_times(folder):
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in r.items() if not k.endswith("_s") and k != "session"} for r in rows]


@pytest.mark.parametrize("n_steps", [3, 4])  # between two logged rows, and on one
def test_a_stopped_run_goes_on_as_if_it_had_never_been_stopped(
    playground, tmp_path, monkeypatch, capsys, n_steps
):
    config = training.Config(**TINY)
    straight = train(config, playground, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_after(patch, n_steps)
        first = train(config, playground, tmp_path / "resumed")
    assert not first.done and "Run this again" in capsys.readouterr().out
    second = train(config, playground, tmp_path / "resumed")
    assert second.done
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    ours, theirs = (rows_without_times(tmp_path / f) for f in ("straight", "resumed"))
    assert ours == theirs and [r["step"] for r in ours] == ["2", "4", "6", "8"]


def test_a_machine_with_an_empty_disk_goes_on_from_drive(playground, tmp_path, monkeypatch):
    config = training.Config(**TINY)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        train(config, playground, tmp_path / "lost", drive=tmp_path / "drive")
    run = train(config, playground, tmp_path / "new", drive=tmp_path / "drive")
    assert run.done and [row["step"] for row in run.history] == [2, 4, 6, 8]
    assert {row["session"] for row in run.history} == {1, 2}
    assert runs.load(tmp_path / "drive")  # the best weights are on Drive too


def test_a_failing_drive_does_not_end_training(playground, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(checkpoint, "copy", fail)
    with pytest.warns(UserWarning, match="local copy is kept"):
        run = train(training.Config(**TINY), playground, tmp_path / "run", drive=tmp_path / "drive")
    assert run.done


def test_a_time_budget_saves_and_returns(playground, tmp_path):
    run = train(training.Config(**TINY), playground, tmp_path, time_budget_s=1e-9)
    assert not run.done and checkpoint.newest([tmp_path])[1]["step"] == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 0.1}, {"batch_size": 4}])
def test_another_config_is_refused_by_name(playground, tmp_path, change):
    train(training.Config(**TINY), playground, tmp_path)
    with pytest.raises(ValueError, match=f"another {next(iter(change))}"):
        train(training.Config(**TINY | change), playground, tmp_path)


def test_a_run_folder_tells_everything_about_the_run(playground, tmp_path):
    run = train(training.Config(**TINY), playground, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert training.Config(**config) == training.Config(**TINY)
    assert "torch" in (tmp_path / "env.txt").read_text()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    history = runs.read_history(tmp_path)
    assert np.isfinite(history["train_iou"]).sum() == 2 and np.isfinite(history["forward_s"]).all()
    assert list((tmp_path / "tensorboard").glob("events*"))
    model = runs.load(tmp_path)
    assert not model.training
    best = max(row["score"] for row in run.history if "score" in row)
    assert checkpoint.newest([tmp_path], kind="best")[1]["score"] == best


def test_tensorboard_has_every_step_once_over_a_resume(playground, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        train(training.Config(**TINY), playground, tmp_path)
    train(training.Config(**TINY), playground, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6, 8]


def test_one_task_alone_leaves_the_other_untrained(playground, tmp_path):
    run = train(training.Config(**TINY | {"depth_loss": ""}), playground, tmp_path)
    assert "mask/bce" in run.history[0] and not any(k.startswith("depth/") for k in run.history[0])


def test_early_stopping_ends_a_run_for_good(playground, tmp_path):
    config = training.Config(**TINY | {"lr": 1e-12, "patience": 1, "sizes": ((32, 100),), "ema": 0})
    run = train(config, playground, tmp_path)
    assert run.done and run.history[-1]["step"] < 100
    again = train(config, playground, tmp_path)
    assert [row["step"] for row in again.history] == [row["step"] for row in run.history]


def test_a_loss_that_is_not_finite_stops_with_advice(playground, tmp_path, monkeypatch):
    config = training.Config(**TINY | {"lr": 1e30, "clip": 1e30, "optimizer": "sgd"})
    with pytest.raises((FloatingPointError, ValueError), match="Lower lr|0..1"):
        train(config, playground, tmp_path)


def test_sizes_follow_each_other(playground, tmp_path):
    config = training.Config(sizes=((32, 3), (64, 2)))
    assert [config.size_at(step) for step in range(6)] == [32, 32, 32, 64, 64, 64]
    with pytest.raises(ValueError, match="packs of \\[64\\] px"):
        train(config, playground, tmp_path)


def test_the_range_test_raises_the_rate_and_ends_when_the_loss_explodes(playground):
    config = training.Config(**TINY | {"optimizer": "sgd"})
    rates, losses = training.lr_range_test(
        config, {32: playground}, low=1e-4, high=1e3, n_steps=40, device="cpu"
    )
    assert len(rates) == len(losses) <= 40 and (np.diff(rates) > 0).all()


@pytest.mark.parametrize(
    "change", [{"mask_loss": "", "depth_loss": ""}, {"optimizer": "magic"}, {"schedule": "magic"}]
)
def test_a_contradictory_config_is_refused(change):
    with pytest.raises(ValueError, match="nothing to learn|choose one of"):
        training.Config(**TINY | change)


def test_a_folder_without_a_run_says_how_to_train(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m evalib train"):
        runs.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing was trained"):
        runs.read_history(tmp_path)
