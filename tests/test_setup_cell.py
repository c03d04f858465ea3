"""The first code cell of each notebook finds or fetches `evalib`. Here it finds a tiny one, which
says which it is; `make colab` runs the whole series with the real one."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import github
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / "notebooks" / "01_dataset_stats.ipynb").read_text(encoding="utf-8"))
CELL = next("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
ADDRESS = "somebody/evalib"
STAND_INS = str(ROOT / "tests" / "colab")


def project(folder, says):
    (folder / "evalib").mkdir(parents=True, exist_ok=True)
    (folder / "evalib" / "__init__.py").touch()
    (folder / "evalib" / "colab.py").write_text(f"def setup(): print('this is', {says!r})\n")
    return folder


def zipped(path, says, inside="evalib-main"):
    project(path.parent / "to-zip" / inside, says)
    shutil.make_archive(path.with_suffix(""), "zip", path.parent / "to-zip")
    shutil.rmtree(path.parent / "to-zip")
    return path


def published(folder, says):
    return github.publish(project(folder, says), ADDRESS)


@pytest.fixture
def content(tmp_path):
    """What is /content on Colab, and beside it what a person has on Drive."""
    (tmp_path / "content").mkdir()
    (tmp_path / "my-drive").mkdir()
    return tmp_path / "content"


def run_cell(content, *, on_colab=True, repository="", ref="main", environment=None):
    before, rest = CELL.split("REPOSITORY = ", 1)
    form = f"REPOSITORY = {repository!r}\nREF = {ref!r}\n"
    code = before + form + rest.split("\n", 2)[2]
    # Colab's kernel has imported `google.colab` before the first cell.
    code = "import google.colab\n" * on_colab + code
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=content,
        env=os.environ
        | {"PYTHONPATH": STAND_INS, "EVALIB_CONTENT": str(content)}
        | {"COLAB_DRIVE": str(content.with_name("my-drive"))}
        | (environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", ["evalib.zip", "evalib-main.zip", "evalib (1).zip"])
@pytest.mark.parametrize("inside", ["", "evalib", "evalib-main"])
def test_a_zip_on_drive_is_found_whatever_it_is_called(content, name, inside):
    zipped(content.with_name("my-drive") / name, "zip", inside)
    assert "this is zip" in run_cell(content).stdout


def test_the_newest_zip_is_taken_and_nothing_of_the_one_before_is_left(content):
    old = zipped(content.with_name("my-drive") / "evalib (1).zip", "old", "evalib-old")
    os.utime(old, (1e9, 1e9))
    assert "this is old" in run_cell(content).stdout
    zipped(content.with_name("my-drive") / "evalib.zip", "new", "evalib-new")
    assert "this is new" in run_cell(content).stdout
    assert [path.name for path in (content / "evalib-zip").iterdir()] == ["evalib-new"]


def test_a_zip_cannot_write_outside_its_folder(content):
    path = zipped(content.with_name("my-drive") / "evalib.zip", "zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../escaped", "")
        archive.writestr("../escaped", "")
        archive.writestr(str(content.parent / "escaped"), "")
    assert "this is zip" in run_cell(content).stdout
    outside = list(content.parent.rglob("escaped"))
    assert outside and all(content / "evalib-zip" in path.parents for path in outside)


def test_a_zip_that_was_uploaded_in_part_or_is_something_else_is_passed_over(content):
    drive = content.with_name("my-drive")
    torn = zipped(drive / "evalib-torn.zip", "torn")
    torn.write_bytes(torn.read_bytes()[:-40])
    with zipfile.ZipFile(drive / "evalib-results.zip", "w") as archive:
        archive.writestr("results.json", "{}")
    project(drive / "evalib", "folder")
    assert "this is folder" in run_cell(content).stdout


def test_a_folder_on_drive_is_found_beside_one_that_holds_checkpoints(content):
    (content.with_name("my-drive") / "evalib" / "gpu").mkdir(parents=True)
    project(content.with_name("my-drive") / "evalib-main", "folder")
    assert "this is folder" in run_cell(content).stdout


def test_an_installed_one_is_taken_where_nothing_else_is_found(content, tmp_path):
    project(tmp_path / "site", "installed")
    environment = {"PYTHONPATH": os.pathsep.join([STAND_INS, str(tmp_path / "site")])}
    assert "this is installed" in run_cell(content, environment=environment).stdout
    project(content.with_name("my-drive") / "evalib", "folder")
    assert "this is folder" in run_cell(content, environment=environment).stdout


@pytest.mark.parametrize("on_colab", [True, False])
def test_a_clone_follows_its_branch_and_keeps_what_was_made_in_it(content, tmp_path, on_colab):
    environment = published(tmp_path / "github", "first")
    options = dict(on_colab=on_colab, repository=ADDRESS, environment=environment)
    assert "this is first" in run_cell(content, **options).stdout
    (content / "evalib-source" / "output").mkdir()
    published(tmp_path / "github", "second, longer")
    assert "this is second" in run_cell(content, **options).stdout
    assert (content / "evalib-source" / "output").is_dir()


def test_a_tag_can_be_named(content, tmp_path):
    environment = published(tmp_path / "github", "first")
    github.git(tmp_path / "github", "tag", "v1")
    published(tmp_path / "github", "second, longer")
    options = dict(repository=ADDRESS, environment=environment)
    assert "this is first" in run_cell(content, ref="v1", **options).stdout


def test_what_a_person_put_on_drive_comes_before_the_public_address(content, tmp_path):
    environment = published(tmp_path / "github", "clone")
    zipped(content.with_name("my-drive") / "evalib.zip", "zip")
    done = run_cell(content, repository=ADDRESS, environment=environment)
    assert "this is zip" in done.stdout and not (content / "evalib-source").exists()


def test_a_notebook_inside_the_project_takes_that_one(content):
    project(content, "around")
    (content / "notebooks").mkdir()
    assert "this is around" in run_cell(content / "notebooks", on_colab=False).stdout


def test_where_drive_is_refused_a_clone_still_works(content, tmp_path):
    environment = published(tmp_path / "github", "clone")
    (content / "drive").mkdir()
    (content / "drive" / "file").touch()  # mount raises for this
    done = run_cell(content, repository=ADDRESS, environment=environment)
    assert "No Drive (Mountpoint must not already contain files)" in done.stdout
    assert "this is clone" in done.stdout


def test_an_address_that_does_not_answer_is_an_error_with_gits_words(content, tmp_path):
    environment = published(tmp_path / "github", "first")
    done = run_cell(content, repository=ADDRESS, ref="no-such-branch", environment=environment)
    assert done.returncode and "no-such-branch" in done.stderr


def test_advice_fits_the_place(content):
    on_colab, elsewhere = run_cell(content), run_cell(content, on_colab=False)
    assert on_colab.returncode and elsewhere.returncode
    assert "put evalib.zip on Drive, or fill in REPOSITORY" in on_colab.stderr
    assert "start Jupyter in the project's folder, or fill in REPOSITORY" in elsewhere.stderr
    assert "Drive" not in elsewhere.stderr + elsewhere.stdout


def test_a_missing_library_is_not_taken_for_a_missing_evalib(content):
    project(content, "around")
    (content / "evalib" / "colab.py").write_text("import no_such_library\n")
    done = run_cell(content, on_colab=False)
    assert done.returncode and "No module named 'no_such_library'" in done.stderr
    assert "REPOSITORY" not in done.stderr.splitlines()[-1]
