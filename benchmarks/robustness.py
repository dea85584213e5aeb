"""Does redistribution earn its place? How much comes back when the shipped model is rounded, pruned on, or retaught.

    python -m benchmarks.robustness --results benchmarks/results/tiny.json --folder .sau/benchmark/... --json OUT.json

Takes the calibrated cells of a finished `sau benchmark --size tiny`, trains each again with its best learning rate up
to its best step, and reads the forget rows as shipped and after int4 rounding, 10 and 20 points more pruning, and
relearning from 20 of them. The retrained model goes through the same: what comes back is the excess over it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from sau import benchmark
from sau.benchmark import Cell, measure, read
from sau.config import read_yaml
from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel, seeded
from sau.verify.stressors.base import Stressor, Surroundings
from sau.verify.stressors.prune_further import PruneFurther
from sau.verify.stressors.relearn import Relearn
from sau.verify.stressors.round_weights import RoundWeights

ROOT = Path(__file__).resolve().parents[1]
STRESSORS: tuple[Stressor, ...] = (
    RoundWeights(bits=4), PruneFurther(points=10), PruneFurther(points=20), Relearn(rows=20, epochs=5, lr=1e-3),
)  # fmt: skip


def main() -> None:
    """Run every cell and print means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "tiny.json")
    parser.add_argument("--folder", type=Path, required=True, help="where the benchmark left seed-0, seed-1, ...")
    parser.add_argument("--order", default="prune-unlearn")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    spec = benchmark.load_spec(ROOT / "benchmarks" / "tiny.yaml", read_yaml(ROOT / "params.yaml"))
    cells = [
        cell
        for cell in json.loads(args.results.read_text())["cells"]
        if cell["objective"] == "calibrated" and cell["order"] == args.order
    ]
    found = [come_back(spec, cell, args.folder / f"seed-{cell['seed']}") for cell in cells]
    if args.json:
        args.json.write_text(json.dumps(found) + "\n")
    names = ["as shipped", *(stressor.id for stressor in STRESSORS)]
    print("| sparsity | method |", " | ".join(names), "|")
    for place in dict.fromkeys((row["sparsity"], row["redistribution"]) for row in found):
        rows = [row for row in found if (row["sparsity"], row["redistribution"]) == place]
        print("|", " | ".join([*map(str, place), *(f"{np.mean([row[n] for row in rows]):+.3f}" for n in names)]), "|")


def come_back(spec: benchmark.Spec, record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A cell's forget probability minus the retrained model's, as shipped and under every stressor."""
    cell = Cell(*(record[name] for name in ("objective", "redistribution", "pruner", "sparsity", "order", "seed")))
    rows = benchmark.load_rows(spec, benchmark.DEMO, cell.seed)
    with seeded(cell.seed, spec.params.num_threads):
        original, retrained = (
            benchmark.reference(folder, name, spec, rows, cell.pruner, cell.sparsity, cell.seed)
            for name in ("original", "retrained")
        )
        sets = benchmark.encoded(original, rows)
        base = benchmark.adapted_base(folder, spec.params.model)
        shipped, _ = benchmark.run_method(spec, cell, folder, rows, original, base, record["lr"])
        around = Surroundings(rows["forget"], (), rows["retain"], None, cell.seed)
        result = {"as shipped": excess(shipped, retrained, sets)}
        for stressor in STRESSORS:
            pair = (stressor.apply(lm, around) for lm in (shipped, retrained))
            result[stressor.id] = excess(*pair, sets)
    return {name: record[name] for name in ("redistribution", "sparsity", "seed", "lr", "steps")} | result


def excess(lm: LanguageModel, control: LanguageModel, sets: dict[str, list[Encoded]]) -> float:
    """Forget probability of one model minus that of the other."""
    return measure(read(lm, sets)).forget_prob - measure(read(control, sets)).forget_prob


if __name__ == "__main__":
    main()
