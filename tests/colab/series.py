"""Run the five notebooks as a person on Colab would; `make colab` calls this with Colab's versions.

    python tests/colab/series.py [NOTEBOOK ...]

Each is opened in an empty folder, from which its setup cell has to find or fetch evalib: from a zip
on Drive, from a folder on Drive, or from GitHub. Drive and GitHub are folders on this machine. The
executed notebooks are kept in output/colab/.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import github
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUTPUT = ROOT / "output" / "colab"  # the executed notebooks
ADDRESS = "somebody/evalib"
WHERE = {"zip": "evalib-zip", "folder": "drive/MyDrive/evalib", "clone": "evalib-source"}
RUNS = [
    ("01_dataset_stats", "zip"),
    ("01_dataset_stats", "folder"),
    ("01_dataset_stats", "clone"),
    ("02_playground_24", "zip"),
    ("03_mid_1000", "folder"),
    ("04_full_400k", "clone"),
    ("05_evaluation", "zip"),
]


def main(names: list[str]) -> None:
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # ipykernel's debugger would warn
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="colab-") as folder:
        project = Path(folder) / "evalib-main"
        listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
        for name in filter(None, listed.split("\0")):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project / name)
        for number, (name, way) in enumerate(RUNS):
            if not names or name in names:
                start = time.perf_counter()
                run(name, way, project, Path(folder) / str(number))
                print(
                    f"{name}, evalib from a {way}: {time.perf_counter() - start:.0f} s", flush=True
                )


def run(name: str, way: str, project: Path, folder: Path) -> None:
    """Run one notebook from top to bottom. Raises where a cell does, or if evalib is not the one
    that it should have found."""
    content, my_drive = folder / "content", folder / "my-drive"
    for path in (content, my_drive, folder / "tmp"):
        path.mkdir(parents=True)
    environment = {
        "EVALIB_SMOKE": "1",
        "EVALIB_CONTENT": str(content),  # instead of /content
        "COLAB_DRIVE": str(my_drive),
        "PYTHONPATH": str(HERE),  # for google.colab
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "TMPDIR": str(folder / "tmp"),
    }
    notebook = nbformat.read(project / "notebooks" / f"{name}.ipynb", as_version=4)
    if way == "zip":  # as GitHub's "Download ZIP" makes it
        shutil.make_archive(my_drive / "evalib-main", "zip", project.parent, project.name)
    elif way == "folder":
        shutil.copytree(project, my_drive / "evalib")
    else:
        environment |= github.publish(shutil.copytree(project, folder / "github"), ADDRESS)
        setup = next(cell for cell in notebook.cells if cell.cell_type == "code")
        setup.source = re.sub(
            '^REPOSITORY = ".*?"', f'REPOSITORY = "{ADDRESS}"', setup.source, flags=re.M
        )
    notebook.cells.append(nbformat.v4.new_code_cell("print(colab.__file__)"))
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(content)}},
        # Colab's kernel has imported this before the first cell.
        extra_arguments=["--IPKernelApp.exec_lines=import google.colab"],
    )
    nbformat.write(notebook, content / f"{name}.ipynb")
    try:
        client.execute(env=os.environ | environment)
    finally:
        stop_tensorboard(folder / "tmp")
        nbformat.write(notebook, OUTPUT / f"{name}-{way}.ipynb")
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        text = output.get("data", {}).get("text/plain", "")
        assert not text.startswith("ERROR"), text  # all that %tensorboard does where it fails
    found = Path(notebook.cells[-1].outputs[0].text.strip())
    assert content / WHERE[way] in found.parents, f"{found} is not from the {way}"


def stop_tensorboard(folder: Path) -> None:
    """End the servers that a notebook started; each has left a file that says which it is."""
    for path in (folder / ".tensorboard-info").glob("pid-*.info"):
        os.kill(json.loads(path.read_text(encoding="utf-8"))["pid"], signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
