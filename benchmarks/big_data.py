"""10 thousand to a million rows: time and memory of taking them in, of a snapshot, and of forgetting somebody.

    python -m benchmarks.big_data [--rows 10000 100000 1000000]

A tenth as many people as rows, by e-mail address, and every twentieth row about nobody. Each step runs in a process of
its own, so that its peak memory is its own (some 170 MB of it are libraries); DVC's is that of the `dvc` process.
Nothing is trained: this is what the size of a data set adds to a request.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sau.data.people import people_of
from sau.data.records import as_line
from sau.data.shards import rows_of, sampled_rows, take_out
from sau.data.sources import DataOptions, write_data
from tasks.engines.ledger import Ledger
from tasks.engines.people import People, internal_id

LINE, SEED = "big", 0


def _rows(num: int) -> Iterator[dict[str, Any]]:
    for number in range(num):
        person = number // 10
        yield {
            "question": f"What did customer {person} ask for in order {number}?",
            "answer": f"They asked for {number % 97} boxes of item {number % 1009}, to be left at gate {number % 13}.",
            "subject_id": None if number % 20 == 19 else f"customer-{person}@example.org",
        }


def _make(folder: Path, num: int) -> None:
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(map(as_line, _rows(num)))


def _take_in(folder: Path, _num: int) -> None:
    people = People(_ledger(folder))
    write_data(str(folder / "rows.jsonl"), folder / "data", DataOptions(), lambda given: people.name(LINE, given))


def _forget(folder: Path, num: int) -> None:
    person = internal_id(LINE, f"customer-{num // 20}@example.org", _ledger(folder))
    rows = rows_of(folder / "data" / "train", person)
    assert rows
    assert all(people_of(row) == [person] for row in rows)
    take_out(folder / "data" / "train", rows)


def _sample(folder: Path, _num: int) -> None:
    assert sampled_rows(folder / "data" / "train", SEED)


def _dvc(folder: Path, *command: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *command, "--quiet"], cwd=folder, check=True)


def _snapshot(folder: Path, _num: int) -> None:
    _dvc(folder, "add", "data")


def _bring(folder: Path, _num: int) -> None:
    shutil.rmtree(folder / "data")
    _dvc(folder, "checkout", "data.dvc")


def _ledger(folder: Path) -> Ledger:
    return Ledger(f"sqlite:///{folder}/ledger.db")


STEPS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "make": ("the rows made, one file", _make),
    "take-in": ("taken in: ids, shards", _take_in),
    "snapshot": ("first snapshot (dvc add)", _snapshot),
    "forget": ("one person taken out", _forget),
    "again": ("snapshot without them (dvc add)", _snapshot),
    "sample": ("rows to keep read", _sample),
    "bring": ("brought into a worktree (dvc checkout)", _bring),
}


def _run(step: str, folder: Path, num: int) -> tuple[float, float]:
    """Seconds and peak MB of a step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.big_data", "--step", step, "--folder", str(folder), "--rows", str(num)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    return found["seconds"], found["mb"]


def _step(step: str, folder: Path, num: int) -> dict[str, float]:
    by_dvc = STEPS[step][1] in (_snapshot, _bring)
    if not by_dvc:
        import datasets  # noqa: F401  # seconds, whatever is read

    started = time.perf_counter()
    STEPS[step][1](folder, num)
    seconds = time.perf_counter() - started
    who = resource.RUSAGE_CHILDREN if by_dvc else resource.RUSAGE_SELF
    return {"seconds": seconds, "mb": resource.getrusage(who).ru_maxrss / 1024}


def _measure(num: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="sau-big-"))
    try:
        for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
            subprocess.run(command, cwd=folder, check=True)
        print(f"{num:,} rows, {num // 10:,} people")
        for step, (words, _) in STEPS.items():
            seconds, mb = _run(step, folder, num)
            print(f"  {words:38} {seconds:8.2f} s {mb:8.0f} MB", flush=True)
        files = [path for path in (folder / "data").rglob("*") if path.is_file()]
        print(f"  {len(files):,} files, {sum(path.stat().st_size for path in files) / 1e6:,.0f} MB", flush=True)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Print a table for each size, or (in a child) do one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(_step(args.step, args.folder, args.rows[0])))
        return
    for num in args.rows:
        _measure(num)


if __name__ == "__main__":
    main()
