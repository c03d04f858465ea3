"""Benchmarks that somebody else will start, on another machine: here they run to their end."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import bench_contest
import bench_gpu
import bench_quality
import card
import numpy as np
import pytest

from evalib import config, losses, recipes
from evalib.training import contest

ROOT = Path(__file__).parents[1]


def test_the_proof_of_a_gpu_runs_to_its_end_without_one(tmp_path):
    said = subprocess.run(
        [sys.executable, "tests/benchmarks/bench_gpu.py", "--out", tmp_path / "gpu.json"],
        cwd=ROOT,
        env=os.environ | {"EVALIB_SMOKE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert list(parts) == list(bench_gpu.PARTS)
    assert all(part["rows"] for part in parts.values())


@pytest.mark.parametrize("path", sorted((ROOT / "tests/benchmarks").glob("bench_*.py")))
def test_what_a_benchmark_takes_from_the_package_is_still_there(path):
    importlib.import_module(path.stem)


def test_a_part_that_fails_says_why_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(folder):
        """What is broken."""
        raise ValueError("no such card")

    def works(folder):
        """What works."""
        return [{"answer": 42}]

    monkeypatch.setattr(bench_gpu, "PARTS", {"broken": broken, "works": works})
    assert bench_gpu.main(["--out", str(tmp_path / "gpu.json")]) == 1
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert "no such card" in parts["broken"]["failed"] and "broken" in parts["broken"]["failed"]
    assert parts["works"]["rows"] == [{"answer": 42}]
    assert "no such card" in capsys.readouterr().out


@pytest.mark.parametrize("network", ["small", "lean", "resnet"])
def test_a_step_costs_about_three_predictions(network):
    forward = 2 * recipes.measure(network, 64)["multiply_adds"]
    flops, n_bytes = card.cost(network, 64, "no")
    assert 2.5 < flops / forward < 3.1  # gradients of weights and of inputs, but of the first
    assert card.cost(network, 64, "fp16")[1] == n_bytes / 2 > 0


def test_time_to_quality_lies_between_two_scores_and_may_not_exist():
    history = [
        {"forward_s": 1.0, "step_s": 1.0},
        {"forward_s": 1.0, "step_s": 1.0, "quality_iou": 0.6, "evaluate_s": 9.0},
        {"forward_s": 2.0, "step_s": 2.0, "quality_iou": 0.84, "checkpoint_s": 9.0},
        {"forward_s": 1.0, "step_s": 1.0, "quality_iou": 0.8},
    ]
    curve = bench_quality.scores_of(history)
    assert curve == [(4.0, 0.6), (8.0, 0.84), (10.0, 0.8)]
    assert bench_quality.seconds_to(0.3, curve) == pytest.approx(2)
    assert bench_quality.seconds_to(0.72, curve) == pytest.approx(6)
    assert bench_quality.seconds_to(0.84, curve) == 8
    assert bench_quality.seconds_to(0.85, curve) != bench_quality.seconds_to(0.85, curve)  # NaN


def test_every_row_of_the_contest_is_a_run_of_as_many_samples(monkeypatch):
    monkeypatch.setitem(losses.MASK, "bce_after_sigmoid", bench_contest.bce_after_sigmoid)
    names = [
        *recipes.NETWORKS,
        *(name for group in bench_contest.GROUPS.values() for name in group),
    ]
    assert len(names) == len(set(names))
    for name in names:
        row = config.Config(**{"batch_size": 16} | bench_contest.settings(name, 8000))
        stages = zip(*np.unique(row.turns, return_counts=True), strict=True)
        seen = sum(row.size_of_batch(int(size)) * n for size, n in stages)
        assert seen == pytest.approx(8000, rel=0.03), name


def test_the_stored_contest_has_every_system_and_both_kinds_of_data():
    rows = contest.stored()
    entries = {(row["entry"], row["data"]) for row in rows}
    assert {(name, "rooms") for name in (*recipes.RECIPES, "baseline")} <= entries
    assert {("baseline", "photos"), ("ours", "photos")} <= entries
    for row in rows:
        if row.get("failed"):
            continue
        assert set(row["seen"]) == set(row["unseen_both"])
        if row["entry"] != "baseline":
            assert row["parameters"] > 0 and row["machine"] and row["date"]
        if row["entry"] in recipes.NETWORKS:
            assert row["per_s"] > 0 and row["ms"] > 0
        if row["data"] == "rooms":
            assert set(row["seen"]) == set(contest.SCORES)


def test_rows_are_collected_with_the_speeds_of_one_run(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_contest, "OUT", tmp_path)
    (tmp_path / "costs.json").write_text('{"lean": {"per_s": 7.0, "ms": 3.0}}')
    stored = {"entry": "lean", "per_s": 1.0, "ms": 2.0, "train_s": 9.0, "seen": {"iou": 0.5}}
    stored |= {"config": {"network": "lean", "lr": 4e-3, "seed": 1}}
    for name, row in {"lean-8000-1": stored, "baseline-8000-0": {"entry": "baseline"}}.items():
        (tmp_path / "rooms" / name).mkdir(parents=True)
        (tmp_path / "rooms" / name / "results.json").write_text(json.dumps(row))
    bench_contest.collect(tmp_path / "results.json")
    baseline, lean = json.loads((tmp_path / "results.json").read_text())
    assert baseline == {"entry": "baseline"}
    assert (lean["per_s"], lean["ms"]) == (7.0, 3.0) and "train_s" not in lean
    assert lean["config"] == {"network": "lean", "seed": 1}
