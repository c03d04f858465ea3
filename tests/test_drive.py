"""Faults of Drive at every point of a save, and one writer a run."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import faults
import pytest
import torch

from evalib import checkpoint, drive, runs, training

TINY = dict(sizes=((32, 8),), batch_size=8, log_every=2, evaluate_every=4, n_valid=8, ema=0.5)
ERRNOS = {"io": 5, "full": 28, "offline": 107}


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """No pause is needed where no machine is waited for."""
    monkeypatch.setattr(checkpoint, "RETRY_S", (0.001,))
    monkeypatch.setattr(drive, "PAUSE_S", 0.001)
    monkeypatch.setattr(drive, "LONGEST_PAUSE_S", 0.001)
    monkeypatch.setattr(drive, "PATIENCE_S", 60)  # a busy machine takes its time


@contextlib.contextmanager
def hopeless():
    """A Drive that never recovers need not be waited for at the end; but the try that is under way
    ends before Drive does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive, "PATIENCE_S", 0.1)
        yield
    for thread in threading.enumerate():
        if thread.name == "uploads":
            thread.join(60)


def state(step):
    return {"step": step, "model": {"weight": torch.full((300,), float(step))}, "history": []}


def upload(folder, step):
    """One session's upload; returns the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with drive.Uploads(folder) as uploads:
            uploads.add(*checkpoint.serialise(state(step)))
    return uploads, [str(item.message) for item in caught]


def n_points(folder):
    """How many operations one upload does on Drive, the third one in its folder."""
    folder.mkdir()
    for step in (1, 2):
        upload(folder, step)
    mount = faults.Drive(folder)
    with mount.mounted():
        upload(folder, 3)
    return mount.n


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", ERRNOS.values(), ids=ERRNOS)
def test_an_error_at_any_point_of_an_upload_leaves_a_valid_checkpoint(tmp_path, number, lasting):
    points = n_points(tmp_path / "counted")
    assert points > 8
    for at in range(1, points + 1):
        folder = tmp_path / str(at)
        folder.mkdir()
        for step in (1, 2):
            upload(folder, step)
        mount = faults.Drive(folder, faults.fail(number, at, lasting=lasting))
        with mount.mounted(), hopeless() if lasting else contextlib.nullcontext():
            uploads, messages = upload(folder, 3)
        _, found = checkpoint.newest([folder])
        assert found["step"] in (2, 3)
        if uploads.safe_step == 3:
            assert found["step"] == 3
        else:
            assert lasting and "only on this machine" in messages[-1]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_a_drive_that_loses_the_end_of_a_file_is_not_called_safe(tmp_path, share):
    upload(tmp_path, 1)
    mount = faults.Drive(tmp_path)
    mount.lose = share
    with mount.mounted(), hopeless():
        with pytest.raises(OSError, match="reads back differently"):
            checkpoint.write(tmp_path, *checkpoint.serialise(state(2)))
        assert upload(tmp_path, 2)[0].safe_step == -1
    with pytest.warns(UserWarning, match="do not match its name"):
        assert checkpoint.newest([tmp_path])[1]["step"] == 1
    assert upload(tmp_path, 2)[0].safe_step == 2  # Drive recovered


def test_training_does_not_wait_for_a_slow_drive(tmp_path):
    done = threading.Event()
    with (
        faults.Drive(tmp_path, lambda *_: done.wait(60)).mounted(),
        drive.Uploads(tmp_path) as uploads,
    ):
        for step in range(5):
            uploads.add(*checkpoint.serialise(state(step)))
        assert uploads.safe_step == -1  # and yet we are here
        done.set()
    assert uploads.safe_step == 4  # those that waited were overtaken by the newest


@pytest.mark.parametrize("seed", range(40))
def test_a_machine_that_disappears_loses_one_interval_and_drives_delay(tmp_path, monkeypatch, seed):
    """Uploads arrive out of order and in part; 1800 s late at most, as has been seen."""
    interval, delay = 600, checkpoint.SETTLE_S
    mount = faults.Drive(tmp_path / "vm")
    mount.root.mkdir()
    monkeypatch.setattr(checkpoint.time, "time", lambda: mount.clock)
    with mount.mounted():
        for step in range(1, 16):
            mount.clock = step * interval
            name, data = checkpoint.serialise(state(step))
            checkpoint.write(tmp_path / "vm", name, data, settle_s=delay)
    assert len(list((tmp_path / "vm").iterdir())) <= 3 + delay // interval
    for vanished in range(interval, 15 * interval, 437):
        cloud = tmp_path / f"cloud-{vanished}"
        mount.cloud(cloud, vanished, delay, seed)
        oldest = (vanished - delay) // interval  # the last one that must have arrived
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = checkpoint.newest([cloud])
        if oldest >= 1:
            assert found[1]["step"] >= oldest


def test_a_run_on_a_drive_that_fails_now_and_then_is_the_same_run(playground, tmp_path):
    config = training.Config(**TINY)
    options = dict(device="cpu", progress=False, checkpoint_every=0)
    straight = training.train(config, {32: playground}, tmp_path / "straight", **options)
    options["drive_dir"] = tmp_path / "drive"
    # Every 17th operation fails: few enough for a whole upload between two of them.
    begun = faults.Drive(tmp_path / "drive", lambda n, what: n % 17 or faults.fail(5, n)(n, what))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with begun.mounted():
            lost = training.train(
                config, {32: playground}, tmp_path / "lost", time_budget=1e-9, **options
            )
    assert lost.step == 1 and lost.on_drive and begun.n > 17
    run = training.train(config, {32: playground}, tmp_path / "new", **options)
    assert run.done and runs.read_sessions(run.folder)[1]["first_step"] == "1"
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[name]), name


def test_what_drive_missed_is_copied_by_the_next_session(playground, tmp_path):
    config, folder = training.Config(**TINY), tmp_path / "drive"
    options = dict(device="cpu", progress=False, drive_dir=folder)
    offline = faults.Drive(folder, lambda n, what: n < 9 or faults.fail(107, n)(n, what))
    with warnings.catch_warnings(), offline.mounted(), hopeless():
        warnings.simplefilter("ignore")
        training.train(config, {32: playground}, tmp_path / "run", time_budget=1e-9, **options)
    assert not checkpoint.newest([folder])
    training.train(config, {32: playground}, tmp_path / "run", time_budget=1e-9, **options)
    assert checkpoint.newest([folder])


def test_reads_that_fail_are_no_reason_to_begin_anew(tmp_path):
    upload(tmp_path, 1)

    def unreadable(n, what):
        if what == "open rb":
            raise OSError(5, "Input/output error")

    with (
        faults.Drive(tmp_path, unreadable).mounted(),
        pytest.raises(OSError, match="Input/output"),
        pytest.warns(UserWarning, match="Passed over"),
    ):
        checkpoint.newest([tmp_path])


def lease_of(folder, **changes):
    """The lease of another machine, in `folder`."""
    other = {"session": "0" * 8, "host": "elsewhere", "pid": 1, "since": "an hour ago"}
    folder.mkdir(exist_ok=True)
    path = folder / "lease.json"
    path.write_text(json.dumps(other | {"turn": 1, "beat": 1} | changes))
    return path


def read(lease):
    return json.loads(lease.path.read_text())


def wait_for(condition):
    """Give a thread the time it needs, which on a busy machine is long."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


