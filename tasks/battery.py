"""The one way to put a stored checkpoint to a policy's battery: rows sampled, models opened where parameters say."""

import contextlib
import hashlib
import logging
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sau.checkpoint.manifest import read_manifest
from sau.checkpoint.sparse import open_sparse
from sau.data.records import Row
from sau.data.sets import Sets, by_person
from sau.errors import SauError
from sau.models.dense import open_dense, save_dense
from sau.models.identity import identity
from sau.models.language_model import LanguageModel, seeded
from sau.models.ranks import ALONE, Ranks
from sau.params import Params
from sau.stages import BASE, PARENT
from sau.training.finetune import adapted
from sau.verify import Controls, Verification
from sau.verify import verify as run_battery
from sau.verify.policy import Policy
from tasks.engines.settings import KEPT, settings
from tasks.engines.several import on_several

_FEW_PEOPLE = 10
_MODELS_KEPT = 2
_IDENTITY = "identity"

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
    """The verdict on a sparse checkpoint, by `verify.processes` together; arguments as for `sau.verify.verify`.

    Args:
        controls: of several processes, such as can be pickled.
    """
    work = partial(_judged, checkpoint, sets, controls, policy, params, labels)
    processes = params.verify.processes
    return work(ALONE) if processes == 1 else on_several(processes, params.model.device, "verify", work)


def _judged(
    checkpoint: Path,
    sets: Sets,
    controls: Controls,
    policy: Policy,
    params: Params,
    labels: Mapping[str, str] | None,
    ranks: Ranks,
) -> Verification:
    if ranks.rank and isinstance(controls.base, partial):  # of `base_opener`
        controls = replace(controls, base=partial(controls.base, keeps=False))
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
            cache=settings().state / KEPT / "readings",
            ranks=ranks,
        )


def sampled(sets: Sets, params: Params) -> Sets:
    """The sets as the parameters bound them, by a seeded choice that somebody's leaving changes as little as it can.

    Of those who stay, some people, of each as many rows as leaves room for ten, and those first whom unlearning was not
    shown; of those who judge, everybody, with the same number of rows at most.
    """
    most, judges = params.verify, sets.holdout
    kept = _of_some(sets.retain, most.max_retain_rows, params.seed, first=sets.spared)
    if len(judges) > most.max_holdout_rows:
        people = by_person(judges)
        each = max(most.max_holdout_rows // len(people), 1)
        judges = [row for rows in people for row in sorted(rows, key=lambda row: _place(row, params.seed))[:each]]
    return replace(sets, retain=kept, holdout=judges)


def _of_some(rows: Sequence[Row], most: int, seed: int, *, first: Collection[str] = ()) -> list[Row]:
    """At most so many rows, of some people as many each as leaves room for ten."""
    people = by_person(rows)
    people.sort(key=lambda own: (own[0]["subject_id"] not in first, _place(own[0], seed)))
    each = max(most // max(min(len(people), _FEW_PEOPLE), 1), 1)
    kept: list[Row] = []
    for own in people:
        if len(kept) + min(len(own), each) <= most:
            kept += own[:each]
    return kept


def _place(row: Row, seed: int) -> bytes:
    """In a seeded order that does not hang on which other rows there are."""
    return hashlib.sha256(f"{seed} {row['subject_id']} {row['record_id']}".encode()).digest()


def base_opener(folder: Path, params: Params, retain: Sequence[Row]) -> Callable[[], LanguageModel] | None:
    """The model from before any training on this data, adapted to rows to keep as unlearning's parameters say; None
    where it is not known.

    The adapted model is kept for the next verification, which mostly has the same rows.

    Args:
        folder: an attempt's, with the base model and the parent in it.
        retain: all rows to keep.
    """
    if not (folder / BASE).is_dir():
        return None
    how = params.unlearn.adapt
    return partial(_adapted_base, folder, params, _of_some(retain, how.max_rows, params.seed) if how else [])


def _adapted_base(folder: Path, params: Params, rows: Sequence[Row], *, keeps: bool = True) -> LanguageModel:
    prompt, how = read_manifest(folder / PARENT).prompt, params.unlearn.adapt
    base = params.model.put(open_dense(folder / BASE, prompt=prompt))
    if not how:
        return base
    place = settings().state / KEPT / "base" / identity(base, rows, how.model_dump(mode="json"), params.seed)
    with contextlib.suppress(SauError, OSError):  # not kept, or damaged
        kept = params.model.put(open_dense(place, prompt=prompt))
        if identity(kept) == (place / _IDENTITY).read_text(encoding="ascii"):
            return kept
    made = adapted(base, base.encode(rows), how, seed=params.seed, num_threads=params.num_threads)
    if keeps:
        _keep(made, place)
    return made


def _keep(lm: LanguageModel, place: Path) -> None:
    """Put the model in its place in one step, beside the last one; where there is no room, it is made again."""
    beside = place.with_name(f".{place.name[:16]}-{secrets.token_hex(4)}")
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        save_dense(lm, beside)
        (beside / _IDENTITY).write_text(identity(lm), encoding="ascii")
        beside.replace(place)
    except (SauError, OSError):
        shutil.rmtree(beside, ignore_errors=True)
    with contextlib.suppress(OSError):  # somebody else cleans up just now
        for old in sorted(place.parent.glob("*"), key=lambda p: p.stat().st_mtime)[:-_MODELS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def opener(folder: Path, params: Params) -> Callable[[], LanguageModel]:
    """What opens a sparse checkpoint where the parameters say."""
    return partial(_opened, folder, params)


def _opened(folder: Path, params: Params) -> LanguageModel:
    return params.model.put(open_sparse(folder))
