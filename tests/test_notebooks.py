"""What can be checked of the notebooks without running them; `make test` runs them with nbval."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["01_dataset_stats", "02_playground_24", "03_mid_1000", "04_full_400k", "05_evaluation"]


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def text_of(output):
    data = output.get("data", {})
    return "".join(output.get("text", data.get("text/plain", ""))) + "".join(
        data.get("text/html", "") + "".join(data.get("text/markdown", ""))
        if isinstance(data.get("text/html", ""), str)
        else [*data["text/html"], *data.get("text/markdown", "")]
    )


def test_the_series_is_complete():
    assert [path.stem for path in PATHS] == NAMES


def test_the_setup_cell_is_the_same_text_everywhere():
    setups = [source(cells(path, "code")[0]) for path in PATHS]
    assert len(set(setups)) == 1 and "@title Setup" in setups[0]


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_stored_outputs_come_from_one_run_from_top_to_bottom(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_notebook_stays_small_enough_to_read(path):
    assert path.stat().st_size < 2 * 2**20
    assert max(len(source(cell).splitlines()) for cell in cells(path, "code")) <= 40
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"]
    kinds = "".join("m" if cell["cell_type"] == "markdown" else "c" for cell in notebook["cells"])
    assert "cccc" not in kinds, "more than three code cells without a sentence"


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_measured_number_in_prose_stands_in_an_output(path):
    """Numbers with three or more decimals are results; settings and papers' numbers have fewer."""
    outputs = "\n".join(text_of(o) for cell in cells(path, "code") for o in cell["outputs"])
    prose = "\n".join(source(cell) for cell in cells(path, "markdown"))
    for number in re.findall(r"\d*\.\d{3,}", prose):
        assert number.lstrip("0") in outputs, f"{number} is in the prose of {path.name} only"


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_links_to_other_files_exist(path):
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#:]+)\)", source(cell)):
            assert (path.parent / target).exists(), f"{target}, linked in {path.name}"


def test_some_cells_must_give_the_same_output_everywhere():
    marked = [c for path in PATHS for c in cells(path, "code") if "NBVAL_CHECK_OUTPUT" in source(c)]
    assert len(marked) >= 8 and all(cell["outputs"] for cell in marked)


def test_nbval_fails_where_an_output_is_wrong_and_where_a_cell_raises(tmp_path):
    """With the options of `make test`, so that its green means something."""
    marked = "# NBVAL_CHECK_OUTPUT\nprint(6 * 7)"
    for name, code, stored in [
        ("right", marked, "42\n"),
        ("wrong", marked, "43\n"),
        ("unmarked", "print(6 * 7)", "43\n"),
        ("raises", "raise ValueError", "42\n"),
        ("silent", "# NBVAL_CHECK_OUTPUT\nx = 6 * 7", "42\n"),
    ]:
        output = nbformat.v4.new_output("stream", text=stored)
        cell = nbformat.v4.new_code_cell(code, execution_count=1, outputs=[output])
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    options = re.search(
        r"^NBVAL\s*:= (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M
    )[1]
    options = ["-rA", *options.replace("-x ", "").split()]  # go on after a failure, and list all
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    outcomes = {
        name: word for word, name in re.findall(r"^([A-Z]+) (\w+)\.ipynb", done.stdout, re.M)
    }
    failed = {"wrong", "raises", "silent"}
    passed = {"right", "unmarked"}
    assert outcomes == dict.fromkeys(failed, "FAILED") | dict.fromkeys(passed, "PASSED"), (
        done.stdout
    )
    assert done.returncode == 1
