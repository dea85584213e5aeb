"""Our pruners beside llmcompressor's oneshot: CPU seconds, peak memory, and what either did to the model.

    python -m venv PEER && PEER/bin/pip install torch==2.13.0
    PEER/bin/pip install 'llmcompressor==0.14.*' 'transformers<=5.17' torch==2.13.0
    python -m benchmarks.peer_llmcompressor PEER/bin/python --json FILE

SmolLM2-135M, float32, 50%, the same 32 x 512 calibration tokens, one thread each, one after the other.
llmcompressor needs an older transformers than this project, hence its own environment. Each side is a child process
that opens the same folder, prunes, notes its own clock and peak memory, and only then writes the pruned matrices for
the parent. "Same mask" is no test of correctness: llmcompressor takes the statistics of a whole block while it is
dense, we take each layer's on the inputs that the pruned layers before it give.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

METHODS = ("wanda", "sparsegpt")
SPARSITY = 0.5
NUM_CALIBRATION = 32
ROOT = Path(__file__).resolve().parent.parent


# -- children -------------------------------------------------------------------------------------


def ours(method: str, folder: Path, tokens: list[list[int]]) -> tuple[Any, Callable[[], Any]]:
    from sau.models.batches import Encoded
    from sau.models.dense import open_dense
    from sau.pruners import PruneParams, prune

    lm = open_dense(folder, prompt="{question}")
    sequences = [Encoded(tuple(ids), prompt_length=1) for ids in tokens]
    return lm.model, lambda: prune(lm, sequences, PruneParams(pruner=method, sparsity=SPARSITY))


def peer(method: str, folder: Path, tokens: list[list[int]]) -> tuple[Any, Callable[[], Any]]:
    import torch
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = [
        {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), dtype=torch.int64)} for ids in tokens
    ]
    modifier = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[method]
    recipe = modifier(sparsity=SPARSITY, ignore=["re:.*lm_head"])
    loader = DataLoader(rows, batch_size=1)
    return model, lambda: oneshot(model=model, dataset=loader, recipe=recipe, pipeline="sequential")


def child(side: str, method: str, work: Path) -> None:
    """Prune once, and write measurements and matrices below `work`."""
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    tokens = json.loads((work / "tokens.json").read_text())
    model, run = {"ours": ours, "peer": peer}[side](method, work / "model", tokens)
    start = time.process_time()
    run()
    result = {
        "cpu_s": time.process_time() - start,
        "process_cpu_s": time.process_time(),
        "peak_mb": _peak_mb(),
    }
    (work / f"{side}-{method}.json").write_text(json.dumps(result))
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items() if "_proj" in k},
        work / f"{side}-{method}.safetensors",
    )


def _peak_mb() -> float:
    """Of this program alone: `ru_maxrss` begins with what the parent held when it started this child."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


# -- parent ---------------------------------------------------------------------------------------


def compare(peer_python: str, work: Path) -> list[dict[str, Any]]:
    """One row per method and side."""
    from safetensors.torch import load_file

    from benchmarks.pruning import NUM_EVALUATION, documentation, perplexity
    from sau.models.dense import save_dense
    from sau.models.language_model import seeded
    from sau.models.sources import SMOLLM2, ModelParams, base_model

    lm = base_model(ModelParams(source=SMOLLM2), seed=0)
    save_dense(lm, work / "model")
    calibration = documentation(lm.tokenizer, calibration=True, num_sequences=NUM_CALIBRATION)
    evaluation = documentation(lm.tokenizer, calibration=False, num_sequences=NUM_EVALUATION)
    (work / "tokens.json").write_text(json.dumps([s.input_ids for s in calibration]))
    rows = []
    for method in METHODS:
        masks = {}
        for side, python in (("ours", sys.executable), ("peer", peer_python)):
            if not (work / f"{side}-{method}.json").exists():
                _run(python, side, method, work)
            weights = load_file(work / f"{side}-{method}.safetensors")
            masks[side] = {name: weight != 0 for name, weight in weights.items()}
            lm.model.load_state_dict(weights, strict=False)
            with seeded(0, num_threads=1):
                row = {"method": method, "side": side, "perplexity": perplexity(lm.model, evaluation)}
            rows.append(row | json.loads((work / f"{side}-{method}.json").read_text()))
        same = sum(int((masks["ours"][n] == m).sum()) for n, m in masks["peer"].items())
        rows[-2]["same_mask_share"] = same / sum(m.numel() for m in masks["peer"].values())
        rows[-2]["cpu_ratio"] = rows[-2]["cpu_s"] / rows[-1]["cpu_s"]
        rows[-2]["memory_ratio"] = rows[-2]["peak_mb"] / rows[-1]["peak_mb"]
    return rows


def _run(python: str, side: str, method: str, work: Path) -> None:
    """The child's own log stays out of the way; it is shown where the child fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [python, __file__, "--child", side, method, str(work)]
    done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} {method}: exit {done.returncode}\n{done.stderr[-4000:]}")


COLUMNS = {
    "method": "",
    "side": "",
    "cpu_s": ".1f",
    "process_cpu_s": ".1f",
    "peak_mb": ".0f",
    "perplexity": ".2f",
    "cpu_ratio": ".3f",
    "memory_ratio": ".3f",
    "same_mask_share": ".4f",
}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer_python", type=Path, help="the Python of an environment with llmcompressor")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--work", type=Path, help="a folder to keep; sides measured there are not run again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = compare(str(args.peer_python.absolute()), (args.work or Path(scratch)).resolve())
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for row in rows:
        print("| " + " | ".join(format(row[key], form) if key in row else "" for key, form in COLUMNS.items()) + " |")
    if args.json:
        args.json.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
