import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import bench_resume
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from evalib import (
    checkpoint,
    dataset,
    runs,
    show,
    training,
    unet,
    weights,
)
from evalib.training import heads, loop, ranks, session

TINY = dict(sizes=((32, 8),), batch_size=8, log_every=2, evaluate_every=4, n_valid=8, ema=0.5)


def train(config, pack, folder, **options):
    return training.train(config, {32: pack}, folder, device="cpu", progress=False, **options)


def put(folder, state, kind="step"):
    checkpoint.write(folder, *checkpoint.serialise(state, kind))


def full(*_, **__):
    raise OSError(28, "No space left on device")


def stop_after(monkeypatch, n_steps):
    """Let the next session end after `n_steps`, as an interrupt would."""
    step = training.Learner.train_step
    count = iter(range(10**6))

    def counted(self, batches, lr=None):
        if next(count) + 1 == n_steps:
            signal.raise_signal(signal.SIGINT)
        return step(self, batches, lr)

    monkeypatch.setattr(training.Learner, "train_step", counted)


def rows_without_times(folder):
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in r.items() if not k.endswith("_s")} for r in rows]


# between two logged rows, and on one
@pytest.mark.parametrize(("n_steps", "optimizer"), [(3, "adamw"), (4, "adamw"), (3, "muon")])
def test_a_stopped_run_goes_on_as_if_it_had_never_been_stopped(
    playground, tmp_path, monkeypatch, capsys, n_steps, optimizer
):
    config = training.Config(**TINY | {"optimizer": optimizer})
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
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = True
    put(tmp_path, state | {"scaler": {"scale": 65536.0}})
    run = train(config, playground, tmp_path)
    assert run.done
    _, state = checkpoint.newest([tmp_path])
    assert state["optimizer"]["param_groups"][0]["fused"] is None


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
    monkeypatch.setattr(checkpoint, "write_whole", full)
    with pytest.warns(UserWarning, match="free some space|averaged weights of step 8") as told:
        run = train(training.Config(**TINY), playground, tmp_path)
    assert run.done and not run.model.training
    assert "best weights cannot be read" in str(told[-1].message)


@pytest.mark.parametrize("what", ["write_csv", "write_json", "write_picture", "log_row"])
def test_a_full_disk_at_any_file_of_the_run_does_not_end_training(
    playground, tmp_path, monkeypatch, what
):
    monkeypatch.setattr(runs, what, full)
    with pytest.warns(UserWarning, match=f"{tmp_path}.*free some space"):
        assert train(training.Config(**TINY), playground, tmp_path).done


def test_a_full_disk_does_not_end_training_when_tensorboard_begins_anew(
    playground, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", full)
    with pytest.warns(UserWarning, match=f"{tmp_path}.*free some space"):
        assert train(training.Config(**TINY), playground, tmp_path).done


@pytest.mark.parametrize("kind", ["best", "read_bytes"])
def test_best_weights_that_cannot_be_read_do_not_stop_a_run(
    playground, tmp_path, monkeypatch, kind
):
    train(training.Config(**TINY), playground, tmp_path)
    read = Path.read_bytes

    def unreadable(path, *_, **__):
        if isinstance(path, list) or path.name.startswith("best"):
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(*((checkpoint, "best") if kind == "best" else (Path, kind)), unreadable)
    monkeypatch.setattr(checkpoint, "RETRY_S", ())
    with pytest.warns(UserWarning, match="best weights|Passed over") as told:
        assert train(training.Config(**TINY), playground, tmp_path).done
    assert any("best weights so far cannot be read" in str(each.message) for each in told)


def test_a_slow_resume_is_no_slow_step(playground, tmp_path, monkeypatch):
    clock = SimpleNamespace(s=0.0)
    resume, step = loop._resume, training.Learner.train_step

    def slow(*args):
        clock.s += 1.0
        return resume(*args)

    def quick(*args):
        clock.s += 0.1
        return step(*args)

    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: clock.s))
    monkeypatch.setattr(loop, "_resume", slow)
    monkeypatch.setattr(training.Learner, "train_step", quick)
    run = train(training.Config(**TINY), playground, tmp_path, time_budget=1.45)
    assert run.step == 3  # after 1.3 s, two steps of .1 s would be too much


def test_a_time_budget_saves_and_returns(playground, tmp_path):
    run = train(training.Config(**TINY), playground, tmp_path, time_budget=1e-9)
    assert not run.done and run.step == checkpoint.newest([tmp_path])[1]["step"] == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 0.1}, {"batch_size": 4}])
