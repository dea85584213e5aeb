"""The crash matrix as tests see it: run by `killed_flows.py` in a checkout, judged cell by cell, printed as a table."""

import json
import os
import subprocess
import sys
from typing import Any

ALL_CELLS = "SAU_TEST_ALL_CELLS"
"""Set in the environment, every place is tried in every way: hours."""
_CODES = {
    "kill all": {-9},
    "kill parent": {-9},
    "SIGTERM": {143},
    "kill child": {1},
    "exception": {1},
    "no room": {0, 1},
}
"""What a run ends with that is stopped so; where a disk is full after the last write, nobody is hurt."""


def run_matrix(checkout: Any, flow: str, folder: Any, *options: str) -> dict[str, Any]:
    """The uninterrupted state, and every cell."""
    how_many = "all" if os.environ.get(ALL_CELLS) else "some"
    command = [sys.executable, "tests/e2e/killed_flows.py", flow, str(folder / "kept"), how_many, *options]
    env = checkout.env(PREFECT_HOME=str(folder / "prefect"))
    log = folder / f"{flow}.log"
    # Through a pipe: where no file may grow, the driver's own words do not go into one.
    with subprocess.Popen(["tee", str(log)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as tee:
        done = subprocess.run(
            command, cwd=checkout.path, env=env, stdout=subprocess.PIPE, stderr=tee.stdin, text=True, timeout=14400
        )
    assert done.returncode == 0, log.read_text()[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"\n{flow}\n\n{table(found['cells'])}")  # noqa: T201
    return found


def is_right(cell: dict[str, Any]) -> bool:
    """Whether the run was stopped as was meant, left nothing behind, and the next one ended as if it had not been."""
    return (
        cell["code"] in _CODES[cell["kind"]]
        and cell["again"][-1] == 0
        and not (cell["orphans"] or cell["seen"] or cell["differs"])
    )


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown: by step and place, how it was stopped."""
    places = ("before", "in the middle", "after")
    rows: dict[str, dict[str, list[str]]] = {}
    for cell in sorted(cells, key=lambda cell: cell["number"]):
        row = rows.setdefault(cell["step"], {place: [] for place in places})
        place = cell["where"] if cell["where"] in places else "in the middle"
        row[place].append(f"{cell['kind']}{'' if is_right(cell) else ' **NOT as uninterrupted**'}")
    lines = ["| step | before | in the middle, or after one of its writes | after |", "|---|---|---|---|"]
    for step, row in rows.items():
        lines.append(f"| {step} | {' | '.join(', '.join(row[place]) or '·' for place in places)} |")
    return "\n".join(lines)