def at_read(monkeypatch, number, action):
    """Let `action` happen just before a lease is read for the `number`-th time."""
    original, count = drive.Lease._read, iter(range(1, 10**6))

    def watched(self):
        if next(count) == number:
            action()
        return original(self)

    monkeypatch.setattr(drive.Lease, "_read", watched)


@pytest.fixture
def soon_void(monkeypatch):
    """For leases that nobody renews."""
    monkeypatch.setattr(drive, "STALE_S", 0.02)


@pytest.fixture(params=[-5, 0, 5], ids="clock {:+} h".format)
def skewed(request, monkeypatch):
    """This machine's clock is wrong by hours, and so are the times of files that it sees."""
    true = time.time
    monkeypatch.setattr(drive.time, "time", lambda: true() + 3600 * request.param)
    return lambda path: os.utime(path, (true() - 3600 * request.param,) * 2)


def test_a_second_machine_stops_if_the_first_shows_a_sign_of_life(
    tmp_path, monkeypatch, skewed, capsys
):
    skewed(lease_of(tmp_path))
    monkeypatch.setattr(drive.time, "sleep", lambda _: None)
    at_read(monkeypatch, 3, lambda: skewed(lease_of(tmp_path, beat=2)))
    with pytest.raises(ValueError, match="elsewhere, since an hour ago.*take_over=True"):
        drive.Lease(tmp_path).__enter__()
    assert "Watching for 60 s" in capsys.readouterr().out
    assert json.loads((tmp_path / "lease.json").read_text())["host"] == "elsewhere"


