"""Does the decoy ranking see one person, and how often does it see somebody who was never there?

    python -m benchmarks.decoy_power [--profile profiles/FILE.yaml] [--strangers 60] [--json result.json]

Two sparse models are made by the recipe of `sau bootstrap`: one trained on all 16 demo people, one on half of them.
Every person's 20 rows are then judged alone, as in a request of one person, by the check as `standard` has it.

* power: the 16 people, by the model that saw them all; each should FAIL
* retrained: the half that was left out, by the model that never saw them; none should FAIL
* false alarms: invented people whom neither model saw, by both models; none should FAIL, and raw p < 0.05 should happen
  about one time in twenty

Some five minutes of CPU time with the tiny model.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml

from sau.checkpoint.sparse import open_sparse
from sau.config import merge, read_yaml
from sau.data.demo import demo_people, demo_rows, write_demo_data
from sau.data.records import Row, load_records
from sau.models.language_model import LanguageModel
from sau.stages import CHECKPOINT, RECIPES, run
from sau.verify.checks.base import Bench, Evidence
from sau.verify.checks.decoy_rank import DecoyRankCheck
from sau.verify.evidence.decoys import find_secrets
from sau.verify.evidence.readings import sum_logps
from sau.verify.policy import Policy, load_policy

ROOT = Path(__file__).resolve().parents[1]


def trained(folder: Path, params: dict, left_out: Sequence[str]) -> LanguageModel:
    """The sparse model of the recipe on the demo people without those left out."""
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    write_demo_data(folder / "data")
    for person in left_out:
        (folder / "data" / "train" / f"{demo_people()[person]}.jsonl").unlink()
    for stage in RECIPES["bootstrap"]:
        print(f"  {stage}", flush=True)
        run(stage, folder)
    return open_sparse(folder / CHECKPOINT)


def read_decoys(lm: LanguageModel, rows: list[Row], retain: list[Row], holdout: list[Row], policy: Policy) -> Evidence:
    """What a model makes of the decoys of one person's rows."""
    secrets = find_secrets(rows, retain, holdout, num_decoys=policy.num_decoys, seed=0)
    texts = [{**rows[s.row], "answer": text} for s in secrets for text in (rows[s.row]["answer"], *s.decoys)]
    scores = np.split(sum_logps(lm, lm.encode(texts)), np.cumsum([1 + len(s.decoys) for s in secrets])[:-1])
    return Evidence({}, decoys=tuple(scores), exact=tuple(s.exact for s in secrets))


def judged(evidence: Evidence, policy: Policy, reference: Evidence | None = None) -> dict[str, float | str | int]:
    """The check's measurement of one person, by the policy's own decoy ranking.

    Args:
        reference: of the model that never saw the person, for decoys that are not exact.
    """
    check = next(c for c in policy.checks if isinstance(c, DecoyRankCheck))
    alpha = 1 - policy.confidence
    measured = check.measure(evidence, Bench(before=None, reference=reference, alpha=alpha, seed=0))
    fewest = min(len(scores) - 1 for scores in evidence.decoys)
    verdict = measured.verdict(measured.p, alpha)
    return {"rows": measured.n, "fewest_decoys": fewest, "place": measured.value, "p": measured.p, "verdict": verdict}


def summary(results: list[dict]) -> dict[str, float | int]:
    count = {v: sum(r["verdict"] == v for r in results) for v in ("FAIL", "INCONCLUSIVE", "PASS")}
    return {
        "people": len(results),
        **count,
        "p_below_0.05": sum(r["p"] < 0.05 for r in results) / len(results),
        "largest_p": max(r["p"] for r in results),
        "mean_place": float(np.mean([r["place"] for r in results])),
        "fewest_decoys": min(r["fewest_decoys"] for r in results),
    }


def print_table(result: dict[str, dict[str, float | int]]) -> None:
    """One line for each summary."""
    columns = list(next(iter(result.values())))
    print("\n| | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, persons in result.items():
        print(f"| {name} | " + " | ".join(f"{v:.4g}" for v in persons.values()) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", type=Path, help="a YAML file laid over params.yaml")
    parser.add_argument("--strangers", type=int, default=60, help="how many people no model saw")
    parser.add_argument("--json", type=Path, help="where every person's numbers go")
    options = parser.parse_args()
    params = read_yaml(ROOT / "params.yaml")
    if options.profile:
        params = merge(params, read_yaml(options.profile))
    started = time.process_time()
    with TemporaryDirectory(prefix="decoy-power-") as scratch:
        everyone = [f"demo-{number:04d}" for number in range(1, 17)]
        half = everyone[::2]
        print("trained on all 16 people")
        before = trained(Path(scratch) / "all", params, [])
        print("trained without 8 of them")
        retrained = trained(Path(scratch) / "half", params, half)
        data = Path(scratch) / "half" / "data"
        retain, holdout = (load_records(data / part).to_list() for part in ("train", "holdout"))
        shutil.rmtree(Path(scratch) / "all")

    policy = load_policy("standard")

    def each(lm: LanguageModel, people: Sequence[str]) -> list[dict]:
        ids = demo_people()
        others = {p: [row for row in retain if row["subject_id"] != ids.get(p)] for p in people}
        return [judged(read_decoys(lm, demo_rows(p, seed=1), others[p], holdout, policy), policy) for p in people]

    strangers = [f"stranger-{number}" for number in range(options.strangers)]
    found = {
        "power: seen, by the model that saw them": each(before, everyone),
        "retrained: left out, by the model without them": each(retrained, half),
        "false alarms: strangers, by the first model": each(before, strangers),
        "false alarms: strangers, by the second model": each(retrained, strangers),
    }
    result = {name: summary(persons) for name, persons in found.items()}
    print_table(result)
    print(f"\n{time.process_time() - started:.0f} s of CPU time")
    if options.json:
        options.json.write_text(json.dumps({"summary": result, "people": found}) + "\n")


if __name__ == "__main__":
    main()
