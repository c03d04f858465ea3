"""What Colab has installed, and environments that look like it.

    python tests/colab/preinstalled.py .venv-colab

makes a real one, of the packages that evalib needs and that a notebook needs to be run, in Colab's
versions and on its Python. `imitate` makes one of names and versions only, in a second.

`installed-cpu.txt` and `installed-gpu.txt` are what `pip freeze` says there, from
https://github.com/googlecolab/backend-info (`pip-freeze.txt`, `pip-freeze.gpu.txt`); newer ones can
be copied over them.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

HERE = Path(__file__).parent
REQUIREMENTS = HERE.parents[1] / "requirements.txt"
PYTHON = "3.13"  # of the lists beside this file
LINE = re.compile(r"([\w.-]+)(?:==| @ .*/[\w.]+-)([\w.!+]+)(?:-\S*whl\S*)?")


def installed(runtime: str) -> dict[str, str]:
    """Versions by name on Colab's `cpu` or `gpu` runtime; what has no version there is left out."""
    lines = (HERE / f"installed-{runtime}.txt").read_text(encoding="utf-8").splitlines()
    return dict(found.groups() for line in lines if (found := LINE.fullmatch(unquote(line))))


def imitate(python: str, folder: Path, runtime: str) -> Path:
    """Make a virtual environment in which pip sees Colab's packages; there is no code in them.

    python: which Python, a path or a name on the PATH.
    Returns: the environment's own Python.
    """
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    for name, version in installed(runtime).items():
        info = site / f"{re.sub(r'[-_.]+', '_', name)}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").touch()
    return folder / "bin" / "python"


def find_python() -> str | None:
    """A Python of Colab's version: on the PATH, or one of pyenv's."""
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{PYTHON}.*/bin/python"))
    for python in (f"python{PYTHON}", *map(str, of_pyenv)):
        try:  # pyenv's `python3.13` is there and fails, unless it is told which one
            subprocess.run(
                [python, "-c", "import venv, ensurepip"], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return None


def build(folder: Path) -> None:
    """Install Colab's versions into `folder`, made anew."""
    python = find_python()
    if python is None:
        raise SystemExit(
            f"Colab runs Python {PYTHON}, and there is none here. Install one: `apt install "
            f"python{PYTHON}-venv` where your Debian or Ubuntu has it, `brew install "
            f"python@{PYTHON}`, `uv python install {PYTHON}` or `pyenv install {PYTHON}`."
        )
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(
        "".join(
            f"{name}=={version.partition('+')[0]}\n"  # torch==2.11.0+cu128 is in no public index
            for name, version in installed("cpu").items()
            if not name.startswith("nvidia")  # PyPI's torch comes with another CUDA
        )
    )
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    command += ["--disable-pip-version-check", "--constraint", constraints]
    # TensorBoard 2.20 needs setuptools and does not say so; nbclient runs the notebooks.
    command += ["--requirement", REQUIREMENTS, "setuptools", "ipykernel", "nbclient"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
