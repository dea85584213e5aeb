"""Are the two nulls right, and do they agree? People one by one, on models that know more and less of them.

    python -m benchmarks.nulls [--people 40] [--rows 20] [--json benchmarks/results/nulls.json]
    python -m benchmarks.nulls --tofu ../shared/data/tofu --people 20 --device auto    # SmolLM2, better on a GPU

Tiny models made here, or SmolLM2 by its profile: `before` was trained on everybody; `retrained` and `retrained-again`
never saw the people in question (another order of the rest); `unlearned` has forgotten all of them in one run of the
parameters, and weights between it and `before` know more and more; `taught` is `retrained`, trained on everybody for
some epochs. Each person is judged by the checks of policy `standard` that read what the model as it is makes of rows
(no decoys, samples or stressors), once beside 24 strangers, `population`, and once beside `retrained`. What is left of
a person is the residual share beside both retrained models; with `--rows 3` each asks with three, the share is of all.

Prints, per model, how often each null passes, does not tell and fails, and the goals: PASS where .4 or more is left in
at most 2%, no PASS for a perfect model in at most 10%, and agreement where both nulls decide in at least 95%; all but
`taught`, of whom strangers are known better as well, count for them.
"""

import argparse
import copy
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sau.config import checked, merge, read_yaml
from sau.data.demo import demo_rows
from sau.data.records import Row
from sau.data.sets import Sets
from sau.data.tofu import load_tofu
from sau.models.language_model import LanguageModel
from sau.models.sources import TINY, base_model
from sau.params import Params
from sau.pruners import prune
from sau.training.finetune import FinetuneParams, adapted, finetune
from sau.training.pretrain import pretrain
from sau.unlearn.unlearn import unlearn
from sau.verify.checks.base import Bench, Check, Evidence, Measure, NoPowerError, NothingToShowError, Null
from sau.verify.checks.people import PeopleCheck
from sau.verify.evidence.cost import Cost
from sau.verify.evidence.readings import read
from sau.verify.findings import finding_of
from sau.verify.metrics.base import token_means
from sau.verify.policy import load_policy
from sau.verify.record import Finding
from sau.verify.verdict import conclude

ROOT = Path(__file__).resolve().parents[1]
NUM_STAY, NUM_STRANGERS, ROWS = 12, 24, 20
MIXES = (0.25, 0.5, 0.75)
TAUGHT_EPOCHS = (1, 8)
DECIDED = ("PASS", "FAIL")


def people(kind: str, number: int) -> list[Row]:
    """Rows of invented people who are in no other data set."""
    return [row for i in range(number) for row in demo_rows(f"nulls-{kind}-{i}", seed=1)]


def authors(folder: str, number: int) -> tuple[list[Row], list[Row], list[Row], list[Row]]:
    """TOFU's rows as those who ask, stay, judge and calibrate."""
    train, unseen = load_tofu(
        folder, forget="forget10", num_retain=NUM_STAY * ROWS, num_holdout=2 * NUM_STRANGERS * ROWS
    )
    bound = NUM_STRANGERS * ROWS
    return train[: number * ROWS], train[-NUM_STAY * ROWS :], unseen[:bound], unseen[bound:]


def models(params: Params, asked: list[Row], stay: list[Row], calibrate: list[Row]) -> dict[str, LanguageModel]:
    """By name; all sparse but `base`, which is adapted to those who stay."""
    assert params.unlearn.adapt is not None
    base = base_model(params.model, seed=params.seed)
    if params.model.source == TINY:
        pretrain(base, params.model.tiny, seed=params.seed, num_threads=params.num_threads)

    def made(rows: list[Row], seed: int) -> LanguageModel:
        lm = copy.deepcopy(base)
        finetune(lm, lm.encode(rows), params.train, seed=seed, num_threads=params.num_threads)
        prune(lm, lm.encode(rows[: params.prune.calibration_rows]), params.prune)
        finetune(lm, lm.encode(rows), params.recover, seed=seed + 1, num_threads=params.num_threads)
        return lm

    found = {"before": made([*stay, *asked], 0), "retrained": made(stay, 0), "retrained-again": made(stay, 7)}
    found["unlearned"] = copy.deepcopy(found["before"])
    sets = Sets(asked, stay, calibrate)
    params = params.model_copy(update={"unlearn": params.unlearn.model_copy(update={"paraphrases": False})})
    unlearn(found["unlearned"], sets, params.unlearn, seed=0, base=base, num_threads=params.num_threads)
    for share in MIXES:
        lm = found[f"{share:.2f} of before, rest unlearned"] = copy.deepcopy(found["unlearned"])
        with torch.no_grad():
            for mine, its in zip(lm.model.parameters(), found["before"].model.parameters(), strict=True):
                mine.lerp_(its, share)
    for epochs in TAUGHT_EPOCHS:
        lm = found[f"taught {epochs}"] = copy.deepcopy(found["retrained"])
        how = FinetuneParams(epochs=epochs, lr=params.recover.lr, batch_size=16)
        finetune(lm, lm.encode([*stay, *asked]), how, seed=3, num_threads=params.num_threads)
    found["base"] = adapted(base, base.encode(stay), params.unlearn.adapt, seed=0, num_threads=params.num_threads)
    return found


def judged(
    checks: Sequence[Check],
    roles: dict[str, Evidence],
    base: Evidence,
    who: dict[str, list[int]],
    null: Null,
    alpha: float,
) -> str:
    """The verdict of the checks on one person, as a policy concludes."""
    before, reference = roles["before"], roles["reference"]
    beside = reference if null == "retrained" else None
    bench = Bench(before, beside, alpha, 0, reference_as_stored=beside, null=null, base=base, people=who, widest=0.9)
    return conclude([finding(check, roles, bench) for check in checks])[0]


