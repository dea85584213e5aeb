"""Perplexity of SmolLM2-135M after each pruner: `python -m benchmarks.pruning [--json FILE]`.

Calibration and evaluation text are docstrings of the Python that runs this, from different files: English that lies
on every machine, and none of it in this repository. Nothing is recovered after pruning.
"""

import argparse
import ast
import copy
import json
import math
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sau.models.batches import Encoded
from sau.models.language_model import seeded
from sau.models.scoring import answer_logps
from sau.models.sources import SMOLLM2, ModelParams, base_model
from sau.pruners import PruneParams, prune

NUM_TOKENS = 512
NUM_CALIBRATION, NUM_EVALUATION = 16, 4
PRUNERS = ("magnitude", "wanda", "sparsegpt")
STRUCTURES = (("unstructured", 0.5), ("4:8", 0.5), ("2:4", 0.5), ("unstructured", 0.7))


def documentation(tokenizer: Any, *, calibration: bool, num_sequences: int) -> list[Encoded]:
    """Sequences of NUM_TOKENS from the standard library's docstrings; calibration and evaluation share no file."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[0 if calibration else 1 :: 2]
    sequences: list[Encoded] = []
    left: list[int] = []
    for text in _docstrings(files):
        left += tokenizer(text + "\n\n", add_special_tokens=False)["input_ids"]
        while len(left) >= NUM_TOKENS and len(sequences) < num_sequences:
            sequences.append(Encoded(tuple(left[:NUM_TOKENS]), prompt_length=1))
            left = left[NUM_TOKENS:]
    if len(sequences) < num_sequences:
        raise SystemExit(f"the standard library has docstrings for {len(sequences)} sequences, not {num_sequences}")
    return sequences


def _docstrings(files: Sequence[Path]) -> Iterator[str]:
    """Every docstring that is long enough to be prose."""
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 300:
                    yield text


def perplexity(model: Any, sequences: Sequence[Encoded]) -> float:
    """exp of the mean loss per token, each sequence's first token given."""
    logps = torch.cat(answer_logps(model, sequences, batch_size=1))
    return math.exp(-float(logps.double().mean()))


def measure(pruner: str, structure: str, sparsity: float, *, dense: Any) -> dict[str, Any]:
    """One row of the table; `dense` stays as it is."""
    lm = copy.deepcopy(dense)
    calibration = documentation(lm.tokenizer, calibration=True, num_sequences=NUM_CALIBRATION)
    start = time.process_time()
    prune(lm, calibration, PruneParams(pruner=pruner, structure=structure, sparsity=sparsity))
    cpu_s = time.process_time() - start
    evaluation = documentation(lm.tokenizer, calibration=False, num_sequences=NUM_EVALUATION)
    return {
        "pruner": pruner,
        "structure": structure,
        "sparsity": sparsity,
        "perplexity": perplexity(lm.model, evaluation),
        "cpu_s": cpu_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    args = parser.parse_args()
    with seeded(0, num_threads=1):
        dense = base_model(ModelParams(source=SMOLLM2), seed=0)
        evaluation = documentation(dense.tokenizer, calibration=False, num_sequences=NUM_EVALUATION)
        rows: list[dict[str, Any]] = [{"pruner": "dense", "perplexity": perplexity(dense.model, evaluation)}]
        print(f"dense: perplexity {rows[0]['perplexity']:.1f}\n")
        print("| pruner | structure | sparsity | perplexity | CPU seconds |\n|---|---|---|---|---|")
        for structure, sparsity in STRUCTURES:
            for pruner in PRUNERS:
                row = measure(pruner, structure, sparsity, dense=dense)
                rows.append(row)
                print(
                    f"| {pruner} | {structure} | {sparsity:.0%} | {row['perplexity']:.1f} | {row['cpu_s']:.0f} |",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