def test_another_config_is_refused_by_name(playground, tmp_path, change):
    train(training.Config(**TINY), playground, tmp_path)
    [(name, value)] = change.items()
    began = getattr(training.Config(**TINY), name)
    with pytest.raises(ValueError, match=f"a run with {name} {began} instead of {value}"):
        train(training.Config(**TINY | change), playground, tmp_path)


@pytest.mark.parametrize("part", ["model", "ema"])
def test_other_parameter_shapes_are_refused(playground, tmp_path, part):
    train(training.Config(**TINY), playground, tmp_path)
    _, state = checkpoint.newest([tmp_path])
    shorter = {
        name: value[:-1].clone() if value.ndim else value for name, value in state[part].items()
    }
    put(tmp_path, state | {part: shorter, "step": 9})
    with pytest.raises(ValueError, match="step-0000000009.*does not fit the network 'small'"):
        train(training.Config(**TINY), playground, tmp_path)


def test_other_data_are_refused(playground, tmp_path):
    train(training.Config(**TINY), playground, tmp_path / "run")
    other = dataset.build("playground-24", 32, limit=16, root=tmp_path, progress=False)
    with pytest.raises(ValueError, match="step-0000000008.*a run with data .* instead of"):
        train(training.Config(**TINY), other, tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 GiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
        RuntimeError("Error(s) in loading state_dict: CUDA error: out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_too_little_memory_is_never_told_as_a_run_to_start_anew(
    playground, tmp_path, monkeypatch, error
):
    def short(*_):
        raise error

    train(training.Config(**TINY), playground, tmp_path)
    before = sorted(path.name for path in tmp_path.glob("*.pt"))
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", short)
        with pytest.raises(MemoryError, match="step-0000000008.*The run is safe") as told:
            train(training.Config(**TINY), playground, tmp_path)
    assert "another folder" not in str(told.value) and "anew" not in str(told.value)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == before
    assert train(training.Config(**TINY), playground, tmp_path).done


def test_two_learners_of_different_precision_live_in_one_process(playground, monkeypatch):
    config = training.Config(**TINY)
    for name in ("no", "bf16", "no"):
        monkeypatch.setattr(ranks, "precision", lambda device, name=name: name)
        ours = training.Learner(config, {32: playground}, device="cpu")
        assert ours.accelerator.mixed_precision == name
        assert ours.train_step(ours.to_come()).isfinite()


def test_a_run_gives_its_best_weights_as_load_does(playground, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.1, 0.2])
    evaluate = training.Learner.evaluate

    def scored(self):
        found, picture = evaluate(self)
        return found | {"score": next(scores)}, picture

    monkeypatch.setattr(training.Learner, "evaluate", scored)
    run = train(training.Config(**TINY | {"evaluate_every": 2}), playground, tmp_path)
    _, best = checkpoint.best([tmp_path])
    assert best["step"] == 4 and run.step == 8
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, best["model"][name]), name
        assert torch.equal(value, weights.load(tmp_path).state_dict()[name]), name


def test_best_weights_of_steps_left_behind_do_not_outrank_the_true_ones(
    playground, tmp_path, monkeypatch
):
    config = training.Config(**TINY)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        train(config, playground, tmp_path / "run")
    _, true = checkpoint.best([tmp_path / "run"])
    assert true["step"] == 4
    left_behind = true | {"step": 6, "score": true["score"] + 1}  # on other hardware
    put(tmp_path / "run", left_behind, "best")
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        train(config, playground, tmp_path / "run", drive_dir=tmp_path / "drive")
    assert [path.name[:15] for path in (tmp_path / "drive").glob("best*")] == ["best-0000000004"]
    run = train(config, playground, tmp_path / "run")
    found = checkpoint.best([tmp_path / "run"], run.history)[1]
    assert found["score"] == max(row["score"] for row in run.history if "score" in row)
    assert all(torch.equal(v, found["model"][k]) for k, v in run.model.state_dict().items())