def finding(check: Check, roles: dict[str, Evidence], bench: Bench) -> Finding:
    """One check's finding on one person."""
    measures: dict[str, Measure] = {}
    trouble, applies = "", True
    for role, evidence in roles.items():
        if role != "reference" or bench.reference is not None:
            try:
                measures[role] = check.measure(evidence, bench)
            except NoPowerError as error:
                trouble = str(error)
            except NothingToShowError as error:
                trouble, applies = str(error), False
    return finding_of(
        check,
        measures,
        stressor=None,
        trouble=trouble,
        applies=applies,
        p=measures["unlearned"].p if "unlearned" in measures else 1.0,
        alpha=bench.alpha,
        null=bench.null,
        cost=Cost(),
    )


def main() -> None:
    """Make the models, judge everybody, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=40, help="of TOFU at most 20")
    parser.add_argument("--tofu", help="TOFU's folder: SmolLM2 and its authors instead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=ROWS, choices=range(1, ROWS + 1), help="so many of each person's")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    profile = read_yaml(ROOT / "profiles" / "smollm2.yaml") if args.tofu else {}
    more = {"unlearn": {"max_steps": 400}} if args.tofu else {}
    params = checked(
        Params,
        merge(merge(read_yaml(ROOT / "params.yaml"), profile), {"model": {"device": args.device}} | more),
        "parameters",
    )
    torch.set_num_threads(params.num_threads)
    numbers = {"asked": args.people, "stay": NUM_STAY, "strangers": NUM_STRANGERS, "calibrate": NUM_STRANGERS}
    asked, stay, strangers, calibrate = (
        authors(args.tofu, args.people) if args.tofu else [people(*kind) for kind in numbers.items()]
    )
    policy = load_policy("standard")
    checks = [check for check in policy.checks if isinstance(check, PeopleCheck)]
    parts = frozenset().union(*(check.needs for check in checks))
    evidence = {}
    for name, lm in models(params, asked, stay, calibrate).items():
        sets = {"forget": asked, "retain": stay, "holdout": strangers}
        evidence[name] = Evidence(
            {s: read(lm, rows, parts if s != "retain" else frozenset()) for s, rows in sets.items()}
        )
        print(f"read {name}", flush=True)
    base = evidence.pop("base")
    means = {name: token_means(e.readings["forget"]).reshape(-1, ROWS).mean(1) for name, e in evidence.items()}
    floor = (means["retrained"] + means["retrained-again"]) / 2
    stays = {"retain": [i // ROWS for i in range(len(stay))], "holdout": [i // ROWS for i in range(len(strangers))]}
    who = {"forget": [0] * args.rows, **stays}
    cells = []
    for name in (name for name in evidence if name != "retrained"):
        for person in range(args.people):
            rows = list(range(person * ROWS, person * ROWS + args.rows))
            given = {"unlearned": name, "before": "before", "reference": "retrained"}
            roles = {role: evidence[which].asked_by(rows) for role, which in given.items()}
            alone = base.asked_by(rows)
            alpha = 1 - policy.confidence
            nulls: tuple[Null, ...] = ("population", "retrained")
            verdicts = {null: judged(checks, roles, alone, who, null, alpha) for null in nulls}
            left = (means[name][person] - floor[person]) / (means["before"][person] - floor[person])
            others = round(float(token_means(evidence[name].readings["holdout"]).mean()), 3)
            cell = {"model": name, "person": person, "residual": round(float(left), 4), "strangers": others}
            cells.append(cell | verdicts)
    print(report(cells))
    if args.json:
        args.json.write_text(json.dumps(cells, separators=(",", ":")) + "\n", encoding="utf-8")


def report(cells: list[dict[str, Any]]) -> str:
    """The table by model, and the goals."""
    lines = [
        "| model | residual | strangers' log p | beside people: PASS / ? / FAIL | beside a retrained model |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(cell["model"] for cell in cells):
        own = [cell for cell in cells if cell["model"] == name]
        counts = [Counter(cell[null] for cell in own) for null in ("population", "retrained")]
        said = [f"{c['PASS']} / {c['INCONCLUSIVE']} / {c['FAIL']}" for c in counts]
        residual = np.mean([cell["residual"] for cell in own])
        lines.append(f"| {name} | {residual:.2f} | {own[0]['strangers']:.2f} | {' | '.join(said)} |")
    # A model that is taught more is another model to strangers, too: what is left is no share of what had been learned.
    counted = [cell for cell in cells if not cell["model"].startswith("taught")]
    known = [cell for cell in counted if cell["residual"] >= 0.4]
    clean = [cell for cell in cells if cell["model"] == "retrained-again"]
    both = [cell for cell in counted if cell["population"] in DECIDED and cell["retrained"] in DECIDED]
    wrong = sum(cell["population"] == "PASS" for cell in known)
    missed = sum(cell["population"] != "PASS" for cell in clean)
    agree = sum(cell["population"] == cell["retrained"] for cell in both)
    return "\n".join(
        [
            *lines,
            "",
            f"PASS beside people where .4 or more is left: {wrong} of {len(known)} (goal: at most 2%)",
            f"no PASS beside people for a model that never saw them: {missed} of {len(clean)} (goal: at most 10%)",
            f"the nulls agree where both decide: {agree} of {len(both)} (goal: at least 95%)",
        ]
    )


if __name__ == "__main__":
    main()
