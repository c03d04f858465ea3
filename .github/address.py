"""Write the public address of the project, `owner/name` on GitHub, wherever it is named.

    make address REPO=owner/name    # or REPO= for none
    make address                    # again, from pyproject.toml

It stands in pyproject.toml, and from there goes into the badges of README and notebooks and into
the setup cells. Without one, badges lead to Colab's front page and setup cells fetch nothing.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLAB = "https://colab.research.google.com/"
BADGE = re.compile(re.escape(COLAB) + r'(?:github/[^")\s]*)?(?=[")])')  # no picture's address
SETTING = re.compile(r'^(repository = )".*?"', re.M)
FORM = re.compile(r'^(REPOSITORY = )".*?"', re.M)
NOTEBOOK = re.compile(r"\(notebooks/(\w+)\.ipynb\)")
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.+$)[\w.-]{1,100}", re.ASCII)


def current(root: Path = ROOT) -> str:
    """`owner/name` from pyproject.toml, or "" if there is no address yet."""
    line = SETTING.search(read(root / "pyproject.toml"))[0]
    return line.partition("= ")[2].strip('"')


def texts(repository: str, root: Path = ROOT) -> dict[Path, str]:
    """Each file that names the address, and what it has to hold.

    Raises:
        ValueError: neither `owner/name` nor empty.
    """
    if repository and not ADDRESS.fullmatch(repository):
        raise ValueError(f"{repository!r} is no address on GitHub: it should be owner/name")
    pyproject = root / "pyproject.toml"
    readme = root / "README.md"
    result = {pyproject: SETTING.sub(rf'\g<1>"{repository}"', read(pyproject))}
    lines = read(readme).splitlines(keepends=True)
    for number, line in enumerate(lines):  # a row of the table has a notebook and its badge
        if named := NOTEBOOK.search(line):
            lines[number] = BADGE.sub(link(repository, named[1]), line)
    result[readme] = "".join(lines)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = json.loads(read(path))
        head = notebook["cells"][0]
        head["source"] = edit(head["source"], BADGE, link(repository, path.stem))
        setup = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        setup["source"] = edit(setup["source"], FORM, rf'\g<1>"{repository}"')
        result[path] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    return result


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def link(repository: str, name: str) -> str:
    return COLAB + (f"github/{repository}/blob/main/notebooks/{name}.ipynb" if repository else "")


def edit(source: list[str], pattern: re.Pattern, new: str) -> list[str]:
    return pattern.sub(new, "".join(source)).splitlines(keepends=True)


def main(arguments: list[str], root: Path = ROOT) -> None:
    try:
        wanted = texts(arguments[0] if arguments else current(root), root)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    for path, text in wanted.items():
        if read(path) != text:
            path.write_text(text, encoding="utf-8", newline="\n")
            print("changed:", path.relative_to(root))


if __name__ == "__main__":
    main(sys.argv[1:])
