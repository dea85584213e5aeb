"""The benchmark flow: SAU against its rivals over a grid of cells, each an MLflow run below the benchmark's own.

Cells run in processes of their own, as many as torch would use threads here. A finished cell is a line of the JSONL
file beside the results; the next run of the same command reads it back instead of running it again.
"""

import json
import logging
import multiprocessing
import platform
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from sau.benchmark import (
    DEMO,
    UTILITY_FLOOR,
    Cell,
    Spec,
    compare,
    digest,
    frontier,
    grid,
    load_spec,
    markdown,
    models_digest,
    prepare,
    run_cell,
    side,
)
from sau.config import read_yaml
from sau.errors import ConfigError
from tasks.engines.orchestration import NO_CACHE, ThreadPoolTaskRunner, as_completed, flow, task
from tasks.engines.repository import git
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking

log = logging.getLogger("sau")
LINE = "benchmark"
MAX_PROCESSES = 8


def benchmark(
    size: str, json_file: Path, *, pattern: str = "*", num_seeds: int | None = None, data: str = DEMO
) -> dict[str, Any]:
    """Run a size of the benchmark, or the cells of it that match, and write the results.

    Args:
        size: a file of benchmarks/ by name: tiny, smollm2 or gpu.
        json_file: where the result goes; finished cells are kept beside it, with suffix .jsonl.
        pattern: of cell ids, objective/redistribution/pruner/sparsity/order/seed, with * and ?; several with commas.
        num_seeds: fewer or more than the size has.
        data: `demo`, or TOFU's folder or hub name.

    Returns:
        What `json_file` holds. The whole grid also gets a dated page and picture in benchmarks/results, a part of it
        has them beside `json_file`.

    Raises:
        ConfigError: an unknown size, or no cell matches.
        SauError: whatever a cell refuses; finished cells are kept.
    """
    spec = _spec(size, num_seeds)
    patterns = pattern.split(",")
    wanted = [cell for cell in grid(spec) if any(fnmatchcase(cell.id, one) for one in patterns)]
    if not wanted:
        raise ConfigError(f"--cells {pattern!r}: matches none of {len(grid(spec))} cells, such as {grid(spec)[-1].id}")
    json_file.parent.mkdir(parents=True, exist_ok=True)
    cells, references = _run(size, spec, wanted, data, json_file.with_suffix(".jsonl"))
    command = ["sau", "benchmark", "--size", size]
    command += ["--cells", f"'{pattern}'"] if pattern != "*" else []
    command += ["--seeds", str(num_seeds)] if num_seeds else []
    command += ["--data", Path(data).name] if data != DEMO else []
    result = {
        "command": " ".join([*command, "--json", json_file.name]),
        "size": size,
        "commit": _commit(),
        "cell_commits": sorted({cell["commit"] for cell in cells}),
        "hardware": _hardware(),
        "budget": _budget(spec, wanted),
        "cells": [{key: value for key, value in cell.items() if key not in ("runs", "informed")} for cell in cells],
        "references": references,
        "shipped": spec.shipped,
        **compare(cells, spec.shipped),
        "informed": compare([cell | cell["informed"] for cell in cells], spec.shipped)["ratio"],
    }
    json_file.write_text(_dump(result) + "\n", encoding="utf-8")
    date = datetime.now(UTC).date()
    whole = pattern == "*" and num_seeds is None
    target = settings().root / "benchmarks" / "results" / f"{date}-{size}" if whole else json_file.with_suffix("")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(f"{target.name}.md").write_text(markdown(result))
    frontier(cells, references, target)
    return result


def _spec(size: str, num_seeds: int | None) -> Spec:
    root = settings().root
    path = root / "benchmarks" / f"{size}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ConfigError(f"--size {size!r}: has to be one of {known}")
    spec = load_spec(path, read_yaml(root / "params.yaml"))
    return spec.model_copy(update={"num_seeds": num_seeds}) if num_seeds else spec


