import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from evalib import config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_loss": "", "depth_loss": ""}, "train nothing"),
        ({"mask_loss": "nope"}, "mask loss 'nope'"),
        ({"weighting": "magic"}, 'choose "" or "uncertainty"'),
        ({"optimizer": "magic"}, "choose one of"),
        ({"schedule": "magic"}, "onecycle, step"),
        ({"schedule": "step:2"}, "step:.5,.75"),
        ({"phases": (("everything", 1),)}, "one of both, mask, depth, mask head"),
        ({"phases": (("mask", 0),)}, "and its share"),
        ({"phases": (("depth head", 1),), "depth_loss": ""}, "train nothing"),
        ({"network": "huge"}, "choose one of"),
        ({"way": "magic"}, "choose one of"),
        ({"augment": ("all",)}, "known"),
        ({"augment": "full"}, "a tuple of names"),
        ({"evaluate_every": 30}, "no multiple of log_every"),
        ({"sizes": ((32, 0),)}, "at least 1"),
        ({"ema": 1.0}, "ema in 0..1"),
        ({"told": 1.5}, "told is 1.5, needed 0..1"),
        ({"told": float("nan")}, "told is nan"),
    ],
)
def test_a_contradictory_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config.Config(**change)


def test_sizes_follow_each_other_or_take_turns():
    stages = config.Config(sizes=((32, 3), (48, 5)))
    assert [stages.size_at(step) for step in range(9)] == [32] * 3 + [48] * 6
    turns = config.Config(sizes=((32, 10), ((32, 64, 96), 3000)))
    sizes = [turns.size_at(step) for step in range(3010)]
    assert sizes[:10] == [32] * 10 and set(sizes[10:]) == {32, 64, 96}
    assert all(900 < sizes[10:].count(size) < 1100 for size in (32, 64, 96))
    assert turns.all_sizes == [32, 64, 96] and turns.n_steps == 3010


def test_a_config_comes_back_from_json_as_it_was(tmp_path):
    phases = (("mask", 1), ("depth head", 0.5))
    sizes = (((32, 64), 10), (96, 5))
    before = config.Config(sizes=sizes, augment=("flip", "noise"), phases=phases)
    (tmp_path / "config.json").write_text(json.dumps(asdict(before)), encoding="utf-8")
    assert config.read(tmp_path / "config.json") == before


@pytest.mark.parametrize(
    ("cores", "asked", "n"),
    [(1, "", 1), (2, "", 1), (8, "", 4), (8, "3", 3), (2, "0", 1), (8, "6,2", 6)],
)
def test_threads_are_half_the_cores_unless_somebody_asks(monkeypatch, cores, asked, n):
    monkeypatch.setattr(config, "cores", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert config.threads() == n


def test_evalib_sets_the_threads_before_anything_runs():
    code = "import evalib, torch; evalib.load(); print(torch.get_num_threads())"
    asked = dict(os.environ, OMP_NUM_THREADS="3")
    out = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True)
    assert out.stdout.split()[0] == "3"
    del asked["OMP_NUM_THREADS"]
    out = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True)
    assert out.stdout.split()[0] == str(max(1, config.cores() // 2))
