"""Colab has all that evalib needs: `pip install -r requirements.txt` has nothing to do there. What
it installed would be a wait at each session, and what it replaced a restart of the runtime."""

import re
import subprocess
import sys

import preinstalled
import pytest


@pytest.fixture(scope="module")
def colab(request, tmp_path_factory):
    """The Python of an environment in which pip sees what Colab has on this runtime."""
    folder = tmp_path_factory.mktemp("colab") / request.param
    return preinstalled.imitate(sys.executable, folder, request.param)


def pip(python, *arguments, by=sys.executable, index=False):
    """What `pip install` would do there, said and not done. Without an index, anything that is not
    there already is an error. `by`: whose pip."""
    options = ["--dry-run", "--no-build-isolation", "--disable-pip-version-check"]
    options += ["--retries", "0"] if index else ["--no-index", "--isolated"]
    return subprocess.run(
        [by, "-m", "pip", "--python", python, "install", *options, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


def changes(done):
    return done.returncode != 0 or "Would install" in done.stdout


@pytest.mark.parametrize("colab", ["cpu", "gpu"], indirect=True)
def test_requirements_change_nothing_on_colab(colab):
    done = pip(colab, "--requirement", preinstalled.REQUIREMENTS)
    assert not changes(done), done.stdout + done.stderr


@pytest.mark.parametrize("line", ["ipywidgets>=8", "gdown>=6", "tensorboard>=2.21", "torchinfo"])
@pytest.mark.parametrize("colab", ["gpu"], indirect=True)
def test_a_line_that_would_change_something_there_is_noticed(colab, line):
    done = pip(colab, line)
    assert changes(done) and line in done.stderr


def test_with_an_index_pip_names_what_it_would_replace(tmp_path):
    python = preinstalled.find_python()
    if python is None:
        pytest.skip(f"there is no Python {preinstalled.PYTHON}, which Colab runs")
    fake = preinstalled.imitate(python, tmp_path / "colab", "gpu")
    done = pip(fake, "ipywidgets>=8", by=python, index=True)
    if done.returncode:
        pytest.skip(f"pip could not ask an index: {done.stderr.strip().splitlines()[-1]}")
    assert re.search(r"Would install .*\bipywidgets-(?!7)\d", done.stdout), done.stdout
    nothing = pip(fake, "--requirement", preinstalled.REQUIREMENTS, by=python, index=True)
    assert not changes(nothing), nothing.stdout + nothing.stderr


def test_colabs_list_is_read_in_both_ways_it_is_written(tmp_path, monkeypatch):
    lines = ["# made by pip freeze", "numpy==2.1.3", "torch==2.11.0+cu128"]
    lines += ["google-colab @ file:///colabtools/dist/google-colab-1.0.0.tar.gz"]
    lines += ["torchvision @ https://example.org/torchvision-0.26.0%2Bcpu-cp313-a_b.whl#s"]
    (tmp_path / "installed-gpu.txt").write_text("\n".join(lines))
    monkeypatch.setattr(preinstalled, "HERE", tmp_path)
    expected = {"numpy": "2.1.3", "torch": "2.11.0+cu128", "torchvision": "0.26.0+cpu"}
    assert preinstalled.installed("gpu") == expected


def test_without_colabs_python_it_is_said_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(preinstalled, "find_python", lambda: None)
    with pytest.raises(SystemExit, match="Colab runs Python 3.13.*apt install python3.13"):
        preinstalled.build(tmp_path / "environment")
