"""The public address stands in pyproject.toml; badges and setup cells have to agree with it."""

import json
import shutil

import address
import pytest


@pytest.fixture
def project(tmp_path):
    """A copy of the files that name the address, without one."""
    shutil.copytree(address.ROOT / "notebooks", tmp_path / "notebooks")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(address.ROOT / name, tmp_path)
    address.main([""], tmp_path)
    return tmp_path


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_badges_setup_cells_and_readme_agree_with_pyproject():
    for path, text in address.texts(address.current()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make address`"


def test_without_an_address_badges_lead_to_colab_and_nothing_names_an_owner(project):
    for path in [project / "README.md", *(project / "notebooks").glob("*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        assert "https://colab.research.google.com/" in text
        assert "colab.research.google.com/github" not in text
    assert address.current(project) == ""


def test_an_address_reaches_every_badge_and_setup_cell_and_can_be_taken_back(project):
    before = contents(project)
    address.main(["some-body/eva.lib_2"], project)
    assert address.current(project) == "some-body/eva.lib_2"
    begin = "https://colab.research.google.com/github/some-body/eva.lib_2/blob/main/notebooks/"
    for path in (project / "notebooks").glob("*.ipynb"):
        head, setup = json.loads(path.read_text(encoding="utf-8"))["cells"][:2]
        assert f'<a href="{begin}{path.name}"' in head["source"][0]
        assert 'REPOSITORY = "some-body/eva.lib_2"  # @param {type:"string"}\n' in setup["source"]
        assert f"]({begin}{path.name})" in (project / "README.md").read_text(encoding="utf-8")
    address.main([], project)  # from pyproject.toml: there is nothing left to do
    address.main(["other/name"], project)
    assert b"some-body" not in b"".join(contents(project).values())
    address.main([""], project)
    assert contents(project) == before


@pytest.mark.parametrize(
    "wrong",
    ["name", "owner/", "/name", "owner/name/", "https://github.com/owner/name", "-o/name"]
    + ["owner/..", "own er/name", 'owner/na"me', "owner/name\n", "o_o/name", "owner/" + "n" * 101],
)
def test_what_is_no_address_is_refused_and_changes_nothing(project, wrong):
    before = contents(project)
    with pytest.raises(SystemExit, match="should be owner/name"):
        address.main([wrong], project)
    assert contents(project) == before
