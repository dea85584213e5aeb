"""Writes the file maps from the first sentence of every module: rooms in README.md, files in docs/files.md.

    python docs/map.py [--check]

With --check nothing is written, and exit code 1 says that a map is not as the code is.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sau", "tasks", "flows", "benchmarks")
MARKS = "<!-- map -->\n", "<!-- end of map -->"
_DEPTH = 2


def first_sentence(path: Path) -> str:
    """Of a module's docstring; empty where it has none."""
    paragraph = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return re.split(r"(?<=[.?])(?<!et al\.)\s", " ".join(paragraph.split()), maxsplit=1)[0]


def files_of(package: str) -> list[Path]:
    """A package's modules as git knows them, those of a folder after the folder's own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", f"{package}/*.py"], cwd=ROOT, capture_output=True, text=True
    )
    paths = [Path(name) for name in listed.stdout.split() if (ROOT / name).is_file()]
    return sorted(paths, key=lambda path: (path.parent.parts, path.name != "__init__.py", path.name))


def files_page() -> str:
    """docs/files.md."""
    lines = ["# Files", "", "One line each, from the first sentence of its docstring (`make map`)."]
    for package in PACKAGES:
        for folder in dict.fromkeys(path.parent for path in files_of(package)):
            own = ROOT / folder / "__init__.py"
            title = f": {first_sentence(own)}" if own.is_file() else ""
            lines += ["", f"## `{folder}/`{title}", ""]
            inside = (path for path in files_of(package) if path.parent == folder and path.name != "__init__.py")
            lines += [f"* `{path.name}`: {first_sentence(ROOT / path)}" for path in inside]
    return "\n".join(lines) + "\n"


def rooms() -> str:
    """The table in README.md: rooms, without those inside rooms of the library."""
    lines = ["| room | |", "|---|---|"]
    for package in PACKAGES[:3]:
        for folder in dict.fromkeys(path.parent for path in files_of(package) if len(path.parent.parts) <= _DEPTH):
            lines.append(f"| `{folder}/` | {first_sentence(ROOT / folder / '__init__.py')} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    readme, page = ROOT / "README.md", ROOT / "docs" / "files.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(MARKS[0])
    wanted = {readme: before + MARKS[0] + rooms() + MARKS[1] + rest.partition(MARKS[1])[2], page: files_page()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)}: the map is not as the code is, run `make map`")
        return bool(stale)
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
