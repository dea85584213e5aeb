"""Twenty requests, one after the other: does everybody stay forgotten?

    python -m benchmarks.sequence [--requests 20] [--hold 0] [--json benchmarks/results/sequence.json]

A tiny model that knows the people who ask and twelve who stay, made here, forgets one person at a time by params.yaml,
each version from the one before, a fifth of the people to keep spared and those who asked before held (`unlearn.hold`).
With each version everybody who asks, sooner or later, is judged beside 24 people whom no model saw, by the checks of
`standard` that read the answers as asked, against the first version; after the last request by `Policy.for_earlier` as
well, as the product does with every version. One reading of those people serves all verdicts on a version.

Prints the verdicts version by version, and draws what is left of each person over the versions, as .svg and .png beside
the JSON, which is written anew after each version.
"""

import argparse
import copy
import json
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

from sau.data.demo import demo_rows
from sau.data.records import Row
from sau.data.sets import Sets, halves, spared
from sau.models.language_model import LanguageModel
from sau.models.sources import base_model
from sau.params import Params, load_params
from sau.pruners import prune
from sau.training.finetune import adapted, finetune
from sau.training.pretrain import pretrain
from sau.training.session import History
from sau.unlearn.unlearn import unlearn
from sau.verify import Controls, Verification, load_policy, verify
from sau.verify.battery import verify_each

ROOT = Path(__file__).resolve().parents[1]
NUM_STAY, NUM_HOLDOUT = 12, 48
AS_ASKED = ("residual_knowledge", "membership/mia_min_k", "extraction")


def people(kind: str, number: int) -> list[list[Row]]:
    """Rows of invented people in no data set."""
    return [demo_rows(f"sequence-{kind}-{n:03d}", seed=1) for n in range(number)]


def flat(groups: list[list[Row]]) -> list[Row]:
    """The rows of all of them."""
    return [row for rows in groups for row in rows]


