"""What would break on Windows or macOS, as far as it can be seen from here."""

import ast
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from evalib import colab, timing

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "evalib").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = ROOT / ".github" / "address.py"
POSIX_ONLY = re.compile(
    r"\bos\.(?:sysconf|kill|killpg|fork|wait|getuid|uname|statvfs|getloadavg|sched_\w+|mkfifo)\b"
    r"|\bsignal\.(?:SIG(?:KILL|ALRM|HUP|USR|CHLD|STOP|QUIT)|alarm|setitimer|pause)"
    r"|\bimport (?:fcntl|resource|pwd|grp|termios)\b"
    r"|[\"'](?:/proc|/dev|/tmp|fork[\"'])|\brm -r"
)
GUARDED = {("drive.py", "os.kill"), ("drive.py", '"/proc')}  # asked only where they exist
GUARDED |= {("config.py", "os.sched_getaffinity")}


def sources(path):
    """The code of a module, or of each cell of a notebook, without Jupyter's own commands."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [text]
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return [re.sub(r"^\s*[%!].*", "", "".join(cell["source"]), flags=re.M) for cell in cells]


def without_encoding(code):
    """The calls that open a text file in whatever encoding the machine prefers."""
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        words = {key.arg: key.value for key in call.keywords}
        if isinstance(call.func, ast.Name):  # open(path, mode)
            name, modes = call.func.id, call.args[1:]
        else:  # path.open(mode), path.read_text()
            name, modes = getattr(call.func, "attr", ""), call.args
        mode = modes[0] if modes else words.get("mode", ast.Constant("r"))
        is_file = isinstance(mode, ast.Constant) and re.fullmatch("[rwaxbt+]+", str(mode.value))
        text_file = name == "open" and is_file and "b" not in mode.value
        if (text_file or name in ("read_text", "write_text")) and "encoding" not in words:
            yield ast.unparse(call)


def test_the_setup_line_needs_nothing_that_windows_lacks(monkeypatch, capsys):
    for name in ("sysconf", "uname", "getloadavg", "sched_getaffinity", "fork", "kill"):
        monkeypatch.delattr(os, name, raising=False)
    colab.setup()
    out = capsys.readouterr().out
    assert timing.machine() in out
    ram, free = map(int, re.search(r"RAM: (\d+) GiB; disk: (\d+) GiB free", out).groups())
    assert ram >= 1 and free >= 0


@pytest.mark.parametrize("path", MODULES + NOTEBOOKS, ids=lambda path: path.name)
def test_no_call_that_only_posix_has(path):
    found = {(path.name, match[0]) for code in sources(path) for match in POSIX_ONLY.finditer(code)}
    assert found <= GUARDED


@pytest.mark.parametrize("path", [*MODULES, *NOTEBOOKS, ADDRESS], ids=lambda path: path.name)
def test_text_is_read_and_written_as_utf8(path):
    assert not [call for code in sources(path) for call in without_encoding(code)]


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("open(path)", True),
        ("open(path, 'w', newline='')", True),
        ("path.open()", True),
        ("path.open('a')", True),
        ("folder.joinpath('a').read_text()", True),
        ("path.write_text(text)", True),
        ("open(path, 'rb')", False),
        ("open(path, mode='wb')", False),
        ("path.open('wb')", False),
        ("path.open(newline='', encoding='utf-8')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("Image.open(path)", False),
        ("os.open(path, os.O_RDONLY)", False),
    ],
)
def test_what_opens_text_without_an_encoding_is_noticed(code, wrong):
    assert bool(list(without_encoding(code))) == wrong


def test_no_two_files_differ_only_by_case():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone: there is no list of its files")
    names = listed.stdout.splitlines()
    names = {*names, *(str(parent) for name in names for parent in Path(name).parents)}
    assert len({name.lower() for name in names}) == len(names)
