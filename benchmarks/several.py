"""What several requests in one run cost beside one: CPU seconds of unlearning and of the verdicts.

    python -m benchmarks.several [--asking 1 5] [--json FILE]

The tiny model and people of `benchmarks.sequence`: twenty who may ask and twelve who stay. So many of them ask in one
run, by params.yaml, a fifth of the others spared; then all together and each alone are judged by `standard`, whole,
beside 24 people whom no model saw. What is made for the run as a whole (the model, its base adapted for the verdict) is
not counted: the product has the one and keeps the other from run to run.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.sequence import NUM_HOLDOUT, NUM_STAY, ROOT, first_version, flat, forgotten, people
from sau.data.sets import Sets, halves, spared
from sau.params import load_params
from sau.training.finetune import adapted
from sau.verify import Controls, load_policy, verify
from tasks.battery import sampled

NUM_ASKING = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asking", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params(ROOT / "params.yaml")
    asking, stay = people("asks", NUM_ASKING), flat(people("stays", NUM_STAY))
    calibrating, judging = halves(flat(people("unseen", NUM_HOLDOUT)), params.seed)
    base, first = first_version(params, [*flat(asking), *stay])
    assert params.unlearn.adapt is not None
    adapted_base = adapted(base, base.encode(stay), params.unlearn.adapt, seed=params.seed, num_threads=1)
    found: list[dict[str, Any]] = []
    for number in args.asking:
        asked, keep = flat(asking[:number]), [*flat(asking[number:]), *stay]
        unseen = spared(keep, asked, params.snapshot.spare, params.seed)
        begun = time.process_time()
        lm, history = forgotten(first, base, asked, keep, calibrating, params, unseen=unseen)
        made = time.process_time()
        verification = verify(
            model=lm,
            sets=sampled(Sets(asked, keep, judging, spared=unseen), params),
            controls=Controls(before=first, base=adapted_base),
            policy=load_policy("standard"),
            weights_digest="0" * 64,
        )
        judged = time.process_time()
        alone = Counter(person.verdict for person in verification.people)
        found.append(
            {
                "asking": number,
                "steps": history.steps,
                "unlearning_s": round(made - begun, 1),
                "verdict_s": round(judged - made, 1),
                "ratio": round((judged - begun) / found[0]["seconds"], 2) if found else 1.0,
                "seconds": round(judged - begun, 1),
                "together": verification.verdict,
                "alone": dict(alone),
                "why": verification.reasons,
            }
        )
        print(*(f"{name} {value}" for name, value in found[-1].items()), sep=", ", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