def test_a_run_keeps_the_number_of_threads_it_began_with(playground, tmp_path, monkeypatch):
    config = training.Config(**TINY)
    now = torch.get_num_threads()
    used = []
    monkeypatch.setattr(session, "cores", lambda: 8)
    try:
        torch.set_num_threads(3)
        with monkeypatch.context() as patch:
            stop_after(patch, 5)
            train(config, playground, tmp_path)
        torch.set_num_threads(2)
        step = training.Learner.train_step
        monkeypatch.setattr(
            training.Learner,
            "train_step",
            lambda *args: (used.append(torch.get_num_threads()), step(*args))[1],
        )
        assert train(config, playground, tmp_path).done
        assert set(used) == {3} and torch.get_num_threads() == 2
        path, state = checkpoint.newest([tmp_path])
        del state["threads"]  # as stored before they were: leave what is set
        put(tmp_path, state | {"step": 7})
        path.unlink()
        used.clear()
        assert train(config, playground, tmp_path).done and set(used) == {2}
        _, state = checkpoint.newest([tmp_path])
        for path in tmp_path.glob("step-*"):
            path.unlink()
        put(tmp_path, state | {"step": 7, "threads": 64})
        used.clear()
        with pytest.warns(UserWarning, match="began with 64 threads and goes on with 8"):
            assert train(config, playground, tmp_path).done
        assert set(used) == {8}
    finally:
        torch.set_num_threads(now)


