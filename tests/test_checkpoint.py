import os
import pickle
import subprocess
import sys
import warnings

import pytest
import torch

from evalib import checkpoint


def state(step):
    return {"step": step, "model": {"weight": torch.full((3,), float(step))}, "history": []}


def save(folder, state, kind="step"):
    return checkpoint.write(folder, *checkpoint.serialise(state, kind))


def test_newest_is_the_highest_step_and_two_files_stay(tmp_path):
    for step in (1, 2, 10):
        save(tmp_path, state(step))
    path, found = checkpoint.newest([tmp_path])
    assert found["step"] == 10 and path.name.startswith("step-0000000010-")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_torn_newest_file_falls_back_to_the_one_before(tmp_path, damage):
    save(tmp_path, state(1))
    torn = save(tmp_path, state(2))
    torn.write_bytes(torn.read_bytes()[:-100] if damage is None else damage)
    with pytest.warns(UserWarning, match="do not match its name"):
        _, found = checkpoint.newest([tmp_path])
    assert found["step"] == 1


def test_foreign_files_and_drive_duplicates_are_not_taken(tmp_path):
    path = save(tmp_path, state(5))
    path.with_name(path.stem + " (1).pt").write_bytes(path.read_bytes())
    (tmp_path / "step-0000000099.pt").write_bytes(b"x")
    (tmp_path / ".tmp-12345678-step-0000000100-x.pt").write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.newest([tmp_path])[0] == path


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.newest([tmp_path, tmp_path / "missing"]) is None


def test_a_checkpoint_that_carries_code_is_refused_and_does_not_run_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    evil = tmp_path / "weights.pt"
    torch.save({"model": Evil(), "step": 1}, evil, pickle_module=pickle)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        checkpoint.load(evil)
    assert not (tmp_path / "ran").exists()


def out_of_memory():
    yield MemoryError()
    yield torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
    yield RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


@pytest.mark.parametrize("error", out_of_memory(), ids=["python", "cuda", "cpu"])
def test_too_little_memory_to_load_is_never_told_as_no_checkpoint(tmp_path, monkeypatch, error):
    for step in (1, 2):
        save(tmp_path, state(step))
        save(tmp_path, state(step) | {"score": 0.5}, "best")
    before = sorted(tmp_path.iterdir())

    def load(*_, **__):
        raise error

    monkeypatch.setattr(checkpoint.torch, "load", load)
    for read in (checkpoint.newest, checkpoint.best):
        with pytest.raises(MemoryError, match="not enough memory.*-0000000002-.*is untouched.*run"):
            read([tmp_path])
    assert sorted(tmp_path.iterdir()) == before


def save_best(folder, scores):
    for step, score in scores.items():
        save(folder, state(step) | {"score": score}, "best")


def test_abandoned_best_weights_do_not_outrank_those_of_the_run(tmp_path):
    """A run reached 4000, went back to 3500 on other hardware, and then had its best at 3750."""
    save_best(tmp_path, {3250: 0.6, 4000: 0.9})
    history = [{"step": 3250, "score": 0.6}, {"step": 3500, "loss": 1.0}]
    assert checkpoint.best([tmp_path], history)[1]["step"] == 3250
    save_best(tmp_path, {3750: 0.8})
    history += [{"step": 3750, "score": 0.8}, {"step": 4000, "score": 0.7}]
    assert checkpoint.best([tmp_path], history)[1]["step"] == 3750
    assert checkpoint.best([tmp_path])[1]["step"] == 4000  # nobody says whose they are
    assert checkpoint.best([tmp_path], []) is None


def test_of_equal_scores_the_later_step_is_best_and_torn_ones_are_passed_over(tmp_path):
    save_best(tmp_path, {1: 0.5, 2: 0.5})
    path, found = checkpoint.best([tmp_path, tmp_path])
    assert found["step"] == 2
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="do not match its name"):
        assert checkpoint.best([tmp_path])[1]["step"] == 1


