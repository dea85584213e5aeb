"""The one way to put a stored checkpoint to a policy's battery: rows sampled, models opened where parameters say."""

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sau.checkpoint.manifest import read_manifest
from sau.checkpoint.sparse import open_sparse
from sau.data.records import Row
from sau.data.sets import Sets, by_person
from sau.models.dense import open_dense
from sau.models.language_model import LanguageModel, seeded
from sau.params import Params
from sau.stages import BASE, PARENT
from sau.training.finetune import adapted
from sau.verify import Controls, Verification
from sau.verify import verify as run_battery
from sau.verify.policy import Policy

_FEW_PEOPLE = 10

log = logging.getLogger("sau")


def judged(
    checkpoint: Path,
    sets: Sets,
    controls: Controls,
    policy: Policy,
    params: Params,
    *,
    labels: Mapping[str, str] | None = None,
) -> Verification:
    """The verdict on a sparse checkpoint; arguments as for `sau.verify.verify`."""
    with seeded(params.seed, params.num_threads):
        return run_battery(
            model=opener(checkpoint, params),
            sets=sets,
            controls=controls,
            policy=policy,
            weights_digest=read_manifest(checkpoint).weights_digest,
            seed=params.seed,
            labels=labels,
            progress=lambda text: log.debug("verify %s", text),
        )


def sampled(sets: Sets, params: Params) -> Sets:
    """The sets as the parameters bound them, by a seeded choice.

    Of those who stay, some people, of each as many rows as leaves room for ten, and those first whom unlearning was not
    shown; of those who judge, everybody, with the same number of rows at most.
    """
    rng, most = random.Random(params.seed), params.verify
    people = rng.sample(groups := by_person(sets.retain), len(groups))
    people.sort(key=lambda rows: rows[0]["subject_id"] not in sets.spared)
    kept: list[Row] = []
    each = max(most.max_retain_rows // min(len(people), _FEW_PEOPLE), 1)
    for rows in people:
        if len(kept) + min(len(rows), each) <= most.max_retain_rows:
            kept += rows[:each]
    judges = sets.holdout
    if len(judges) > most.max_holdout_rows:
        groups = by_person(judges)
        each = max(most.max_holdout_rows // len(groups), 1)
        judges = [row for rows in groups for row in rng.sample(rows, min(len(rows), each))]
    return replace(sets, retain=kept, holdout=judges)


def base_opener(folder: Path, params: Params, sets: Sets) -> Callable[[], LanguageModel] | None:
    """The model from before any training on this data, adapted to rows to keep as unlearning's parameters say; None
    where it is not known.

    Args:
        folder: an attempt's, with the base model and the parent in it.
    """

    if not (folder / BASE).is_dir():
        return None

    def opened() -> LanguageModel:
        base = params.model.put(open_dense(folder / BASE, prompt=read_manifest(folder / PARENT).prompt))
        if not params.unlearn.adapt:
            return base
        return adapted(
            base, base.encode(sets.retain), params.unlearn.adapt, seed=params.seed, num_threads=params.num_threads
        )

    return opened


def opener(folder: Path, params: Params) -> Callable[[], LanguageModel]:
    """What opens a sparse checkpoint where the parameters say."""
    return lambda: params.model.put(open_sparse(folder))
