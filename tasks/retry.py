"""What is tried again: whom of several a version served alone, and how much harder or softer unlearning has to push.

Everything follows from the registry and a version's verdict, so an attempt that died decides as one that did not.
"""

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from sau.config import checked
from sau.params import Params
from sau.unlearn.step import UnlearnParams
from sau.verify import Verification
from sau.verify.record import Finding
from tasks.engines.repository import git
from tasks.engines.settings import settings
from tasks.verify import verification_of
from tasks.versions.lineage import failed_before
from tasks.versions.record import VersionRecord

_FURTHER_NATS = 0.3
_ENOUGH_POWER = 0.8
_HARM = ("retain_utility", "kept_membership")


class Try(BaseModel):
    """Requests to carry out, and parameters to lay over those of the attempt before."""

    model_config = ConfigDict(frozen=True)

    request_ids: tuple[str, ...]
    changes: dict[str, Any] = {}


def tries_after(record: VersionRecord) -> list[Try]:
    """What a version leaves to be tried at once, see `tries`; nothing where it may lead.

    Raises:
        TrackingError: its run has no verification.
    """
    if record.may_lead or not record.request_ids:
        return []
    text = git(settings().root, "show", f"{record.git_commit}:params.yaml")
    params = checked(Params, yaml.safe_load(text), "parameters")
    left = tries(record.request_ids, verification_of(record), params.unlearn)
    return [
        another
        for another in left
        if not another.changes
        or len(failed_before(record.line, another.request_ids, record.weights_digest)) < params.verify.retries
    ]


def tries(request_ids: Sequence[str], verification: Verification, params: UnlearnParams) -> list[Try]:
    """Of several requests those that pass alone, as they were, without the others; and those that do not, where their
    checks say how hard to push instead.

    Args:
        request_ids: of a version that may not lead.
        params: by which it was made.
    """
    alone = {person.label: person for person in verification.people}
    met = tuple(i for i in request_ids if i in alone and alone[i].verdict == "PASS")
    if len(met) == len(request_ids):
        met = ()
    others = tuple(i for i in request_ids if i not in met)
    checks = [check for i in others for check in alone[i].checks] if met else verification.checks
    without = [Try(request_ids=met)] if met else []
    changes = advised(checks, params)
    return [*without, Try(request_ids=others, changes=changes)] if changes else without


def advised(checks: Sequence[Finding], params: UnlearnParams) -> dict[str, Any]:
    """Parameters that push unlearning to where these findings say it should have gone; empty where they say nothing.

    Somebody who is still known: the goal .3 nats lower. Somebody whose absence shows: as much higher. Who stays was
    harmed: half the learning rate, twice the weight of their rows, and half of what they were allowed to lose. A check
    that cannot tell says nothing, unless so many rows would have shown a perfect result.
    """
    if params.stop is None:
        return {}
    counted = [check for check in checks if check.mandatory]
    known = any(_is_above(check) for check in counted if check.about_forgetting)
    gone_too_far = any(_is_below(check) for check in counted if check.about_forgetting)
    harmed = any(check.verdict == "FAIL" and check.id in _HARM for check in counted)
    stop: dict[str, float] = {}
    changes: dict[str, Any] = {}
    if known != gone_too_far:
        stop["margin_nats"] = round(params.stop.margin_nats + (-_FURTHER_NATS if known else _FURTHER_NATS), 6)
    if harmed:
        stop["utility_floor"] = (1 + params.stop.utility_floor) / 2
        changes |= {"lr": params.lr / 2, "alpha": params.alpha * 2, "max_steps": params.max_steps * 2}
    changes |= {"stop": stop} if stop else {}
    return {"unlearn": changes} if changes else {}


def _is_above(check: Finding) -> bool:
    if check.margin is None or check.margin[1] is None or check.value is None or check.interval is None:
        return False
    if check.verdict == "FAIL":
        return check.value > check.margin[1]
    could = check.power is not None and check.power >= _ENOUGH_POWER
    return check.verdict == "INCONCLUSIVE" and could and check.interval[1] > check.margin[1]


def _is_below(check: Finding) -> bool:
    low = check.margin[0] if check.margin else None
    return check.verdict == "FAIL" and low is not None and check.value is not None and check.value < low