def test_a_lease_that_nobody_renews_is_taken_over(tmp_path, soon_void, skewed):
    skewed(lease_of(tmp_path))
    with drive.Lease(tmp_path) as lease:
        assert read(lease)["session"].startswith(checkpoint.SESSION)
    assert read(lease) == {"turn": 2}


def test_the_session_that_came_later_wins_whatever_the_clocks_say(tmp_path, skewed):
    with drive.Lease(tmp_path) as first:
        second = drive.Lease(tmp_path, take_over=True)
        second._me |= {"session": "another machine", "host": "elsewhere"}
        with second:
            skewed(second.path)
            for lease in (first, second):
                lease._beat()
            assert first.lost.is_set() and not second.lost.is_set()
            assert read(second)["beat"] == 1
        assert "session" not in read(second)
    assert read(first) == {"turn": 2}  # what the first one leaves as it is


def test_a_session_stops_even_if_the_one_that_took_over_has_ended_since(tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "RENEW_S", 0.01)
    with drive.Lease(tmp_path) as first:
        first.path.write_text('{"turn": 2}')
        assert first.lost.wait(60)


@pytest.mark.parametrize("rival", ["0", "z"])
def test_of_two_that_took_the_same_turn_one_goes_on(tmp_path, rival):
    with drive.Lease(tmp_path) as ours:
        theirs = drive.Lease(tmp_path, take_over=True)
        theirs._me |= {"session": rival, "turn": 1, "beat": 0}
        theirs._write(theirs._me)  # at the same moment, without seeing ours
        for lease in (ours, theirs):
            lease._beat()
        loser, winner = (theirs, ours) if rival == "0" else (ours, theirs)
        assert loser.lost.is_set() and not winner.lost.is_set()
        assert read(winner) == winner._me | {"beat": 1}


def test_a_lease_given_back_while_it_is_watched_is_taken_at_once(tmp_path, monkeypatch):
    path = lease_of(tmp_path)
    monkeypatch.setattr(drive.time, "sleep", lambda _: None)
    at_read(monkeypatch, 2, lambda: path.write_text('{"turn": 1}'))
    with drive.Lease(tmp_path) as lease:
        assert read(lease)["turn"] == 2


@pytest.mark.parametrize("old", [{"turn": "x"}, {"pid": "x"}, {"session": 3}, {"since": None}])
def test_a_broken_lease_is_watched_and_then_taken(tmp_path, soon_void, old, capsys):
    lease_of(tmp_path, **old)
    with drive.Lease(tmp_path) as lease:
        assert not lease.lost.is_set()
    assert "Watching" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}", "3"])
def test_a_torn_lease_never_stops_a_run(tmp_path, soon_void, text):
    tmp_path.joinpath("lease.json").write_text(text)
    with drive.Lease(tmp_path):
        pass