def first_version(params: Params, rows: list[Row]) -> tuple[LanguageModel, LanguageModel]:
    """(the base model, the sparse model that knows these rows)."""
    base = base_model(params.model, seed=params.seed)
    pretrain(base, params.model.tiny, seed=params.seed, num_threads=params.num_threads)
    lm = copy.deepcopy(base)
    finetune(lm, lm.encode(rows), params.train, seed=params.seed, num_threads=params.num_threads)
    prune(lm, lm.encode(rows[:: max(len(rows) // params.prune.calibration_rows, 1)]), params.prune)
    finetune(lm, lm.encode(rows), params.recover, seed=params.seed + 1, num_threads=params.num_threads)
    return base, lm


def forgotten(
    lm: LanguageModel,
    base: LanguageModel,
    asked: list[Row],
    keep: list[Row],
    strangers: list[Row],
    params: Params,
    *,
    unseen: Collection[str],
    earlier: Sequence[Row] = (),
) -> tuple[LanguageModel, History]:
    """A copy of a model that has forgotten whoever asked, and how; people in `unseen` are not shown to unlearning."""
    shown = [row for row in keep if row["subject_id"] not in unseen]
    lm = replace(lm, model=copy.deepcopy(lm.model))
    history = unlearn(
        lm,
        Sets(asked, shown, strangers, earlier=earlier),
        params.unlearn,
        seed=params.seed,
        base=copy.deepcopy(base),
        num_threads=params.num_threads,
    )
    return lm, history


def versions(
    first: LanguageModel,
    base: LanguageModel,
    asking: list[list[Row]],
    stay: list[Row],
    strangers: list[Row],
    params: Params,
    told: list[dict[str, Any]],
) -> Iterator[LanguageModel]:
    """Version after version; how each was made is appended to `told`."""
    lm = first
    for number, asked in enumerate(asking):
        started, keep = time.process_time(), [*flat(asking[number + 1 :]), *stay]
        unseen = spared(keep, asked, params.snapshot.spare, params.seed)
        before = flat(asking[:number])
        lm, history = forgotten(lm, base, asked, keep, strangers, params, unseen=unseen, earlier=before)
        told.append({"steps": history.steps, "stopped": history.stopped, "cpu_s": round(time.process_time() - started)})
        yield lm


def left(found: Verification, checks: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """By person: the verdict, each check's share that is left, and which of them have no verdict, and why."""
    return {
        person.label: {"verdict": person.verdict}
        | {f.id: f.value for f in person.checks if f.id in checks}
        | {"unclear": {f.id: f.reason for f in person.checks if f.mandatory and f.verdict == "INCONCLUSIVE"}}
        for person in found.people
    }


def main() -> None:
    """Make the versions, judge everybody with each, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument(
        "--hold", type=float, default=None, help="unlearn.hold instead of params.yaml's; 0: as if alone"
    )
    parser.add_argument("--json", type=Path, default=Path("sequence.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params(ROOT / "params.yaml")
    if args.hold is not None:
        params = params.model_copy(update={"unlearn": params.unlearn.model_copy(update={"hold": args.hold})})
    asking, stay = people("asks", args.requests), people("stays", NUM_STAY)
    calibrating, judging = halves(flat(people("unseen", NUM_HOLDOUT)), params.seed)
    base, first = first_version(params, [*flat(asking), *flat(stay)])
    assert params.unlearn.adapt is not None
    adapted_base = adapted(base, base.encode(flat(stay)), params.unlearn.adapt, seed=params.seed, num_threads=1)
    print("the first version is made", flush=True)
    standard = load_policy("standard")
    policy = standard.model_copy(update={"earlier_checks": AS_ASKED}).for_earlier
    labels = {rows[0]["subject_id"]: rows[0]["subject_id"].removeprefix("sequence-") for rows in asking}
    controls = Controls(before=first, base=adapted_base)
    told: list[dict[str, Any]] = []
    made = versions(first, base, asking, flat(stay), calibrating, params, told)
    result: dict[str, Any] = {"requests": args.requests, "versions": told}
    last = first

    def candidates() -> Iterator[tuple[LanguageModel, str]]:
        nonlocal last
        for last in made:
            yield last, "0" * 64

    assert policy is not None
    sets = Sets(flat(asking), flat(stay), judging)
    for number, found in enumerate(
        verify_each(candidates=candidates(), sets=sets, controls=controls, policy=policy, labels=labels)
    ):
        told[number]["people"] = left(found, AS_ASKED)
        told[number]["stay"] = {role: round(sum(s["retain"]) / len(s["retain"]), 4) for role, s in found.scores.items()}
        print(line(number, told[number]), flush=True)
        write(args.json, result)
    final = standard.for_earlier
    assert final is not None
    found = verify(model=last, sets=sets, controls=controls, policy=final, weights_digest="0" * 64, labels=labels)
    result["earlier"] = left(found, standard.earlier_checks)
    for person in found.people:
        result["earlier"][person.label]["reasons"] = person.reasons
    write(args.json, result)
    print("after the last, by earlier_checks:", dict(Counter(p["verdict"] for p in result["earlier"].values())))
    draw(result, args.json)


def line(number: int, version: dict[str, Any]) -> str:
    """A version in a line."""
    gone = {f"asks-{n:03d}" for n in range(number + 1)}
    said = []
    for name, those in (("asked", gone), ("yet to ask", version["people"].keys() - gone)):
        found = [version["people"][label] for label in sorted(those)]
        if found:
            mean = sum(p["residual_knowledge"] for p in found) / len(found)
            said.append(f"{name}: {dict(Counter(p['verdict'] for p in found))}, {mean:.2f} left")
    own, stay = version["people"][f"asks-{number:03d}"], version["stay"]
    said.append(f"log p of who stays {stay['unlearned']:.3f}, in v1 {stay['before']:.3f}")
    unclear = Counter(
        f"{check}: {why}" for person in version["people"].values() for check, why in person["unclear"].items()
    )
    said += [f"{times} x {why}" for why, times in unclear.most_common(3)]
    return f"v{number + 2} ({version['steps']} steps, {version['cpu_s']} s): own {own['verdict']}; {'; '.join(said)}"


def write(target: Path, result: dict[str, Any]) -> None:
    """The result so far."""
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def draw(result: dict[str, Any], target: Path) -> None:
    """What is left of each person over the versions, darker from their own version on."""
    told = result["versions"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    numbers = range(2, len(told) + 2)
    for number, label in enumerate(told[0]["people"]):
        values = [version["people"][label]["residual_knowledge"] for version in told]
        axes.plot(numbers[: number + 1], values[: number + 1], color="#bdc3c7", linewidth=1)
        axes.plot(numbers[number:], values[number:], color="#c0392b", alpha=0.6, linewidth=1, marker=".", markersize=4)
    axes.axhline(0.4, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="version", ylabel="share left of what v1 knew", xticks=list(numbers)[::2])
    axes.set_title("grey: until they ask; red: from their own version on; dashed: the margin of standard", fontsize=9)
    with matplotlib.rc_context({"svg.hashsalt": "sau", "svg.fonttype": "none"}):
        for suffix in (".svg", ".png"):
            figure.savefig(target.with_suffix(suffix), dpi=110, metadata={"Date": None} if suffix == ".svg" else None)


if __name__ == "__main__":
    main()