@flow(name="benchmark", flow_run_name="benchmark {size}", task_runner=ThreadPoolTaskRunner(max_workers=MAX_PROCESSES))  # type: ignore[arg-type]
def _run(
    size: str, spec: Spec, wanted: list[Cell], data: str, finished_file: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records of the wanted cells and of their references, those that are missing made first."""
    commit, models = _commit(), models_digest(spec, data)
    folder = settings().state / LINE / models[:12]
    names = {cell: f"references/{cell.pruner}/{cell.sparsity}/{cell.seed}" for cell in wanted}
    keys = {cell.id: digest(spec, data, cell) for cell in wanted} | dict.fromkeys(names.values(), models)
    lines = _whole_lines(finished_file)
    finished = {line["id"]: line["record"] for line in lines if line["key"] == keys.get(line["id"])}

    def keep(name: str, record: Any) -> None:
        # Through JSON, so that a record is the same whether it was run now or read back.
        line = _dump({"key": keys[name], "id": name, "record": record})
        with finished_file.open("a") as file:
            file.write(line + "\n")
        finished[name] = json.loads(line)["record"]

    tracking = Tracking()
    pending = [cell for cell in wanted if cell.id not in finished]
    log.info("benchmark %s: %d cells, %d finished before", size, len(wanted), len(wanted) - len(pending))
    with tracking.run(LINE, size, tags={"commit": commit}) as run_id, _processes(spec) as pool:
        tracking.params(run_id, spec.model_dump(exclude={"params"}))
        conditions = {
            seed: sorted({(c.pruner, c.sparsity) for c in wanted if c.seed == seed}, key=str)
            for seed in {cell.seed for cell in pending}
        }
        preparing = [
            prepare_seed.submit(pool, spec, data, seed, folder / f"seed-{seed}", conditions[seed])
            for seed in conditions
        ]
        running = []
        for prepared in as_completed(preparing):
            rows = prepared.result()
            for condition in dict.fromkeys((row["pruner"], row["sparsity"], row["seed"]) for row in rows):
                name = "/".join(map(str, ("references", *condition)))
                keep(name, [row for row in rows if (row["pruner"], row["sparsity"], row["seed"]) == condition])
            running += [  # those of a seed as soon as it is prepared
                measure_cell.submit(pool, spec, data, cell, folder / f"seed-{cell.seed}", run_id)
                for cell in pending
                if cell.seed == rows[0]["seed"]
            ]
        for number, measured in enumerate(as_completed(running), 1):
            record = measured.result() | {"commit": commit}
            keep(record["id"], record)
            log.info(
                "%d of %d: %s: distance %.3f, %.0f s",
                *(number, len(pending), record["id"], record["distance_to_retrain"], record["cell_seconds"]),
            )
    references = [row for name in dict.fromkeys(names.values()) for row in finished[name]]
    return [finished[cell.id] for cell in wanted], references


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; one that a killed run left unfinished at its end is cut off."""
    text = file.read_text() if file.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _processes(spec: Spec) -> ProcessPoolExecutor:
    """Fresh processes: an accelerator is for one, and a forked torch may hang."""
    number = 1 if torch.cuda.is_available() else torch.get_num_threads() // spec.params.num_threads
    return ProcessPoolExecutor(min(max(number, 1), MAX_PROCESSES), mp_context=multiprocessing.get_context("spawn"))


@task(name="prepare", task_run_name="prepare seed {seed}", cache_policy=NO_CACHE)
def prepare_seed(
    pool: ProcessPoolExecutor, spec: Spec, data: str, seed: int, folder: Path, conditions: list[tuple[str, Any]]
) -> list[dict[str, Any]]:
    """The models that a seed's cells share; returns the references' rows."""
    return pool.submit(prepare, spec, data, seed, folder, conditions).result()


@task(name="cell", task_run_name="{cell.id}", cache_policy=NO_CACHE)
def measure_cell(
    pool: ProcessPoolExecutor, spec: Spec, data: str, cell: Cell, folder: Path, run_id: str
) -> dict[str, Any]:
    """One cell in a process of its own, then recorded as an MLflow run; returns its record."""
    record = pool.submit(run_cell, spec, data, cell, folder).result()
    tracking = Tracking()
    condition = ("objective", "redistribution", "pruner", "sparsity", "order", "seed", "lr")
    numbers = {
        name: value
        for name, value in record.items()
        if name not in (*condition, "steps", "seconds", "runs", "informed")
    }
    with tracking.run(LINE, cell.id, parent=run_id, tags={"side": side(cell.redistribution)}) as step:
        tracking.params(step, {name: record[name] for name in condition})
        tracking.metrics(step, numbers | {"num_steps": record["steps"], "training_seconds": record["seconds"]})
    return {"id": cell.id, "side": side(cell.redistribution)} | record


def _budget(spec: Spec, cells: list[Cell]) -> dict[str, Any]:
    seeds = len({cell.seed for cell in cells})
    lrs = ", ".join(f"{lr:g}" for lr in spec.lrs)
    text = (
        f"Every method has the same budget: {spec.steps} steps with each of the learning rates {lrs}, falling linearly "
        f"to 0; of the runs that keep {UTILITY_FLOOR:.0%} of the retain rows' answer probability the one counts that "
        "brings forget rows nearest to where the product's calibration wants them and costs retain rows least. "
        f"{seeds} seed{'s' * (seeds > 1)}."
    )
    return {
        "lrs": spec.lrs,
        "steps": spec.steps,
        "batch_size": spec.params.unlearn.batch_size,
        "num_seeds": seeds,
        "num_cells": len(cells),
        "objectives": spec.objectives,
        "text": text,
    }


def _commit() -> str:
    """HEAD of the checkout, with `-dirty` where tracked files differ from it."""
    root = settings().root
    changed = git(root, "status", "--porcelain", "--untracked-files=no")
    return git(root, "rev-parse", "HEAD") + "-dirty" * bool(changed)


def _hardware() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.is_file() else []
    name = models[0].partition(":")[2].strip() if models else platform.machine()
    accelerator = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{accelerator}{len(models) or 1} x {name}, torch {torch.__version__}"


def _six_digits(text: str) -> float:
    return float(f"{float(text):.6g}")


def _dump(value: Any) -> str:
    """Compact JSON with six significant digits."""
    return json.dumps(json.loads(json.dumps(value), parse_float=_six_digits), separators=(",", ":"))
