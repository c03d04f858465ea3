"""`pip install` gives the command `evalib`, which works in an empty folder and writes only there.
The wheel is installed into an environment of its own that borrows the heavy packages."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalib import rooms

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
OFFLINE = ["--no-index", "--no-deps", "--quiet"]


def run(command, folder):
    """Run it there as a person would, who has no checkout on the path."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "EVALIB_SMOKE")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder):
    return {p.relative_to(folder) for p in folder.rglob("*") if "__pycache__" not in p.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run([*PIP, "wheel", *OFFLINE, "--no-build-isolation", "--wheel-dir", folder, ROOT], folder)
    return next(folder.glob("evalib-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with evalib: where its commands are, and where its packages are."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = shutil.which("python", path=scripts)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run([python, "-c", where], folder).strip())
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    run([*PIP, "--python", python, "install", *OFFLINE, wheel], folder)
    return scripts, site


@pytest.fixture
def evalib(installed, tmp_path):
    """The installed command, run in an empty folder. Nothing may be written beside its code."""
    scripts, site = installed
    before = files(site)
    yield lambda *words: run([shutil.which("evalib", path=scripts), *words], tmp_path)
    assert files(site) == before


def test_the_wheel_holds_weights_and_manifest_and_is_small(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    needed = ("weights/small.safetensors", "data_manifest.csv", "take_photos.js")
    assert {f"evalib/{name}" for name in needed} < set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"evalib"}
    assert wheel.stat().st_size <= 2 * 2**20


def test_building_leaves_nothing_in_the_project(wheel):
    assert not [*ROOT.glob("build"), *ROOT.glob("dist"), *ROOT.glob("*.egg-info")]
    assert not (ROOT / "evalib" / "data_manifest.csv").exists()


def test_the_wheel_asks_for_what_requirements_txt_lists(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = archive.read(name).decode()
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            assert f"Requires-Dist: {line.split('>')[0]}" in metadata


def test_the_installed_evalib_is_the_one_that_runs_and_writes_beside_no_code(installed, tmp_path):
    scripts, site = installed
    code = "import evalib; from evalib import colab, manifest; "
    code += "print(evalib.__file__, manifest.MANIFEST, colab.home().parent, sep='\\n')"
    out = run([shutil.which("python", path=scripts), "-c", code], tmp_path)
    package, table, home = map(Path, out.split("\n")[:3])
    assert package.parent == table.parent == site / "evalib"
    assert home == tmp_path / "output"


def test_predict_works_from_an_empty_folder(evalib, tmp_path):
    sample = 36095  # of background 9; a tenth of the picture is new
    pictures = rooms.render_backgrounds([9], 128)["bg"], rooms.render([sample], 128)["fg_bg"]
    for name, picture in zip(("empty", "now"), pictures, strict=True):
        Image.fromarray(picture[0]).save(tmp_path / f"{name}.jpg", quality=95)
    evalib("predict", "empty.jpg", "now.jpg", "--out", "result")
    mask = np.asarray(Image.open(tmp_path / "result" / "mask.png"))
    assert mask.shape == (128, 128) and 0.02 < (mask > 0).mean() < 0.3
    assert {path.name for path in tmp_path.iterdir()} == {"empty.jpg", "now.jpg", "result"}


def test_train_works_from_an_empty_folder(evalib, tmp_path):
    out = evalib("train", "playground-24", "--steps", 2)
    assert "finished at step 2" in out
    assert list(tmp_path.glob("output/runs/playground-24/step-0000000002-*.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