CHILD = """
import signal, sys
from pathlib import Path
from evalib import dataset, training
step = training.Learner.train_step
def terminated(self, batches, lr=None):
    signal.raise_signal(signal.SIGTERM)
    return step(self, batches, lr)
training.Learner.train_step = terminated
pack = dataset.build("playground-24", 32, root=sys.argv[1], progress=False)
config = training.Config(sizes=((32, 8),), batch_size=8, n_valid=8)
training.train(config, {32: pack}, Path(sys.argv[1]) / "run", device="cpu", progress=False)
print("still here")
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process without asking it")
def test_sigterm_saves_and_then_ends_the_process(tmp_path):
    child = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(child, capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "Stopped at step 1 of 8" in done.stdout and "still here" not in done.stdout
    assert checkpoint.newest([tmp_path / "run"])[1]["step"] == 1
    assert (tmp_path / "run" / "lease.json").read_text() == '{"turn": 1}\n'  # given back


def test_sigterm_is_passed_on_to_whom_it_was_meant_for(playground, tmp_path, monkeypatch):
    def terminated(self, batches, lr=None):
        signal.raise_signal(signal.SIGTERM)
        return step(self, batches, lr)

    step, received = training.Learner.train_step, []
    monkeypatch.setattr(training.Learner, "train_step", terminated)
    former = signal.signal(
        signal.SIGTERM, lambda *_: received.append(checkpoint.newest([tmp_path]))
    )
    try:
        run = train(training.Config(**TINY), playground, tmp_path)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert [state["step"] for _, state in received] == [1] and run.step == 1


def test_a_signal_during_the_last_save_of_a_session_loses_nothing(
    playground, tmp_path, monkeypatch
):
    def store(*args):
        signal.raise_signal(signal.SIGTERM)
        return stored(*args)

    stored, received = loop._store, []
    monkeypatch.setattr(loop, "_store", store)
    former = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        run = train(training.Config(**TINY), playground, tmp_path, time_budget=1e-9)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert received and run.step == checkpoint.newest([tmp_path])[1]["step"] == 1


def test_weights_on_a_gpu_are_asked_where_they_are_whether_they_are_finite(playground):
    ours = training.Learner(training.Config(**TINY), {32: playground}, device="cpu")
    ours.network.to("meta")
    ours.ema.to("meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta tensors"):
        ours.refuse_nonfinite()  # only the answer cannot be read there


@pytest.mark.parametrize("missing", ["config", "sums", "sessions", "history"])
def test_a_checkpoint_of_another_kind_of_run_is_refused_in_a_sentence(
    playground, tmp_path, missing
):
    train(training.Config(**TINY), playground, tmp_path)
    _, state = checkpoint.newest([tmp_path])
    put(tmp_path, {k: v for k, v in state.items() if k != missing} | {"step": 9})
    with pytest.raises(ValueError, match=f"step-0000000009.*no run of this evalib.*{missing}"):
        train(training.Config(**TINY), playground, tmp_path)


def test_a_setting_that_this_evalib_does_not_know_is_not_dropped_silently(playground, tmp_path):
    train(training.Config(**TINY), playground, tmp_path)
    _, state = checkpoint.newest([tmp_path])
    put(tmp_path, state | {"step": 9, "config": state["config"] | {"teacher": "x"}})
    with pytest.raises(ValueError, match="a run with teacher .* instead of None"):
        train(training.Config(**TINY), playground, tmp_path)


def test_larger_pictures_are_evaluated_in_smaller_batches(playground, tmp_path, monkeypatch):
    larger = dataset.build("playground-24", 64, root=tmp_path, progress=False)
    config = training.Config(**TINY | {"sizes": (((32, 64), 4),)})
    ours = training.Learner(config, {32: playground, 64: larger}, larger, device="cpu")
    asked, batches = [], dataset.Pack.batches
    monkeypatch.setattr(
        dataset.Pack,
        "batches",
        lambda self, rows, n, device: asked.append(n) or batches(self, rows, n, device),
    )
    ours.train_step(ours.to_come())
    ours.evaluate()
    assert set(asked) == {2}  # a quarter of 8, for four times the area


def test_finite_weights_are_asked_for_once(playground, monkeypatch):
    ours = training.Learner(training.Config(**TINY), {32: playground}, device="cpu")
    asked = []
    ask = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda x: asked.append(1) or ask(x))
    ours.refuse_nonfinite()
    assert len(asked) == 1  # each would wait for a GPU
    ours.lr = 1.0
    for weights_of in (ours.network, ours.ema):
        parameter = next(weights_of.parameters())
        good = parameter.detach().clone()
        parameter.data[0] = float("nan")
        with pytest.raises(FloatingPointError, match="not finite"):
            ours.refuse_nonfinite()
        parameter.data.copy_(good)
    ours.refuse_nonfinite()


def test_only_a_run_on_a_gpu_changes_what_torch_does_everywhere():
    def now():
        exact = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        fill = torch.utils.deterministic.fill_uninitialized_memory
        return exact, warn_only, fill, torch.backends.cudnn.benchmark

    before = now()
    try:
        for callers in (False, False, True, False), (True, True, False, True):
            torch.use_deterministic_algorithms(callers[0], warn_only=callers[1])
            torch.utils.deterministic.fill_uninitialized_memory = callers[2]
            torch.backends.cudnn.benchmark = callers[3]
            for device, inside in ("cpu", callers), ("cuda", (True, True, False, False)):
                with session.repeating_exactly(torch.device(device)):
                    assert now() == inside
                assert now() == callers
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]
        torch.backends.cudnn.benchmark = before[3]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")


@pytest.mark.parametrize("schedule", ["plateau", "step"])
def test_the_rate_of_a_step_follows_the_schedule(playground, schedule):
    config = training.Config(**TINY | {"schedule": schedule, "lr": 1.0})
    ours = training.Learner(config, {32: playground}, device="cpu")
    ours.scores, ours.step = [0.5, 0.1, 0.1, 0.1], 3
    assert ours.scheduled_lr() == pytest.approx({"plateau": 0.5, "step": 0.1}[schedule])


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
            signal.raise_signal(signal.SIGINT)

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
    """Three kills; `python tests/benchmarks/bench_resume.py` makes a hundred."""
    results = bench_resume.survive(tmp_path, kills=3, chance=random.Random(0))
    assert sum(len(result["kills"]) for result in results) >= 3
    for result in results:
        assert all(result["same"].values()), result
        assert not result["torn"] + result["none"] + result["behind"], result


def test_a_run_folder_tells_everything_about_the_run(playground, tmp_path):
    run = train(training.Config(**TINY), playground, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert training.Config(**config) == training.Config(**TINY)
    assert "torch" in runs.read_sessions(tmp_path)[0]["machine"]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    history = runs.read_history(tmp_path)
    assert np.isfinite(history["train_iou"]).sum() == 2 and np.isfinite(history["forward_s"]).all()
    blocks = {"data", "transfer and augment", "forward", "loss", "backward", "step"}
    blocks |= {"log", "evaluate"}
    assert {name[:-2] for name in history if name.endswith("_s")} == blocks
    assert list((tmp_path / "tensorboard").glob("events*"))
    model = weights.load(tmp_path)
    assert not model.training
    best = max(row["score"] for row in run.history if "score" in row)
    assert checkpoint.best([tmp_path])[1]["score"] == best


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


def test_the_network_is_told_of_as_many_samples_as_the_config_says(playground, monkeypatch):
    told, forward = [], unet.Small.forward

    def listens(self, bg, fg_bg, bg_features=None, bg_depth=None):
        told.extend((bg_depth > 0).flatten(1).any(1).tolist())
        return forward(self, bg, fg_bg, bg_features, bg_depth)

    monkeypatch.setattr(unet.Small, "forward", listens)
    for share, expected in ((0.0, 0), (1.0, 16)):
        told.clear()
        config = training.Config(**TINY | {"sizes": ((32, 2),), "told": share})
        learner = training.Learner(config, {32: playground}, device="cpu")
        for _ in range(2):
            learner.train_step(learner.to_come())
        assert sum(told) == expected


def test_the_weighting_of_the_tasks_is_what_is_trained(playground, tmp_path):
    config = training.Config(**TINY | {"log_every": 1, "weighting": "uncertainty"})
    row = train(config, playground, tmp_path).history[0]  # 32 px: no coarse half
    mask, depth = row["mask/bce"] + row["mask/dice"], row["depth/l1"] + 0.5 * row["depth/gradient"]
    assert row["loss"] == pytest.approx(np.log(mask) + np.log(depth), abs=1e-5)


@pytest.mark.parametrize("phase", ["mask", "mask head", "depth", "depth head"])
def test_a_phase_trains_its_task_and_leaves_the_rest_as_it_was(playground, phase):
    task, *head = phase.split()
    config = training.Config(**TINY | {"phases": ((phase, 1),)})
    learner = training.Learner(config, {32: playground}, device="cpu")
    before = {key: value.clone() for key, value in learner.network.state_dict().items()}
    learner.train_step(learner.to_come())
    after = learner.network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    other = "depth" if task == "mask" else "mask"
    weights = {key for key in changed if "running" not in key and "num_batches" not in key}
    assert not {key for key in weights if heads.own(key, other)}
    shared = {key for key in changed if not heads.own(key, task)}
    assert bool(shared) == (not head)  # weights and statistics of BatchNorm
    assert {key for key in weights if heads.own(key, task)}


def test_a_network_without_a_head_of_its_own_cannot_freeze_the_rest(playground):
    config = training.Config(**TINY | {"network": "mde_bs", "phases": (("mask head", 1),)})
    learner = training.Learner(config, {32: playground}, device="cpu")
    with pytest.raises(ValueError, match="no layers that are the mask's own"):
        learner.train_step(learner.to_come())


def test_a_phase_after_a_frozen_one_trains_everything_again(playground, tmp_path):
    config = training.Config(**TINY | {"phases": (("mask head", 1), ("both", 1))})
    learner = training.Learner(config, {32: playground}, device="cpu")
    batches = learner.to_come()
    for _ in range(4):
        learner.train_step(batches)
    frozen = learner.network.coarse.trunk[0][0].weight.clone()
    learner.train_step(batches)
    assert not torch.equal(frozen, learner.network.coarse.trunk[0][0].weight)
    assert all(parameter.requires_grad for parameter in learner.network.parameters())
    assert all(layer.training for layer in learner.network.modules())


def test_a_run_in_phases_that_is_stopped_goes_on_as_if_it_had_not_been(
    playground, tmp_path, monkeypatch
):
    phases = (("mask", 1), ("depth head", 1), ("both", 1))
    config = training.Config(**TINY | {"phases": phases, "optimizer": "sgd"})
    straight = train(config, playground, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        train(config, playground, tmp_path / "resumed")
    resumed = train(config, playground, tmp_path / "resumed")
    assert equal(straight.model.state_dict(), resumed.model.state_dict())
    rows = rows_without_times(tmp_path / "straight")
    assert rows == rows_without_times(tmp_path / "resumed")
    assert all(row["mask/bce"] and row["depth/l1"] for row in rows)  # both are told in any phase


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


def test_a_folder_without_a_run_says_how_to_train(tmp_path):
    with pytest.raises(FileNotFoundError, match="evalib train"):
        weights.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing was trained"):
        runs.read_history(tmp_path)


@pytest.mark.parametrize(("spent_s", "text"), [(100, "1"), (900, "1"), (1001, "2"), (2000, "2")])
def test_the_sessions_that_are_left_follow_from_the_steps_after_the_first(
    monkeypatch, spent_s, text
):
    clock = SimpleNamespace(s=0.0)
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: clock.s))
    budget = session.Budget(2000)
    clock.s = 900  # a slow resume, and a stream's first window
    budget.step()
    assert budget.left(1000) == ""
    for _ in range(500):
        clock.s += spent_s / 500
        budget.step()
    assert budget.left(1000) == f"Sessions of 33 min left: about {text}."  # twice as many
    budget.seconds = float("inf")
    assert budget.left(1000) == ""


def test_a_run_says_in_the_end_how_many_sessions_are_left(
    playground, tmp_path, monkeypatch, capsys
):
    clock, step = SimpleNamespace(s=0.0), training.Learner.train_step

    def slow(self, *args):
        clock.s += 100 if self.step == 0 else 10  # the first one waits, and tells nothing
        return step(self, *args)

    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: clock.s))
    monkeypatch.setattr(training.Learner, "train_step", slow)
    run = train(training.Config(**TINY), playground, tmp_path, time_budget=140)
    assert (run.step, run.done) == (4, False)  # 130 s; two steps more would take 20
    assert "left: about 1." in capsys.readouterr().out  # 40 s


@pytest.mark.parametrize("notebook", [True, False])
def test_the_curve_is_one_picture_that_is_replaced_and_only_in_a_notebook(
    playground, tmp_path, monkeypatch, notebook
):
    shown, updated, rows = [], [], []

    def display(figure, display_id):
        shown.append(figure)
        return SimpleNamespace(update=updated.append)

    def curves(history, title):
        rows.append([row["step"] for row in history])
        return title

    kernel = SimpleNamespace(kernel=0) if notebook else None
    monkeypatch.setattr("IPython.get_ipython", lambda: kernel)
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(show, "training_curves", curves)
    run = training.train(training.Config(**TINY), {32: playground}, tmp_path, device="cpu")
    assert run.done and rows == ([[2, 4], [2, 4, 6, 8]] if notebook else [])
    assert (len(shown), len(updated)) == ((1, 1) if notebook else (0, 0))


CELL = """
from pathlib import Path
from evalib import dataset, training

