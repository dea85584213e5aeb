"""Inputs of an attempt, pinned in its private worktree: data, parameters, and for a forget version the parent."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from sau.config import checked, merge, read_yaml
from sau.data.demo import demo_people
from sau.data.people import published
from sau.data.shards import have_internal_ids
from sau.data.sources import DEMO, DataOptions, is_published, write_data
from sau.errors import RequestError, WorkspaceError
from sau.params import Params, load_params
from sau.verify.policy import load_policy
from tasks.engines.keys import vault
from tasks.engines.ledger import Ledger
from tasks.engines.orchestration import task
from tasks.engines.people import People
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt, Pin, Workspace, git, pins_at
from tasks.scope import taken_out
from tasks.versions.record import VersionRecord

PINNED = "pinned"


def resolve_params(base: dict[str, Any], overrides: dict[str, Any]) -> Params:
    """Parameters with overrides on top; the policy they name is read once on trial.

    Raises:
        ConfigError: an unknown or out-of-bounds parameter, method or policy.
    """
    params = checked(Params, merge(base, overrides), "parameters")
    load_policy(params.verify.policy)  # refused now, not after an hour of training
    return params


def _write_params(folder: Path, base: dict[str, Any], overrides: dict[str, Any]) -> Params:
    params = resolve_params(base, overrides)
    text = yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    return params


def _also_dense(recipe: Path, tag: str, pins: dict[str, Pin]) -> None:
    """Make the dense model an input of unlearning.

    Raises:
        RequestError: the version is not a first one: the dense model knows whom later versions have forgotten.
    """
    if "artifacts/dense" not in pins:
        raise RequestError(f"order unlearn-prune: {tag} is a forget version, only a first version has its dense model")
    stages = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    stages["stages"]["unlearn"]["deps"].append("dense")
    recipe.write_text(yaml.safe_dump(stages, sort_keys=False), encoding="utf-8")


def _record(attempt: Attempt, contexts: dict[str, str]) -> dict[str, str]:
    """Log the pinned inputs to the run; returns {path: md5}."""
    tracking, ws, run_id = Tracking(), attempt.workspace, attempt.run_id
    pins = {path: ws.pin(path) for path in contexts}
    for path, context in contexts.items():
        tracking.dataset(run_id, path, pins[path], context)
    params = load_params(ws.path / "params.yaml")
    tracking.params(run_id, params.model_dump(mode="json"))
    return {path: pin.md5 for path, pin in pins.items()}


@task(name="prepare", task_run_name="prepare {attempt.name}")
def prepare_bootstrap(
    attempt: Attempt, source: str, data_options: DataOptions, overrides: dict[str, Any]
) -> dict[str, str]:
    """A worktree with a data set of `source` and the checkout's parameters with `overrides` on top.

    Raises:
        DataError, ConfigError: the source or a parameter.
        WorkspaceError: the generated demo people are not the ones that data.dvc pins.
    """
    ws = attempt.workspace.open()
    if not ws.prepared:
        _write_params(ws.path, read_yaml(ws.path / "params.yaml"), overrides)
        pinned = ws.pin("data")
        if source == PINNED:
            ws.point("data", pinned)
            _take_in_pinned(attempt.line, ws)
        else:
            take_in(attempt.line, source, ws.path / "data", data_options)
            made = ws.add("data")["data"]
            if source == DEMO and made != pinned:
                raise WorkspaceError(f"data.dvc pins {pinned.md5}, the generated demo people have {made.md5}")
        ws.mark_prepared()
    return _record(attempt, {"data": "training"})


def take_in(line: str, source: str, folder: Path, options: DataOptions) -> None:
    """Write a line's data set of `source` to `folder`, with internal ids for people; the ledger keeps who is who.

    Raises:
        DataError: the source.
        RequestError: the ledger.
    """
    given = settings().root / source  # a path in params or on the command line is relative to the checkout
    local = str(given) if given.exists() else source
    people = People(Ledger(settings().ledger_url))
    write_data(
        local,
        folder,
        options,
        lambda given: people.name(line, given, published(given) if is_published(local) else None),
    )


def _take_in_pinned(line: str, ws: Workspace) -> None:
    """Data that the checkout pins: with internal ids it stays as it is, with others it is taken in as any source is."""
    data, given = ws.path / "data", ws.path / "given"
    if not have_internal_ids(data):
        data.rename(given)
        take_in(line, str(given), data, DataOptions())
        shutil.rmtree(given)
        ws.add("data")
    elif {path.stem for path in data.rglob("*.jsonl")} == {*(invented := demo_people()).values()}:
        People(Ledger(settings().ledger_url)).name(line, invented, invented)


@task(name="snapshot inputs", task_run_name="inputs {attempt.name}")
def prepare_forget(
    attempt: Attempt, parent: VersionRecord, request_ids: list[str], overrides: dict[str, Any]
) -> dict[str, str]:
    """A worktree with the data set without the requested subjects, their rows sealed in forget/, and the parent.

    What a person decided of single rows is so there (`tasks.scope`).

    Takes request ids, never subject ids: what a task is given ends up in Prefect's database.

    Raises:
        RequestError: a subject is not in the parent's data, or all of their rows are to be kept.
    """
    ws = attempt.workspace.open()
    if not ws.prepared:
        tag = parent.tag
        pins = pins_at(settings().root, tag)
        pins |= {"base": pins.get("base") or pins["artifacts/base"]}  # handed on from version to version
        params = _write_params(ws.path, yaml.safe_load(git(settings().root, "show", f"{tag}:params.yaml")), overrides)
        shutil.copyfile(ws.path / "dvc.forget.yaml", ws.path / "dvc.yaml")
        inputs = {"data": "data", "parent": "checkpoint", "base": "base"}
        if params.unlearn.order == "unlearn-prune":
            inputs |= {"dense": "artifacts/dense"}
            _also_dense(ws.path / "dvc.yaml", tag, pins)
        for path, source in inputs.items():
            ws.point(path, pins[source])
        ledger = Ledger(settings().ledger_url)
        (ws.path / "forget").mkdir(exist_ok=True)
        for request_id, rows in taken_out(ledger, ws.path / "data" / "train", request_ids).items():
            sealed = vault().seal(request_id, rows)
            shutil.copyfile(sealed, ws.path / "forget" / sealed.name)
        ws.add("data", "forget")
        ws.mark_prepared()
    return _record(attempt, {"data": "retain", "forget": "forget", "parent": "parent checkpoint", "base": "base model"})


@task(name="prepare retrain", task_run_name="prepare {attempt.name}")
def prepare_retrain(attempt: Attempt, like: Attempt) -> dict[str, str]:
    """A worktree with the data set and parameters of another attempt and the bootstrap recipe."""
    ws, other = attempt.workspace.open(), like.workspace
    if not ws.prepared:
        ws.point("data", other.pin("data"))
        shutil.copyfile(other.path / "params.yaml", ws.path / "params.yaml")
        ws.mark_prepared()
    return _record(attempt, {"data": "training"})
