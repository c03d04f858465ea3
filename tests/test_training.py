import csv
import json
import os
import random

import bench_resume
import numpy as np
import pytest
import torch

from evalib import checkpoint, dataset, runs, training, weights

TINY = dict(sizes=((32, 8),), batch_size=8, log_every=2, evaluate_every=4, n_valid=8, ema=0.5)


def train(config, pack, folder, **options):
    return training.train(config, {32: pack}, folder, device="cpu", progress=False, **options)


def stop_after(monkeypatch, n_steps):
    """Let the next session end after `n_steps`, as an interrupt would."""
    step = training.Learner.train_step
    count = iter(range(10**6))

    def counted(self, batches, lr=None):
        if next(count) + 1 == n_steps:
            training.signal.raise_signal(training.signal.SIGINT)
        return step(self, batches, lr)

    monkeypatch.setattr(training.Learner, "train_step", counted)


def rows_without_times(folder):
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in r.items() if not k.endswith("_s")} for r in rows]


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
        train(config, playground, tmp_path / "lost", drive_dir=tmp_path / "drive")
    assert next((tmp_path / "drive").glob("best-*"))
    run = train(config, playground, tmp_path / "new", drive_dir=tmp_path / "drive")
    assert run.done and run.on_drive and [row["step"] for row in run.history] == [2, 4, 6, 8]
    assert [s["first_step"] for s in runs.read_sessions(tmp_path / "new")] == ["0", "5"]
    assert weights.load(tmp_path / "drive")  # the best weights are on Drive too


def test_a_finished_run_comes_back_from_drive_with_its_weights(playground, tmp_path):
    config = training.Config(**TINY)
    done = train(config, playground, tmp_path / "lost", drive_dir=tmp_path / "drive")
    again = train(config, playground, tmp_path / "new", drive_dir=tmp_path / "drive")
    assert again.done and again.step == 8
    theirs = weights.load(tmp_path / "new").state_dict()
    ours = weights.load(done.folder).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert len(runs.read_history(tmp_path / "new")["step"]) == 4
    assert runs.newest(tmp_path, name="n*") == tmp_path / "new"


def test_a_run_of_a_gpu_with_fp16_goes_on_without_one(playground, tmp_path, monkeypatch):
    config = training.Config(**TINY)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        train(config, playground, tmp_path)
    _, state = checkpoint.newest([tmp_path])
    checkpoint.save(tmp_path, state | {"scaler": {"scale": 65536.0}})
    assert train(config, playground, tmp_path).done


def test_a_drive_that_does_not_answer_is_not_an_empty_one(playground, tmp_path, monkeypatch):
    def offline(self):
        raise OSError(107, "Transport endpoint is not connected")

    config = training.Config(**TINY)
    train(config, playground, tmp_path / "lost", drive_dir=tmp_path / "drive")
    monkeypatch.setattr(checkpoint.Path, "iterdir", offline)
    monkeypatch.setattr(checkpoint, "RETRY_S", (0,))
    with pytest.raises(OSError, match="not connected"):
        train(config, playground, tmp_path / "new", drive_dir=tmp_path / "drive")


def test_a_full_disk_is_told_and_training_goes_on(playground, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.warns(UserWarning, match="free some space"):
        assert train(training.Config(**TINY), playground, tmp_path).done


@pytest.mark.parametrize("what", ["write_csv", "write_picture", "log_row"])
def test_a_full_disk_at_any_file_of_the_run_does_not_end_training(
    playground, tmp_path, monkeypatch, what
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, what, full)
    with pytest.warns(UserWarning, match=f"{tmp_path}.*free some space"):
        assert train(training.Config(**TINY), playground, tmp_path).done


def test_best_weights_that_cannot_be_read_do_not_stop_a_run(playground, tmp_path, monkeypatch):
    train(training.Config(**TINY), playground, tmp_path)
    newest = checkpoint.newest

    def unreadable(folders, kind="step"):
        if kind == "best":
            raise OSError(5, "Input/output error")
        return newest(folders, kind=kind)

    monkeypatch.setattr(checkpoint, "newest", unreadable)
    with pytest.warns(UserWarning, match="best weights so far cannot be read"):
        assert train(training.Config(**TINY), playground, tmp_path).done


def test_a_slow_resume_is_no_slow_step(playground, tmp_path, monkeypatch):
    resume = training.Session._resume

    def slow(self):
        training.time.sleep(1.0)
        resume(self)

    monkeypatch.setattr(training.Session, "_resume", slow)
    assert train(training.Config(**TINY), playground, tmp_path, time_budget=2.9).step > 1


def test_a_time_budget_saves_and_returns(playground, tmp_path):
    run = train(training.Config(**TINY), playground, tmp_path, time_budget=1e-9)
    assert not run.done and run.step == checkpoint.newest([tmp_path])[1]["step"] == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 0.1}, {"batch_size": 4}])
def test_another_config_is_refused_by_name(playground, tmp_path, change):
    train(training.Config(**TINY), playground, tmp_path)
    with pytest.raises(ValueError, match=f"another {next(iter(change))}"):
        train(training.Config(**TINY | change), playground, tmp_path)


def cut(state):
    """The same state with the first of its tensors one number short."""
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.ndim:
            return state | {name: value[:-1].clone()}
        if isinstance(value, dict) and (shorter := cut(value)) is not value:
            return state | {name: shorter}
    return state