def test_a_session_killed_on_this_machine_is_not_waited_for(tmp_path, capsys):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    lease_of(tmp_path, host=drive._host(), pid=child.pid)
    with drive.Lease(tmp_path):
        assert "Watching" not in capsys.readouterr().out


def test_a_session_whose_run_was_taken_over_stops_and_says_so(
    playground, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(drive, "RENEW_S", 0.01)
    config = training.Config(**TINY | {"sizes": ((32, 100_000),)})
    folder = tmp_path / "drive"
    at_read(monkeypatch, 3, lambda: lease_of(folder, turn=9))
    run = training.train(
        config, {32: playground}, tmp_path / "run", device="cpu", progress=False, drive_dir=folder
    )
    assert not run.done and "took this run over" in capsys.readouterr().out
    assert json.loads((folder / "lease.json").read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("spoil", ["torn", "of an earlier session", "gone"])
def test_a_lease_survives_what_drive_does_to_it(tmp_path, spoil):
    lease_of(tmp_path)
    with drive.Lease(tmp_path, take_over=True) as lease:
        if spoil == "torn":
            lease.path.write_text('{"sess')
        elif spoil == "gone":
            lease.path.unlink()
        else:
            lease_of(tmp_path)
        lease._beat()
        assert not lease.lost.is_set() and read(lease) == lease._me | {"turn": 2, "beat": 1}


def test_a_lease_is_renewed_as_long_as_the_session_lives_and_drive_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "RENEW_S", 0.01)
    failed = []

    def offline_once(n, what):
        if threading.current_thread() is not threading.main_thread() and not failed:
            failed.append(what)
            raise OSError(107, "Transport endpoint is not connected")

    with faults.Drive(tmp_path, offline_once).mounted(), drive.Lease(tmp_path) as lease:
        wait_for(lambda: lease._me["beat"] > 2)
    assert failed and not lease.lost.is_set()


@pytest.mark.parametrize("root", ["MyDrive", "Shareddrives", "Shared drives"])
def test_a_drive_that_is_not_mounted_is_refused_and_not_made_on_the_local_disk(tmp_path, root):
    with pytest.raises(ValueError, match=f"{root} is missing.*Mount it.*setup cell"):
        drive.Lease(tmp_path / "drive" / root / "evalib" / "run").__enter__()
    assert not (tmp_path / "drive").exists()


def test_on_colab_a_local_folder_is_not_taken_for_drive(tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "COLAB", tmp_path)
    folder = tmp_path / "drive" / "MyDrive" / "evalib" / "run"
    folder.parents[1].mkdir(parents=True)
    with pytest.raises(ValueError, match="MyDrive is on the local disk: move it away"):
        drive.Lease(folder).__enter__()
    assert not folder.parent.exists()
    monkeypatch.setattr(drive.os.path, "ismount", lambda path: path == tmp_path / "drive")
    with drive.Lease(folder):
        assert folder.is_dir()


def test_a_local_folder_that_plays_drive_is_made(tmp_path):
    with drive.Lease(tmp_path / "output" / "cpu" / "drive" / "run") as lease:
        assert lease.path.is_file()


def test_a_drive_that_is_full_does_not_refuse_to_start(tmp_path):
    def full(n, what):
        if what == "open w":
            raise OSError(28, "No space left on device")

    with (
        faults.Drive(tmp_path, full).mounted(),
        pytest.warns(UserWarning, match="No other machine is told"),
        drive.Lease(tmp_path),
    ):
        pass


def test_old_files_on_drive_stay_until_newer_ones_have_settled(tmp_path):
    for step in range(1, 6):
        upload(tmp_path, step)
    assert len(list(tmp_path.glob("step-*.pt"))) == 5
    for path in tmp_path.glob("step-*.pt"):
        os.utime(path, (0, 0))
    upload(tmp_path, 6)
    assert len(list(tmp_path.glob("step-*.pt"))) == 3  # two that stood, and the new one


def test_torn_files_do_not_count_as_standing(tmp_path):
    upload(tmp_path, 100)
    for step in (200, 220):
        (tmp_path / f"step-{step:010d}-00000000-{'0' * 16}.pt").write_bytes(b"torn")
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    upload(tmp_path, 250)
    next(tmp_path.glob("step-*250-*")).write_bytes(b"")  # and the machine is gone
    with pytest.warns(UserWarning, match="do not match"):
        assert checkpoint.newest([tmp_path])[1]["step"] == 100


def test_a_listing_that_does_not_show_the_new_file_yet_changes_nothing(tmp_path, monkeypatch):
    upload(tmp_path, 1)
    stale = checkpoint._listed([tmp_path], "step")
    monkeypatch.setattr(checkpoint, "_listed", lambda *_: stale)
    assert upload(tmp_path, 2)[0].safe_step == 2


def test_a_drive_that_was_unmounted_is_not_made_anew_on_the_local_disk(tmp_path):
    folder = tmp_path / "drive" / "run"
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with hopeless(), drive.Uploads(folder) as uploads:
            shutil.rmtree(tmp_path / "drive")
            uploads.add(*checkpoint.serialise(state(1)))
    assert uploads.safe_step == -1 and not uploads.all_there and not folder.exists()


def test_one_kind_that_fails_does_not_hold_up_the_other(tmp_path):
    def fail_best(n, what):
        if what == "replace" and "best" in str(sorted(tmp_path.glob(".tmp-*"))):
            raise OSError(5, "Input/output error")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mount = faults.Drive(tmp_path, fail_best)
        with mount.mounted(), hopeless(), drive.Uploads(tmp_path) as uploads:
            uploads.add(*checkpoint.serialise(state(1), "best"))
            uploads.add(*checkpoint.serialise(state(2)))
            wait_for(lambda: uploads.safe_step == 2)
    assert uploads.safe_step == 2 and not uploads.all_there


def test_pauses_between_tries_grow_to_a_limit_and_begin_anew_after_a_success(tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "PAUSE_S", 1 / 1024)
    monkeypatch.setattr(drive, "LONGEST_PAUSE_S", 8 / 1024)
    pauses, wait = [], threading.Condition.wait

    def noted(condition, timeout=None):
        if timeout and threading.current_thread().name == "uploads":
            pauses.append(round(timeout * 1024))
        return wait(condition, timeout)

    fails = iter([True] * 5 + [False, True, True, False])

    def write(*_, **__):
        if next(fails):
            raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(threading.Condition, "wait", noted)
    monkeypatch.setattr(checkpoint, "write", write)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with drive.Uploads(tmp_path) as uploads:
            for step in (1, 2):
                uploads.add(*checkpoint.serialise(state(step)))
                wait_for(lambda step=step: uploads.safe_step == step)
    assert pauses == [1, 2, 4, 8, 8, 1, 2]


def test_what_is_whole_on_drive_is_not_written_again(tmp_path):
    name, data = checkpoint.serialise(state(1))
    os.utime(checkpoint.write(tmp_path, name, data), (0, 0))
    checkpoint.write(tmp_path, name, data)
    assert (tmp_path / name).stat().st_mtime == 0


def test_take_over_does_not_wait(tmp_path, capsys):
    lease_of(tmp_path)
    with drive.Lease(tmp_path, take_over=True):
        assert "Watching" not in capsys.readouterr().out


def test_colabs_drive_is_where_the_folders_are(tmp_path):
    """In a process of its own: `google.colab` there, Drive mounted, and a run beside it."""
    code = (
        "import os, sys; from google.colab import drive; drive.mount(sys.argv[1])\n"
        "from evalib import colab; print(colab.on_colab(), colab.folders('run')[1])"
    )
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "tests" / "colab")])
    drive_root = tmp_path / "drive"
    environment = {"PYTHONPATH": paths, "EVALIB_CONTENT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(drive_root)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"True {drive_root}/MyDrive/evalib/" in done.stdout
