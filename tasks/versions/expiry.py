"""Versions that are gone: which request and policy removed a version's bytes. Kept as a git tag, which clones fetch.

    expired/<line>@v<N>     an annotated tag on the version's own commit; its message is the record, JSON

The version's tag, its commit and its entry in the registry stay: lineage keeps its shape.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sau.errors import WorkspaceError
from tasks.engines.repository import git, tag_version


class Expired(BaseModel):
    """Why a version is gone: the request that removed it, by which policy, and when."""

    model_config = ConfigDict(frozen=True)

    version: str
    request_id: str
    policy: str
    at: datetime

    @property
    def words(self) -> str:
        return (
            f"{self.version}: its bytes were removed on {self.at:%Y-%m-%d} by the purge of request {self.request_id} "
            f"({self.policy}); lineage and digests are kept"
        )


def expired(root: Path, version: str) -> Expired | None:
    """Why a version is gone; None of one that is not."""
    return _read(root, version).get(version)


def all_expired(root: Path, line: str) -> dict[str, Expired]:
    """Why versions of a line are gone, by their tags; those that are there are left out."""
    return _read(root, f"{line}@v*")


def _read(root: Path, versions: str) -> dict[str, Expired]:
    """What is said of versions, by name or by a pattern of names; git is asked once, however many there are."""
    listed = git(
        root, "for-each-ref", "--format=%(refname:strip=3) %(contents:subject)", f"refs/tags/expired/{versions}"
    )
    found = {}
    for version, _, said in (entry.partition(" ") for entry in listed.splitlines()):
        try:
            found[version] = Expired.model_validate_json(said)
        except ValueError:
            raise WorkspaceError(f"git tag expired/{version}: not one of this product's") from None
    return found


def expire(root: Path, version: str, request_id: str, policy: str) -> Expired:
    """Say that a version is gone; one that is gone already stays as it was said."""
    if there := expired(root, version):
        return there
    record = Expired(version=version, request_id=request_id, policy=policy, at=datetime.now(UTC))
    commit = git(root, "rev-parse", f"{version}^{{commit}}")
    tag_version(root, f"expired/{version}", commit, json.dumps(record.model_dump(mode="json")))
    return record
