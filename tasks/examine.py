"""Damage: what a leading version is made of is hashed wherever it lies, and put back where another store has it."""

from collections.abc import Iterator
from pathlib import Path

from sau.checkpoint.manifest import check_files
from sau.errors import CheckpointError, TrackingError, WorkspaceError
from tasks.engines.cache import damaged
from tasks.engines.pins import pins_at
from tasks.engines.settings import settings
from tasks.engines.workspace import Workspace, scratch
from tasks.reconcile import Finding
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry


def examine(line: str, *, refill: bool = False) -> Iterator[Finding]:
    """Look at every byte of the leading version: in DVC's cache, in the remote, in MLflow.

    Args:
        refill: send the remote what it lacks.

    Raises:
        TrackingError: MLflow refuses.
        WorkspaceError: git or DVC does.
    """
    registry = Registry()
    if (leader := registry.find(line)) is None:
        return
    pins = pins_at(settings().root, leader.tag)
    bad = {path: md5s for path, pin in pins.items() if (md5s := damaged(pin.md5))}
    with scratch("examine", leader.tag) as ws:
        try:
            ws.bring_all(leader.tag)
        except WorkspaceError as error:
            yield Finding(what=f"{leader.tag}: {error}", way_out=f"then `sau doctor --line {line}` again", stops=True)
            return
        for path, md5s in bad.items():
            what = f"{leader.tag}: {len(md5s)} objects of {path} were damaged in DVC's cache, and were fetched anew"
            yield Finding(what=what)
        if lost := ws.lost({path: pins[path] for path in ("checkpoint", "data") if path in pins}):
            yield Finding(what=f"{leader.tag}: {lost}", way_out="or set SAU_DVC_REMOTE to one that has it", stops=True)
            return
        yield from _remote(leader, ws, refill)
        yield from _stored(registry, leader, ws.path / "checkpoint")


def _remote(leader: VersionRecord, ws: Workspace, refill: bool) -> Iterator[Finding]:
    """The remote has all that the cache has."""
    if not (lacking := ws.not_in_remote()):
        return
    if refill:
        ws.push()
        yield Finding(what=f"{leader.tag}: {ws.settings.remote_url} lacked {', '.join(lacking)}, and was sent them")
    else:
        yield Finding(
            what=f"{leader.tag}: {ws.settings.remote_url} lacks {', '.join(lacking)}",
            way_out=f"`sau doctor --line {leader.line} --refill` sends them from DVC's cache, where it is the right "
            "remote (SAU_DVC_REMOTE)",
            stops=True,
        )


def _stored(registry: Registry, leader: VersionRecord, checkpoint: Path) -> Iterator[Finding]:
    """MLflow's copy is the checkpoint of the record."""
    if not (odd := _not_as_recorded(registry, leader)):
        return
    registry.put_back(leader, checkpoint)
    if _not_as_recorded(registry, leader):
        yield Finding(
            what=odd,
            way_out=f"DVC has the whole one (`sau reproduce {leader.tag}`): empty MLflow's folder of it by hand, then "
            "`sau doctor` fills it",
            stops=True,
        )
    else:
        yield Finding(what=f"{odd}; it was put back from DVC")


def _not_as_recorded(registry: Registry, record: VersionRecord) -> str:
    """What is wrong with MLflow's copy, in words; "" where nothing is."""
    try:
        stored = check_files(registry.download(record))
    except (CheckpointError, TrackingError) as error:
        return f"{record.tag}: MLflow's checkpoint is damaged ({error})"
    if (stored.weights_digest, stored.mask_digest) != (record.weights_digest, record.mask_digest):
        return f"{record.tag}: MLflow stores weights {stored.weights_digest}, not {record.weights_digest}"
    return ""