def test_whatever_step_a_run_goes_back_to_there_are_best_weights_of_before(tmp_path):
    """Evaluated more often than saved."""
    save(tmp_path, state(100))
    save_best(tmp_path, {step: step / 1000 for step in range(70, 300, 10)})
    save(tmp_path, state(200))
    save_best(tmp_path, {300: 0.3})
    for step in (100, 200):
        history = [{"step": k, "score": k / 1000} for k in range(10, step + 10, 10)]
        assert checkpoint.best([tmp_path], history)[1]["step"] == step
    save(tmp_path, state(300))
    save_best(tmp_path, {310: 0.31})
    found = sorted(int(path.name[5:15]) for path in tmp_path.glob("best-*"))
    assert found == [190, 200, *range(210, 320, 10)]


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    checkpoint.write_whole(path, b"old")

    def fails(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", fails)
        with pytest.raises(OSError, match="could not write metrics.csv of 0.0 MiB to"):
            checkpoint.write_whole(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    checkpoint.write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(OSError, match="No such file"):
        checkpoint.write_whole(tmp_path / "unmounted" / "file", b"x")


def test_a_failing_disk_keeps_the_previous_checkpoint_and_names_the_folder(tmp_path, monkeypatch):
    save(tmp_path, state(1))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match=f"MiB to {tmp_path}"):
        save(tmp_path, state(2))
    assert checkpoint.newest([tmp_path])[1]["step"] == 1
    assert len(list(tmp_path.iterdir())) == 1  # no temporary file is left behind


def test_the_copy_on_drive_is_enough_to_resume_from(tmp_path):
    for folder in ("local", "drive"):
        (tmp_path / folder).mkdir()
    for step in (1, 2, 3):
        path = save(tmp_path / "local", state(step))
        checkpoint.write(tmp_path / "drive", path.name, path.read_bytes())
    assert checkpoint.newest([tmp_path / "gone", tmp_path / "drive"])[1]["step"] == 3
    assert len(list((tmp_path / "drive").iterdir())) == 2


def test_torn_files_that_claim_to_be_newer_do_not_push_sound_ones_out(tmp_path):
    save(tmp_path, state(90))
    for step in (100, 110):
        (tmp_path / f"step-{step:010d}-00000000-{'0' * 16}.pt").write_bytes(b"")
    save(tmp_path, state(95))
    with pytest.warns(UserWarning, match="do not match"):
        assert checkpoint.newest([tmp_path])[1]["step"] == 95
    assert len(list(tmp_path.glob("step-*0000009?-*.pt"))) == 2


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, state(1))
    free = checkpoint.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: free)
    monkeypatch.setattr("builtins.open", None)
    with pytest.raises(OSError, match=rf"0\.0 MiB to {tmp_path}: only 0\.0 MiB are free"):
        save(tmp_path, state(2))


def test_a_disk_that_ends_in_mid_write_leaves_the_checkpoint_before(tmp_path):
    """In a process whose files may have `limit` bytes: the kernel cuts the write, as when full."""
    pytest.importorskip("resource")
    save(tmp_path, state(1))
    code = (
        "import resource as r, signal, sys, torch; from evalib import checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "big = {'step': 2, 'model': {'w': torch.zeros(300_000)}}\n"
        "for limit in (0, 1, 1000, 100_000, 1_000_000):\n"
        "    r.setrlimit(r.RLIMIT_FSIZE, (limit, r.getrlimit(r.RLIMIT_FSIZE)[1]))\n"
        "    try: checkpoint.write(sys.argv[1], *checkpoint.serialise(big))\n"
        "    except OSError as error: print(error, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count(f"of 1.1 MiB to {tmp_path}: File too large") == 5
    assert len(list(tmp_path.iterdir())) == 1  # nothing half written stays
    assert checkpoint.newest([tmp_path])[1]["step"] == 1


def test_what_a_killed_session_left_half_written_is_removed_later(tmp_path):
    old, new = (tmp_path / f".tmp-{name}-step-x.pt" for name in ("00000000", "11111111"))
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (0, 0))
    save(tmp_path, state(1))
    assert not old.exists() and new.exists()


def test_a_kill_while_saving_always_leaves_a_readable_checkpoint(tmp_path):
    """A child saves without pause and is killed three times; a hundred kills are a benchmark."""
    code = (
        "import torch, itertools, pathlib; from evalib import checkpoint as c\n"
        f"for k in itertools.count(): c.write(pathlib.Path({str(tmp_path)!r}), "
        "*c.serialise({'step': k, 'model': {'w': torch.randn(300_000)}})); print(k, flush=True)"
    )
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(5):
            child.stdout.readline()
        child.kill()
        child.communicate()
        assert checkpoint.newest([tmp_path])[1]["model"]["w"].shape == (300_000,)
