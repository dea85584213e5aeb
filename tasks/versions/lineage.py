"""Lineage: request -> data -> mask -> parent version -> new version, link by link from the registry."""

from collections.abc import Iterable

from sau.errors import RequestError, TrackingError
from tasks.engines.repository import tag_name
from tasks.versions.record import UNJUDGED, VersionRecord
from tasks.versions.registry import Versions


def carried_out(line: str) -> dict[str, int]:
    """The requests that are in force, with their versions: those of the leading version and of all its parents.

    Raises:
        TrackingError: the chain has a gap.
    """
    versions = Versions()
    leader = versions.find(line)
    links = chain(line, leader.number, versions) if leader else []
    return {request_id: link.number for link in links for request_id in link.request_ids}


def chain(line: str, number: int, versions: Versions | None = None) -> list[VersionRecord]:
    """A version and all its parents, newest first.

    Raises:
        RequestError: no such version.
        TrackingError: a parent is missing, or its digest is not the one its child recorded: the chain has a gap.
    """
    records = {record.number: record for record in (versions or Versions()).all(line)}  # read at once, however many
    links: list[VersionRecord] = []
    current: int | None = number
    while current is not None:
        record, child = records.get(current), links[-1] if links else None
        if record is None:
            if child is None:
                raise RequestError(f"version {tag_name(line, current)}: not in this MLflow store")
            raise TrackingError(
                f"lineage: {tag_name(line, current)}, the parent of {child.tag}, is missing; "
                f"`sau line adopt-version {line} {current}` takes it back from git"
            )
        if child is not None and child.parent_digest != record.weights_digest:
            raise TrackingError(f"lineage: {record.tag} is not the model its child was made from")
        links.append(record)
        current = record.parent
    return links


def failed_before(line: str, request_ids: Iterable[str], weights_digest: str) -> list[str]:
    """The tags of other versions of a line that were made for all of these requests and may not lead."""
    asked = set(request_ids)
    others = [v for v in Versions().all(line) if v.weights_digest != weights_digest and v.verdict != UNJUDGED]
    return [v.tag for v in others if not v.may_lead and asked <= set(v.request_ids)]
