"""Where a line comes from: trained here or adopted, from which dense model, and whether it can be trained again."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from sau.checkpoint.manifest import SparseCheckpoint
from sau.config import checked, merge
from sau.errors import RequestError
from sau.params import Params
from tasks.engines.pins import Pin, pins_at
from tasks.engines.repository import git
from tasks.engines.settings import settings
from tasks.versions.record import VersionRecord

_TRAINED_DENSE = "artifacts/dense"
_TOLD = "metrics/adopt.json"


def dense_pin(tag: str) -> Pin | None:
    """The dense model that a first version was pruned from; None where none is known, or it is another version."""
    pins = pins_at(settings().root, tag)
    if "model" in pins:
        told = json.loads(git(settings().root, "show", f"{tag}:{_TOLD}"))
        return None if told["found_mask"] else pins["model"]
    return pins.get(_TRAINED_DENSE)


def made_of(commit: str, stored: SparseCheckpoint, params: Params, parent: VersionRecord | None) -> dict[str, Any]:
    """What a version's record says by its commit, checkpoint, parameters and parent, by field."""
    came = {"adopted": parent.adopted, "merged": parent.merged} if parent else _adopting(commit)
    return came | {
        "parent": parent.number if parent else None,
        "parent_digest": parent.weights_digest if parent else "",
        "weights_digest": stored.weights_digest,
        "mask_digest": stored.mask_digest,
        "side_digest": stored.side_digest,
        "sparsity": stored.sparsity,
        "structure": stored.structure,
        "covered": stored.covered,
        "params_digest": params.digest,
        "training_digest": params.training_digest,
        "git_commit": commit,
    }


def _adopting(commit: str) -> dict[str, Any]:
    """What adopting told of a first version; nothing where it was made here."""
    root = settings().root
    if not git(root, "ls-tree", "--name-only", commit, _TOLD):
        return {}
    told = json.loads(git(root, "show", f"{commit}:{_TOLD}"))
    return {"adopted": told["adopted"], "merged": told.get("merged", "")}


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
