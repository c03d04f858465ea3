"""Benchmarks that somebody else will start, on another machine: here they run to their end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bench_gpu

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
