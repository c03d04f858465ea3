"""How much a notebook does on a machine, what it keeps of that, and where."""

import json
import shutil

import faults
import pytest
import torch

from evalib import checkpoint, colab, drive


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Drive and home of a notebook, neither of which is there yet."""
    monkeypatch.setattr(checkpoint, "RETRY_S", (0.001,))
    monkeypatch.delenv("EVALIB_SMOKE", raising=False)
    monkeypatch.setattr(colab, "drive_dir", lambda: tmp_path / "drive")
    monkeypatch.setattr(colab, "home", lambda: tmp_path / "home")
    return tmp_path / "drive", tmp_path / "home"


def never():
    raise AssertionError("this was decided before")


def kept(place, name="run"):
    return json.loads((place / "plans" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_three_sizes_never_share_a_folder(monkeypatch):
    monkeypatch.setenv("EVALIB_SMOKE", "1")
    assert colab.scale() == "smoke" and colab.choose(smoke=1, cpu=2, gpu=3) == 1
    assert colab.home().name == "smoke"
    monkeypatch.delenv("EVALIB_SMOKE")
    expected = "gpu" if torch.cuda.is_available() else "cpu"
    assert colab.scale() == expected == colab.home().name


def test_without_colab_a_folder_beside_the_runs_plays_drive(capsys):
    assert not colab.on_colab() and colab.folders("run")[1] == colab.home() / "drive" / "run"
    colab.setup()
    assert "Drive: none" in capsys.readouterr().out


def test_on_colab_a_local_folder_does_not_pass_for_drive(tmp_path, monkeypatch, capsys):
    my_drive = tmp_path / "drive" / "MyDrive"
    my_drive.mkdir(parents=True)
    monkeypatch.setattr(colab, "DRIVE", my_drive / "evalib")
    assert colab.drive_dir() == my_drive / "evalib" / colab.scale()
    monkeypatch.setattr(drive, "COLAB", tmp_path)  # there: this is Colab
    assert colab.drive_dir() == colab.home() / "drive"
    colab.setup()
    assert "Drive: none" in capsys.readouterr().out
    monkeypatch.setattr(drive.os.path, "ismount", lambda path: path == my_drive.parent)
    assert colab.drive_dir() == my_drive / "evalib" / colab.scale()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_plan_outlives_the_loss_of_either_place(places, lost):
    first = colab.planned("run", lambda: {"n": 7})
    shutil.rmtree(places[lost])
    assert colab.planned("run", never) == first and first["n"] == 7
    assert kept(places[0]) == kept(places[1]) == first


def test_where_two_plans_differ_that_on_drive_counts(places):
    colab.planned("run", lambda: {"n": 7})
    (places[1] / "plans" / "run.json").write_text('{"plan": "run", "n": 8}', encoding="utf-8")
    assert colab.planned("run", never)["n"] == 7 == kept(places[1])["n"]


NO_PLANS = ["", '{"plan": "run", "n', "[]", "7", '{"n": 3}', '{"plan": "another", "n": 3}', "\xff"]


@pytest.mark.parametrize("text", NO_PLANS)
def test_a_torn_or_foreign_plan_is_not_used(places, text):
    colab.planned("run", lambda: {"n": 7})
    for place in places:
        (place / "plans" / "run.json").write_text(text, encoding="latin-1")
    with pytest.warns(UserWarning, match=r"run\.json is no plan of run") as caught:
        assert colab.planned("run", lambda: {"n": 9})["n"] == 9
    assert len(caught) == 2 and kept(places[0])["n"] == kept(places[1])["n"] == 9


def test_a_torn_plan_on_drive_is_mended_from_home(places):
    colab.planned("run", lambda: {"n": 7})
    (places[0] / "plans" / "run.json").write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match="is no plan"):
        assert colab.planned("run", never)["n"] == 7
    assert kept(places[0])["n"] == 7


def test_while_drive_does_not_answer_nothing_is_decided(places):
    colab.planned("run", lambda: {"n": 7})

    def offline(n, what):
        raise OSError(107, "Transport endpoint is not connected")

    with faults.Drive(places[0], offline).mounted(), pytest.raises(OSError, match="endpoint"):
        colab.planned("run", never)


def test_a_full_drive_is_told_and_the_plan_is_kept_at_home(places):
    def full(n, what):
        if what in ("mkdir", "open w"):
            raise OSError(28, "No space left on device")

    with (
        faults.Drive(places[0], full).mounted(),
        pytest.warns(UserWarning, match="No space left"),
    ):
        assert colab.planned("run", lambda: {"n": 7})["n"] == 7
    assert kept(places[1])["n"] == 7


def test_a_number_is_measured_once_told_and_kept(places, capsys):
    asked = dict(minutes=2, least=50, most=250, times=10)
    assert colab.affordable("steps", lambda: 11.3, **asked) == 130  # 1,356 in ten parts
    first = capsys.readouterr().out
    assert first.startswith("steps: 11.3 a second, measured 20")
    assert first.endswith("; 10 x 130 take about 1.9 min.\n")
    assert colab.affordable("steps", never, **asked) == 130 and capsys.readouterr().out == first
    assert colab.affordable("steps", lambda: 11.3, **asked | {"minutes": 3}) == 200
    assert colab.affordable("steps", lambda: 11.3, **asked | {"most": 100}) == 100


def test_a_slow_machine_is_told_that_the_least_takes_longer(places, capsys):
    assert colab.affordable("samples", lambda: 10, 1, least=1200, most=9000) == 1200
    assert "; 1,200 take about 2 min." in capsys.readouterr().out


def test_at_the_size_smoke_nothing_is_measured_or_kept(places, monkeypatch, capsys):
    monkeypatch.setenv("EVALIB_SMOKE", "1")
    assert colab.affordable("run", never, 1, least=50, most=3) == 3
    assert not places[0].exists() and not places[1].exists() and not capsys.readouterr().out
