"""Where a line comes from: trained here or adopted, from which dense model, and whether it can be trained again."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from sau.config import checked, merge
from sau.errors import RequestError
from sau.params import Params
from tasks.engines.settings import settings
from tasks.engines.workspace import Pin, git, pins_at
from tasks.versions.record import VersionRecord

_TRAINED_DENSE = "artifacts/dense"


def dense_pin(tag: str) -> Pin | None:
    """The dense model that a first version was pruned from; None where none is known, or it is another version."""
    pins = pins_at(settings().root, tag)
    if "model" in pins:
        told = json.loads(git(settings().root, "show", f"{tag}:metrics/adopt.json"))
        return None if told["found_mask"] else pins["model"]
    return pins.get(_TRAINED_DENSE)


def adopted_from(tag: str) -> str:
    """SHA-256 of the weights that a first version was adopted from; "" where it was made here."""
    root = settings().root
    if not git(root, "ls-tree", "--name-only", tag, "metrics/adopt.json"):
        return ""
    return str(json.loads(git(root, "show", f"{tag}:metrics/adopt.json"))["adopted"])


def check_retrainable(record: VersionRecord, overrides: Mapping[str, Any] | None = None) -> None:
    """Refuse to train a line's model without somebody's rows where nobody has said how.

    Args:
        overrides: parameters on top of the version's.

    Raises:
        RequestError: it was adopted, and has no `train.command`.
    """
    if not record.adopted:
        return
    text = git(settings().root, "show", f"{record.tag}:params.yaml")
    params = checked(Params, merge(yaml.safe_load(text), overrides or {}), "parameters")
    if params.train.command is None:
        raise RequestError(
            f"line {record.line}: was adopted, and how its model is trained is not known: no audit and no retrained "
            "reference without the parameter train.command; verdicts rest on people whom the model never saw"
        )
