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


def test_a_step_schedule_takes_the_shares_of_the_run_that_are_named():
    rates = [schedule.factor("step:.5,.75", k, 8) for k in range(8)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_documents_002_rates_are_constant_for_150_epochs_then_torchs_steps():
    ours = [schedule.factor("step:.6666,.8333", k, 300) for k in range(300)]
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 50, 0.1), 150)
    assert ours == pytest.approx([1.0] * 150 + theirs)


def test_a_plateau_takes_the_factor_that_is_named():
    assert schedule.factor("plateau:.1", 0, 9, [0.5, 0.4, 0.4, 0.4]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "name", ["step:1.5", "step:a", "plateau:.1,.2", "constant:.5", "onecycle:.3", "magic"]
)
def test_a_schedule_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=r"needed one of constant, .* or as step:.5,.75"):
        schedule.factor(name, 0, 9)


def test_phases_share_a_run_as_their_numbers_say():
    phases = [("mask", 1), ("depth head", 2), ("both", 1)]
    names = [schedule.phase(phases, k, 8) for k in range(8)]
    assert names == ["mask"] * 2 + ["depth head"] * 4 + ["both"] * 2
    assert schedule.phase((), 3, 8) == "both"


@pytest.mark.parametrize("n_steps", [9, 10, 100, 12_345])
def test_a_run_of_any_length_is_in_its_last_phase_in_the_end(n_steps):
    phases = [("mask", 1), ("depth", 1), ("both", 1)] * 3
    assert schedule.phase(phases, n_steps - 1, n_steps) == "both"
