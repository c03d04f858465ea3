"""An entry of a contest keeps what it found, and tells what it cost."""

import json
import math

import numpy as np
import pytest

from evalib import dataset, metrics
from evalib.training import Config, contest

TINY = dict(sizes=((32, 2),), batch_size=4, log_every=1, evaluate_every=2, n_valid=4)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return dataset.build("evaluation", 32, limit=16, root=folder, progress=False)


def test_an_entry_tells_what_it_saw_what_it_cost_and_how_good_it_is(
    playground, evaluation, tmp_path
):
    row = contest.enter(Config(**TINY), {32: playground}, evaluation, tmp_path, entry="mine")
    assert row["entry"] == "mine" and row["samples"] == 8 and row["parameters"] == 481_090
    assert row["per_s"] == pytest.approx(8 / row["train_s"], rel=0.05) and row["ms"] > 0
    for subset in ("seen", "unseen_both"):
        assert set(row[subset]) == set(contest.SCORES) - {"false_area"}  # all have something new
    assert json.loads((tmp_path / "results.json").read_text())["seen"] == row["seen"]


def test_a_finished_entry_is_read_and_another_config_is_another_entry(
    playground, evaluation, tmp_path, monkeypatch
):
    first = contest.enter(Config(**TINY), {32: playground}, evaluation, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(contest, "train", None)  # nothing is trained
        again = contest.enter(Config(**TINY), {32: playground}, evaluation, tmp_path)
    assert again == json.loads(json.dumps(first))
    with pytest.raises(ValueError, match="a run with seed 0 instead of 1"):
        contest.enter(Config(**TINY | {"seed": 1}), {32: playground}, evaluation, tmp_path)


def test_a_run_whose_weights_burst_is_a_row_too_and_stays_one(playground, evaluation, tmp_path):
    config = Config(**TINY | {"optimizer": "sgd", "lr": 1e30, "clip": 1e30})
    for _ in range(2):
        row = contest.enter(config, {32: playground}, evaluation, tmp_path, entry="mine")
        assert "not finite" in row["failed"] and "Lower" not in row["failed"]
        assert row["parameters"] == 481_090 and "seen" not in row


def test_samples_are_counted_over_all_sizes(playground, evaluation, tmp_path):
    packs = {32: playground, 48: dataset.build("playground-24", 48, root=tmp_path, progress=False)}
    config = Config(**TINY | {"sizes": ((32, 1), (48, 2))})
    assert contest.enter(config, packs, evaluation, tmp_path / "run")["samples"] == 4 + 2 * 2


def test_the_baseline_is_scored_as_an_entry_is(evaluation):
    scores = contest.scores(metrics.baseline, evaluation, 2)
    rows = evaluation.split()["seen"][:2]
    expected = metrics.score(metrics.baseline, evaluation, rows)
    assert scores["seen"]["iou"] == pytest.approx(expected["iou"], abs=1e-5)


def rows_of(entry, budget, *values, **more):
    scores = [dict.fromkeys(contest.SCORES, value) for value in values]
    return [{"entry": entry, "budget": budget, "unseen_both": score} | more for score in scores]


def test_a_table_has_the_mean_and_the_spread_of_each_entry_and_budget():
    rows = rows_of("a", 10, 0.5, 0.7, ms=3.0) + rows_of("a", 20, 0.9) + rows_of("b", 10, 0.1)
    worst, middle, best = contest.table(rows)
    assert (worst["entry"], worst["budget"], worst["seeds"]) == ("b", 10, 1)
    assert middle["iou"] == pytest.approx(0.6) and middle["± iou"] == pytest.approx(0.1 * 2**0.5)
    assert middle["seeds"] == 2 and middle["ms"] == 3.0
    assert best["budget"] == 20 and math.isnan(best["± iou"])


def test_a_failed_run_is_told_and_does_not_count():
    failed = {"entry": "a", "budget": 10, "failed": "not finite"}
    rows = [failed, *rows_of("a", 10, 0.5, 0.7), *rows_of("b", 10, 0.2, 0.4)]
    worst, best = contest.table(rows)
    assert (best["seeds"], best["failed"], worst["failed"]) == (3, 1, 0)
    assert best["iou"] == pytest.approx(0.6)
    assert contest.compare(rows, "a", "b") == contest.compare(rows[1:], "a", "b")
    assert "iou" not in contest.table([failed])[0]


def test_kinds_of_data_are_no_seeds():
    rows = rows_of("a", 10, 0.9, data="rooms") + rows_of("a", 10, 0.5, data="photos")
    assert [line["seeds"] for line in contest.table(rows)] == [1, 1]
    with pytest.raises(ValueError, match="several kinds of data"):
        contest.compare(rows, "a", "a")


@pytest.mark.parametrize("score", contest.SCORES)
def test_a_gain_is_above_nothing_where_an_entry_is_better(score):
    rows = rows_of("high", 10, 0.8, 0.9) + rows_of("low", 10, 0.3, 0.5)
    higher_is_better = {"iou", "dice", "boundary_f", "depth_delta1", "depth_delta2", "depth_delta3"}
    names = ("high", "low") if score in higher_is_better else ("low", "high")
    found = contest.compare(rows, *names, score)
    assert found["gain"] == pytest.approx(0.45)
    assert contest.compare(rows, *reversed(names), score)["gain"] == pytest.approx(-0.45)
    # variances .005 and .02, pooled; two seeds each
    assert found["noise"] == pytest.approx(2 * (0.0125 * (1 / 2 + 1 / 2)) ** 0.5)


def test_one_equal_pair_in_twenty_differs_by_more_than_noise():
    chance = np.random.default_rng(0)
    beyond = 0
    for _ in range(300):
        values = chance.normal(0.5, 0.02, (12, 3))
        rows = [row for k, ious in enumerate(values) for row in rows_of(str(k), 10, *ious)]
        found = contest.compare(rows, "0", "1")
        beyond += abs(found["gain"]) > found["noise"]
    assert 0.02 < beyond / 300 < 0.09


def test_entries_are_compared_where_both_have_seen_as_much():
    rows = rows_of("a", 10, 0.5, 0.6) + rows_of("a", 20, 0.9, 1.0)
    rows += rows_of("b", 10, 0.4, 0.4) + rows_of("b", 30, 0.0)
    assert contest.compare(rows, "a", "b")["budget"] == 10
    with pytest.raises(ValueError, match="never saw as many samples"):
        contest.compare(rows + rows_of("c", 40, 0.5), "a", "c")


def test_the_spread_of_one_seed_is_that_of_all_others_and_of_none_is_not_known():
    rows = rows_of("a", 10, 0.9) + rows_of("b", 10, 0.5) + rows_of("c", 10, 0.5, 0.7)
    assert contest.compare(rows, "a", "b")["noise"] == pytest.approx(2 * (0.02 * 2) ** 0.5)
    with pytest.raises(ValueError, match="no entry was trained with two seeds"):
        contest.compare(rows[:2], "a", "b")


def test_an_entry_that_stopped_early_tells_what_it_saw(playground, evaluation, tmp_path):
    stops = {"sizes": ((32, 40),), "evaluate_every": 2, "patience": 1, "lr": 1e-12, "ema": 0}
    row = contest.enter(Config(**TINY | stops), {32: playground}, evaluation, tmp_path)
    assert row["samples"] < 40 * 4 and row["samples"] % 8 == 0


def test_another_list_of_pictures_is_scored_anew(playground, evaluation, tmp_path):
    for n in (4, 2):
        row = contest.enter(
            Config(**TINY), {32: playground}, evaluation, tmp_path, n_scored=n, entry=str(n)
        )
        assert row["scored"]["n"] == n and row["entry"] == str(n)
