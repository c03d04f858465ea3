import json
from dataclasses import asdict

import pytest
import torch

from evalib import config


def torch_rates(make, n):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_onecycle_is_torchs_onecycle():
    n = 200
    theirs = torch_rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=n), n
    )
    ours = [config.factor("onecycle", step, n) for step in range(n)]
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert min(ours[:10]) > 0.03  # the first step learns


def test_step_is_torchs_steplr():
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 50, 0.1), 150)
    assert [config.factor("step", k, 150) for k in range(150)] == pytest.approx(theirs)


def test_plateau_halves_after_each_three_scores_without_improvement():
    scores = [0.1, 0.5, 0.4, 0.5, 0.3]
    assert config.plateau(scores[:4]) == 1.0
    assert config.plateau(scores) == 0.5
    assert config.plateau([*scores, 0.1, 0.1, 0.1]) == 0.25
    assert config.plateau([]) == 1.0


def test_early_stopping_counts_from_the_best_score():
    assert not config.stop_early([0.5, 0.4, 0.4], 3)
    assert config.stop_early([0.5, 0.4, 0.4, 0.5], 3)  # equal is not better
    assert not config.stop_early([], 1)


def test_a_run_of_one_step_has_a_rate():
    for name in ("constant", "onecycle", "step"):
        assert config.factor(name, 0, 1) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_loss": "", "depth_loss": ""}, "train nothing"),
        ({"mask_loss": "nope"}, "mask loss 'nope'"),
        ({"optimizer": "magic"}, "choose one of"),
        ({"schedule": "magic"}, "onecycle, step"),
        ({"network": "huge"}, "choose one of"),
        ({"way": "magic"}, "choose one of"),
        ({"augment": ("all",)}, "known"),
        ({"augment": "full"}, "a tuple of names"),
        ({"evaluate_every": 30}, "no multiple of log_every"),
        ({"sizes": ((32, 0),)}, "at least 1"),
        ({"ema": 1.0}, "ema in 0..1"),
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
    before = config.Config(sizes=(((32, 64), 10), (96, 5)), augment=("flip", "noise"))
    (tmp_path / "config.json").write_text(json.dumps(asdict(before)), encoding="utf-8")
    assert config.read(tmp_path / "config.json") == before
