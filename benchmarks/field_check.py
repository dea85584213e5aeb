"""Does the battery tell the truth on a real model? SmolLM2 on TOFU, unlearned in five ways, beside the retrained one.

    python -m benchmarks.field_check --data TOFU_FOLDER --people 2 --folder WORK --json OUT.json

Prepares `original` and `retrained` (trained, pruned, recovered) as `sau benchmark --size smollm2` does, unlearns the
original by grad_ascent, grad_diff and npo as they are usually run (a fixed number of steps, survivors only) and by SAU
(calibrated, its own stop, two redistributions), and gives every model to the battery as the candidate. The candidate
that has to pass is `retrained-again`, trained without the rows in another order: `retrained` itself is the reference,
and would be compared with itself. With `--alone` there is no battery, only the decoy ranking, of one person at a time.

What is there already is kept, so a run that was cut off goes on; base and retrained models, which do not depend on the
forget rows, may be copied from the folder of another number of people. Training multiplies in bfloat16 (autocast;
weights and optimizer stay float32), the battery reads in float32.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.decoy_power import judged, print_table, read_decoys, summary
from sau import benchmark
from sau.checkpoint.manifest import read_manifest
from sau.checkpoint.sparse import open_model, save_sparse
from sau.config import read_yaml
from sau.data.sets import Sets
from sau.models.language_model import seeded
from sau.models.sources import ModelParams
from sau.unlearn.unlearn import UnlearnParams, unlearn
from sau.verify import Controls, load_policy, verify_each
from sau.verify.checks.base import Evidence
from sau.verify.report.page import render_html

ROOT = Path(__file__).resolve().parents[1]
PRUNER, SPARSITY, SEED = "wanda", 0.5, 0
USUAL = {"redistribution": "none", "lr": 4e-5, "batch_size": 8, "stop": None}
SAU: dict[str, Any] = {
    "objective": "calibrated",
    "lr": 4e-5,
    "batch_size": 8,
    "alpha": 3.0,
    "stop": {"eval_every": 5, "margin_nats": 0.05},
}
METHODS: dict[str, dict[str, Any]] = {
    "grad_ascent": USUAL | {"objective": "grad_ascent"},
    "grad_diff": USUAL | {"objective": "grad_diff"},
    "npo": USUAL | {"objective": "npo", "alpha": 2.0},
    "sau": SAU | {"redistribution": "importance"},
    "sau-natural": SAU | {"redistribution": {"name": "natural", "num_iterations": 2}},
}


def main() -> None:
    """Make what is missing, judge every candidate, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--people", type=int, default=2, help="2, 10 or 20: forget01, forget05, forget10")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--policy", default=str(ROOT / "benchmarks" / "policies" / "field_check.yaml"))
    parser.add_argument("--max-retain-rows", type=int, default=40)
    parser.add_argument("--steps", type=int, default=25, help="of grad_ascent, grad_diff, npo")
    parser.add_argument("--max-steps", type=int, default=60, help="of SAU, which stops by itself")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-unlearn", action="store_true")
    parser.add_argument("--candidates", nargs="*", help="only these, such as original sau; default: all")
    parser.add_argument("--alone", action="store_true", help="only the decoy ranking, of one person at a time")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    spec = benchmark.load_spec(ROOT / "benchmarks" / "smollm2.yaml", read_yaml(ROOT / "params.yaml"))
    params = spec.params.model_copy(update={"num_threads": args.threads})
    spec = spec.model_copy(update={"num_forget": args.people, "params": params})
    rows = benchmark.load_rows(spec, args.data, SEED)
    wanted = {"retrained", *(args.candidates or (*benchmark.REFERENCES, *METHODS))}
    # Without the cache: it would keep the weights of the first step until the end.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        sources = references(spec, args) | {
            name: unlearned(name, settings, args, rows) for name, settings in METHODS.items() if name in wanted
        }
    if args.alone:
        alone(args, rows, {name: folder for name, folder in sources.items() if name in wanted})
    elif not args.only_unlearn:
        judge(args, rows, sources, wanted)


def references(spec: benchmark.Spec, args: argparse.Namespace) -> dict[str, Path]:
    """Folders of the sparse models before unlearning and without the forget rows."""
    benchmark.prepare(spec, args.data, SEED, args.folder, [(PRUNER, SPARSITY)])
    return {name: args.folder / f"{name}-{PRUNER}-{SPARSITY}" for name in benchmark.REFERENCES}


def unlearned(name: str, settings: dict[str, Any], args: argparse.Namespace, rows: Sets) -> Path:
    """Folder of the original unlearned by one method."""
    folder = args.folder / f"unlearned-{name}"
    if not folder.exists():
        lm = open_model(args.folder / f"original-{PRUNER}-{SPARSITY}")
        history = unlearn(
            lm,
            rows,
            UnlearnParams(max_steps=args.max_steps if settings["stop"] else args.steps, **settings),
            seed=SEED,
            base=benchmark.adapted_base(args.folder, ModelParams(prompt=lm.prompt, device="auto")),
            num_threads=args.threads,
            progress=lambda step, total, values: print(f"{name} {step}/{total} {values['loss']:.3f}", flush=True),
        )
        print(json.dumps(history.as_dict()), flush=True)
        save_sparse(lm, folder, structure="unstructured")
    return folder


def judge(args: argparse.Namespace, rows: Sets, sources: dict[str, Path], wanted: set[str]) -> None:
    """The verdict of every candidate wanted, beside the same two controls."""
    found: list[dict[str, Any]] = []
    controls = {name: partial(open_model, sources[name]) for name in ("original", "retrained")}
    candidates = {name: folder for name, folder in sources.items() if name != "retrained" and name in wanted}
    with seeded(SEED, args.threads):
        results = verify_each(
            candidates=[
                (partial(open_model, folder), read_manifest(folder).weights_digest) for folder in candidates.values()
            ],
            sets=replace(rows, retain=rows.retain[: args.max_retain_rows]),
            controls=Controls(controls["original"], controls["retrained"]),
            policy=load_policy(args.policy, null="retrained"),
            seed=SEED,
        )
        for name, result in zip(candidates, results, strict=True):
            found.append({"candidate": name} | result.to_json())
            (args.folder / f"report-{name}.html").write_text(render_html(result, title=f"TOFU, {name}", facts={}))
            print(name, result.verdict, flush=True)
            print(*(f"  {c.id} {c.value} {c.verdict}" for c in result.checks), sep="\n", flush=True)
            if args.json:
                args.json.write_text(json.dumps(found) + "\n")


def alone(args: argparse.Namespace, rows: Sets, sources: dict[str, Path]) -> None:
    """Does the decoy ranking see each person of the forget set alone in the original, and not in retrained-again?"""
    policy = load_policy(args.policy, null="retrained")
    people = {row["subject_id"]: [other for other in rows["forget"] if other["subject_id"] == row["subject_id"]]
              for row in rows["forget"]}  # fmt: skip
    evidence: dict[str, dict[str, Evidence]] = {}
    with seeded(SEED, args.threads):
        for name, folder in sources.items():
            lm = open_model(folder)
            others = (rows["retain"], rows["holdout"], policy)
            evidence[name] = {person: read_decoys(lm, persons, *others) for person, persons in people.items()}
    found = {
        name: [judged(seen, policy, evidence["retrained"][person]) for person, seen in persons.items()]
        for name, persons in evidence.items()
        if name != "retrained"
    }
    print_table({name: summary(persons) for name, persons in found.items()})
    if args.json:
        args.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