here = Path(HERE)
pack = dataset.build("mid-1000", 16, root=here / "packs", limit=200)
config = training.Config(**TINY)
training.train(config, {16: pack}, here / "run", time_budget="50min", device="cpu").done
"""


def test_a_stored_notebook_holds_one_line_a_bar_and_one_picture(tmp_path):
    """Executed as `nbconvert --execute` does it."""
    code = f"HERE, TINY = {str(tmp_path)!r}, {TINY | {'sizes': ((16, 40),)}}\n{CELL}"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=600).execute()
    outputs = notebook.cells[0].outputs
    kinds = ["text/plain", "image/png", "application/vnd.jupyter.widget-view+json"]
    counts = [sum(kind in output.get("data", {}) for output in outputs) for kind in kinds]
    assert counts == [4, 1, 2]  # bars of rendering and training, the curve, the cell's value
    assert not [output for output in outputs if output.get("name") == "stderr"]


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("kind", ["shipped", "run", "file"])
def test_training_begins_with_given_weights(playground, tmp_path, kind):
    init = kind
    if kind != "shipped":
        init = str(tmp_path / "first")
        train(training.Config(**TINY), playground, init)
    if kind == "file":
        (init, _) = map(str, weights.export(tmp_path / "first", tmp_path / "out"))
    config = training.Config(**TINY, init=init)
    learner = training.Learner(config, {32: playground}, device="cpu")
    learner.begin()
    given = weights.load(None if kind == "shipped" else init, "cpu").state_dict()
    assert equal(given, learner.network.state_dict()) and equal(given, learner.ema.state_dict())
    anew = training.Learner(training.Config(**TINY), {32: playground}, device="cpu")
    anew.begin()
    assert not equal(given, anew.network.state_dict())


def test_given_weights_are_taken_once_and_a_resumed_run_does_not_need_them(
    playground, tmp_path, monkeypatch
):
    train(training.Config(**TINY), playground, tmp_path / "first")
    config = training.Config(**TINY, init=str(tmp_path / "first"))
    straight = train(config, playground, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert not train(config, playground, tmp_path / "cut").done
    (tmp_path / "first").rename(tmp_path / "gone")
    second = train(config, playground, tmp_path / "cut")
    assert second.done and equal(straight.model.state_dict(), second.model.state_dict())


def test_weights_of_another_network_are_refused_by_name(playground, tmp_path):
    config = training.Config(**TINY, network="lean", init="shipped")
    with pytest.raises(ValueError, match="init 'shipped' is of another network than 'lean': "):
        train(config, playground, tmp_path / "run")
    config = training.Config(**TINY, init=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(config, playground, tmp_path / "run")


def test_other_given_weights_make_another_run(playground, tmp_path):
    train(training.Config(**TINY), playground, tmp_path / "run")
    config = training.Config(**TINY, init="shipped")
    with pytest.raises(ValueError, match="a run with init '' instead of 'shipped'"):
        train(config, playground, tmp_path / "run")
