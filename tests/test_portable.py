"""What would break on Windows or macOS, as far as it can be seen from here."""

import ast
import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from evalib import colab, timing

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "evalib").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OTHERS = [*sorted((ROOT / "tests").rglob("*.py")), ROOT / ".github" / "address.py"]
POSIX_ONLY = re.compile(
    r"\bos\.(?:sysconf|kill|killpg|fork|wait|getuid|uname|statvfs|getloadavg|sched_\w+|mkfifo)\b"
    r"|\bsignal\.(?:SIG(?:KILL|ALRM|HUP|USR|CHLD|STOP|QUIT)|alarm|setitimer|pause)"
    r"|\bimport (?:fcntl|resource|pwd|grp|termios)\b"
    r"|[\"'](?:/proc|/dev|/tmp|fork[\"'])|\brm -r"
)
GUARDED = {("drive.py", "os.kill"), ("drive.py", '"/proc')}  # asked only where they exist


def sources(path):
    """The code of a module, or of each cell of a notebook, without Jupyter's own commands."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [text]
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return [re.sub(r"^\s*[%!].*", "", "".join(cell["source"]), flags=re.M) for cell in cells]


def without_encoding(code):
    """Lines that open a text file in whatever encoding the machine prefers."""
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        words = [word.value for word in call.args if isinstance(word, ast.Constant)]
        words += [key.value.value for key in call.keywords if key.arg == "mode"]
        binary = any(re.fullmatch("[rwax]b[+]?|[rwax][+]?b", str(word)) for word in words)
        owner = getattr(getattr(call.func, "value", None), "id", "")
        other = owner in ("os", "Image", "zipfile", "tarfile", "webbrowser", "urllib")
        named = any(key.arg == "encoding" for key in call.keywords)
        if name in ("open", "read_text", "write_text") and not (binary or other or named):
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


@pytest.mark.parametrize("path", MODULES + NOTEBOOKS + OTHERS, ids=lambda path: path.name)
def test_text_is_read_and_written_as_utf8(path):
    assert not [call for code in sources(path) for call in without_encoding(code)]


def test_no_two_files_differ_only_by_case():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    names = listed.splitlines() or [str(p.relative_to(ROOT)) for p in MODULES + NOTEBOOKS + OTHERS]
    folders = {str(parent) for name in names for parent in Path(name).parents}
    twice = {name: n for name, n in Counter(map(str.lower, {*names, *folders})).items() if n > 1}
    assert not twice
