"""The plan beside the peak: what two steps of unlearning take, with batches in parts and blocks run again.

    python -m benchmarks.memory [--layers 30] [--row-tokens 128] [--batch-size 8] [--json FILE]

SmolLM2-135M's shape (or its first `--layers` blocks) with random weights, half of them pruned, float32, objective npo,
no redistribution, no base model. Each setting runs in a process of its own, whose peak (ru_maxrss) is put beside what
`sau plan` would say; the loss of the second step shows that it is the same training.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from sau.checkpoint.sparse import open_sparse, save_sparse
from sau.cli.stage import peak_bytes
from sau.data.sets import Sets
from sau.models.dense import model_from_state
from sau.models.language_model import LanguageModel
from sau.models.placement import Placement
from sau.models.sources import ModelParams, TinyParams, base_model
from sau.pruners import PruneParams, prune
from sau.unlearn.memory import Case, plan_memory, shell_of
from sau.unlearn.step import UnlearnParams
from sau.unlearn.unlearn import unlearn

SHAPE = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
    "num_key_value_heads": 3, "tie_word_embeddings": True, "bos_token_id": None,
}  # fmt: skip
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"micro_batch": 2},
    {"gradient_checkpointing": True},
    {"micro_batch": 2, "gradient_checkpointing": True},
)


def _params(batch_size: int) -> UnlearnParams:
    fields = {"objective": "npo", "redistribution": "none", "lr": 1e-5, "max_steps": 2, "stop": None}
    return UnlearnParams.model_validate(fields | {"batch_size": batch_size})


def _make(folder: Path, layers: int) -> None:
    tokenizer = base_model(ModelParams(tiny=TinyParams()), seed=0).tokenizer
    config = LlamaConfig(**SHAPE, num_hidden_layers=layers, eos_token_id=tokenizer.eos_token_id)
    torch.manual_seed(0)
    state = {name: torch.randn(value.shape) * 0.02 for name, value in shell_of(config).state_dict().items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    lm = LanguageModel(model_from_state(config, state), tokenizer, "{question}")
    prune(lm, [], PruneParams.model_validate({"pruner": "magnitude"}))
    save_sparse(lm, folder, structure="unstructured")


def _rows(lm: LanguageModel, row_tokens: int, number: int) -> list[dict[str, Any]]:
    """Rows of about so many tokens, four tenths of them the question's."""
    words = [f" box {n}" for n in range(500)]
    per_word = len(lm.tokenizer("".join(words))["input_ids"]) / len(words)
    asked, said = (round(row_tokens * share / per_word) for share in (0.4, 0.6))
    return [
        {"record_id": f"r{n}", "question": "".join(words[n : n + asked]), "answer": "".join(words[n + 99 :][:said])}
        for n in range(number)
    ]


def _run(folder: Path, row_tokens: int, batch_size: int, placed: dict[str, Any]) -> dict[str, Any]:
    lm = Placement(**placed).put(open_sparse(folder))
    rows = _rows(lm, row_tokens, 3 * batch_size)
    sets = Sets(rows[:batch_size], rows[batch_size : 2 * batch_size], rows[2 * batch_size :])
    losses: list[float] = []
    started = time.monotonic()
    unlearn(
        lm, sets, _params(batch_size), seed=0, num_threads=1, watch=False,
        progress=lambda _step, _total, values: losses.append(values["loss"]),
    )  # fmt: skip
    length = sum(len(one.input_ids) for one in lm.encode(rows)) / len(rows)
    return {"measured": peak_bytes(), "row_tokens": length, "loss": losses[-1], "s": time.monotonic() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--row-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(_run(Path(args.child[0]), args.row_tokens, args.batch_size, json.loads(args.child[1]))))
        return
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        _make(folder, args.layers)
        shell = shell_of(LlamaConfig(**SHAPE, num_hidden_layers=args.layers))
        again = [sys.executable, "-m", "benchmarks.memory", "--row-tokens", str(args.row_tokens)]
        again += ["--batch-size", str(args.batch_size), "--child", str(folder)]
        print("| setting | planned GB | measured GB | ratio | loss of step 2 | s |\n|---|---|---|---|---|---|")
        for placed in SETTINGS:
            one = json.loads(subprocess.run([*again, json.dumps(placed)], check=True, capture_output=True).stdout)
            case = Case(_params(args.batch_size), has_base=False, row_tokens=round(one["row_tokens"]), **placed)
            one |= {"setting": placed, "planned": plan_memory(shell, case).peak}
            found.append(one)
            name = ", ".join(f"{key} {value}".lower() for key, value in placed.items()) or "none"
            planned, measured = one["planned"] / 1e9, one["measured"] / 1e9
            ratio, loss = planned / measured, one["loss"]
            print(
                f"| {name} | {planned:.2f} | {measured:.2f} | {ratio:.2f} | {loss:.6f} | {one['s']:.0f} |", flush=True
            )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
