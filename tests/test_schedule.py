import pytest
import torch

from evalib import schedule


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
    ours = [schedule.factor("onecycle", step, n) for step in range(n)]
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert min(ours[:10]) > 0.03  # the first step learns


def test_step_is_torchs_steplr():
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 50, 0.1), 150)
    assert [schedule.factor("step", k, 150) for k in range(150)] == pytest.approx(theirs)


def test_plateau_halves_after_each_three_scores_without_improvement():
    scores = [0.1, 0.5, 0.4, 0.5, 0.3]
    assert schedule.factor("plateau", 0, 9, scores[:4]) == 1.0
    assert schedule.factor("plateau", 0, 9, scores) == 0.5
    assert schedule.factor("plateau", 0, 9, [*scores, 0.1, 0.1, 0.1]) == 0.25
    assert schedule.factor("plateau", 0, 9) == 1.0


def test_early_stopping_counts_from_the_best_score():
    assert not schedule.stop_early([0.5, 0.4, 0.4], 3)
    assert schedule.stop_early([0.5, 0.4, 0.4, 0.5], 3)  # equal is not better
    assert not schedule.stop_early([], 1)


def test_a_run_of_one_step_has_a_rate():
    for name in schedule.NAMES:
        assert schedule.factor(name, 0, 1) > 0
