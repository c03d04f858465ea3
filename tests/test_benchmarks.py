"""Benchmarks that somebody else will start, on another machine: here they run to their end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bench_gpu
import bench_quality
import card
import pytest

from evalib import recipes

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