@pytest.mark.parametrize("part", ["model", "ema", "optimizer"])
def test_other_parameter_shapes_are_refused(playground, tmp_path, part):
    train(training.Config(**TINY), playground, tmp_path)
    _, state = checkpoint.newest([tmp_path])
    checkpoint.save(tmp_path, state | {part: cut(state[part]), "step": 9})
    with pytest.raises(ValueError, match="step-0000000009.*does not fit the network 'small'"):
        train(training.Config(**TINY), playground, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": {}},
        {"optimizer": 3},
        {"history": [3]},
        {"history": "x"},
        {"window": {"n": "x"}},
        {"scaler": None, "ema": None},
        {"config": None},
        {"config": 3},
        {"data": None},
        {"sessions": 3},
    ],
)
def test_a_state_of_another_kind_is_refused_with_a_sentence(playground, tmp_path, change):
    train(training.Config(**TINY), playground, tmp_path)
    _, state = checkpoint.newest([tmp_path])
    checkpoint.save(tmp_path, state | {"step": 9} | change)
    with pytest.raises(ValueError, match="step-0000000009"):
        train(training.Config(**TINY), playground, tmp_path)


def test_a_checkpoint_whose_name_is_right_but_carries_code_is_passed_over(playground, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    config = training.Config(**TINY)
    train(config, playground, tmp_path)
    name, data = checkpoint.serialise({"step": 9, "model": Evil()})
    checkpoint.write(tmp_path, name, data)
    with pytest.warns(UserWarning, match="step-0000000009.*not a readable checkpoint"):
        run = train(config, playground, tmp_path)
    assert run.done and run.step == 8 and not (tmp_path / "ran").exists()


def test_asked_twice_to_stop_it_stops_at_once(playground, tmp_path, monkeypatch):
    def impatient(self, batches, lr=None):
        for _ in range(2):
            training.signal.raise_signal(training.signal.SIGINT)

    monkeypatch.setattr(training.Learner, "train_step", impatient)
    with pytest.raises(KeyboardInterrupt):
        train(training.Config(**TINY), playground, tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(playground, tmp_path, workers):
    config = training.Config(**TINY | {"way": "albumentations"})
    ours, theirs = (
        train(config, playground, tmp_path / str(n), workers=n).model.state_dict()
        for n in (0, workers)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_sessions_killed_at_any_moment_give_the_run_that_was_never_stopped(tmp_path):
    """Three kills; `python -m evalib bench resume` makes a hundred."""
    results = bench_resume.survive(tmp_path, kills=3, chance=random.Random(0))
    assert sum(len(result["kills"]) for result in results) >= 3
    for result in results:
        assert all(result["same"].values()), result
        assert not result["torn"] + result["none"] + result["behind"], result


def test_a_run_folder_tells_everything_about_the_run(playground, tmp_path):
    run = train(training.Config(**TINY), playground, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert training.Config(**config) == training.Config(**TINY)
    assert "torch" in runs.read_sessions(tmp_path)[0]["machine"]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    history = runs.read_history(tmp_path)
    assert np.isfinite(history["train_iou"]).sum() == 2 and np.isfinite(history["forward_s"]).all()
    assert list((tmp_path / "tensorboard").glob("events*"))
    model = weights.load(tmp_path)
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
    with pytest.raises(FloatingPointError, match="Lower lr"):
        train(config, playground, tmp_path, checkpoint_every=0)
    _, state = checkpoint.newest([tmp_path]) or (None, None)
    assert state is None or all(w.isfinite().all() for w in state["model"].values())


def test_sizes_follow_each_other(playground, tmp_path):
    config = training.Config(**TINY | {"sizes": ((32, 3), (48, 5))})
    assert [config.size_at(step) for step in range(9)] == [32] * 3 + [48] * 6
    turns = training.Config(**TINY | {"sizes": ((32, 10), ((32, 64, 96), 3000))})
    sizes = [turns.size_at(step) for step in range(3010)]
    assert sizes[:10] == [32] * 10 and sizes[-1] in (32, 64, 96)
    assert all(900 < sizes[10:].count(size) < 1100 for size in (32, 64, 96))
    again = training.Config(**json.loads(json.dumps(training.asdict(turns))))
    assert again == turns and again.all_sizes == [32, 64, 96] and again.n_steps == 3010
    with pytest.raises(ValueError, match="packs of \\[48\\] px"):
        train(config, playground, tmp_path)
    larger = dataset.build("playground-24", 48, root=tmp_path, progress=False)
    both = {32: playground, 48: larger}
    run = training.train(config, both, tmp_path / "run", device="cpu", progress=False)
    assert [row["size"] for row in run.history] == [32, 48, 48, 48]


def test_the_range_test_raises_the_rate_and_ends_when_the_loss_explodes(playground):
    config = training.Config(**TINY | {"optimizer": "sgd"})
    rates, losses = training.lr_range_test(
        config, {32: playground}, low=1e-4, high=1e3, n_steps=40, device="cpu"
    )
    assert len(rates) == len(losses) <= 40 and (np.diff(rates) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_loss": "", "depth_loss": ""}, "train nothing"),
        ({"mask_loss": "nope"}, "mask loss 'nope'"),
        ({"optimizer": "magic"}, "choose one of"),
        ({"schedule": "magic"}, "choose one of"),
        ({"network": "huge"}, "choose one of"),
        ({"augment": "all"}, "no recipe"),
        ({"evaluate_every": 5}, "no multiple of log_every"),
        ({"sizes": ((32, 0),)}, "at least 1"),
        ({"ema": 1.0}, "ema in 0..1"),
    ],
)
def test_a_contradictory_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        training.Config(**TINY | change)


def test_a_folder_without_a_run_says_how_to_train(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m evalib train"):
        weights.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing was trained"):
        runs.read_history(tmp_path)
