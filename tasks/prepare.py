"""Inputs of an attempt, pinned in its private worktree: data, parameters, a model that is adopted, and for a forget
version the parent."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict
from transformers import AutoConfig

from sau.checkpoint.digests import check_distinct, dense_digest
from sau.checkpoint.manifest import DENSE, read_manifest
from sau.config import checked, merge, read_yaml
from sau.data.demo import demo_people
from sau.data.people import published
from sau.data.records import open_records
from sau.data.shards import have_internal_ids
from sau.data.sources import DEMO, DataOptions, is_published, write_data
from sau.errors import RequestError, WorkspaceError
from sau.models.folder import local_folder, read_headers, refuse_untakeable, take_folder
from sau.params import Params, command_of, load_params
from sau.pruners.adapter import merge_adapter, open_adapter
from sau.unlearn.fading import check_can_fade
from sau.unlearn.memory import shell_of
from sau.verify.policy import load_policy
from tasks.engines.keys import vault
from tasks.engines.ledger import Ledger
from tasks.engines.orchestration import task
from tasks.engines.people import People
from tasks.engines.pins import Pin, pins_at
from tasks.engines.repository import git
from tasks.engines.room import check_room
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt, Workspace
from tasks.memory import check_fits, note
from tasks.scope import taken_out
from tasks.suppression import Suppression
from tasks.versions.lineage import chain
from tasks.versions.origin import dense_pin
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

PINNED = "pinned"
_TRAINED_BASE = "artifacts/base"
_DISPENSABLE = frozenset({"base", "dense", "earlier"})
"""Inputs that a recipe names and an attempt may lack."""


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


class Adoption(BaseModel):
    """What a model line is begun with where its model exists already.

    Attributes:
        model: folder or hub id; with `merge` that of an adapter.
        base: the same of the model it was trained from; "" where that is not known.
        merge: whether the model is an adapter that is to be merged into its base.
        remask: see `sau.pruners.adapter.merge_adapter`.
        fingerprint: of the folders' files, so that an attempt on others is another attempt.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    base: str = ""
    merge: bool = False
    remask: bool | None = None
    fingerprint: str = ""


def _inputs_of_forgetting(parent: VersionRecord, params: Params) -> dict[str, Pin]:
    """What a forget version is made from beside rows that are sealed, by place in the worktree.

    Raises:
        RequestError: the order needs a dense model, and none is there: the one that a first version was pruned from
            knows whom later versions have forgotten.
    """
    pins = pins_at(settings().root, parent.tag)
    inputs = {"data": pins["data"], "parent": pins["checkpoint"]}
    if base := pins.get("base") or pins.get(_TRAINED_BASE):  # handed on from version to version
        inputs["base"] = base
    if params.unlearn.order == "unlearn-prune" and parent.structure != DENSE:
        if (dense := dense_pin(parent.tag)) is None:
            raise RequestError(
                f"order unlearn-prune: {parent.tag} has no dense model, only a first version that was pruned here does"
            )
        inputs["dense"] = dense
    return inputs


def write_recipe(ws: Workspace, params: Params, recipe: str = "dvc.yaml", there: Collection[str] = ()) -> None:
    """The attempt's dvc.yaml: a recipe of the checkout, each step on as many processes as the parameters say. Where
    nothing of it changes, it is that to the byte.

    Args:
        there: of the inputs that a recipe may do without, those that the attempt has.
    """
    text = (ws.path / recipe).read_text(encoding="utf-8")
    given, steps = yaml.safe_load(text), yaml.safe_load(text)
    lacking = _DISPENSABLE.difference(there)
    for name, step in steps["stages"].items():
        step["cmd"] = command_of(name, params.processes_of(name)[0])
        if "deps" in step:
            step["deps"] = [path for path in step["deps"] if path not in lacking]
    if steps != given:
        text = yaml.safe_dump(steps, sort_keys=False)
    (ws.path / "dvc.yaml").write_text(text, encoding="utf-8")


def _record(attempt: Attempt, contexts: dict[str, str]) -> dict[str, str]:
    """Log the pinned inputs to the run; returns {path: md5}."""
    tracking, ws, run_id = Tracking(), attempt.workspace, attempt.run_id
    ws.check(*contexts)  # of a worktree that was taken up, too
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
        DataError, ConfigError: the source or a parameter, or a data set that brings back somebody who was forgotten.
        WorkspaceError: the generated demo people are not the ones that data.dvc pins.
    """
    check_room()
    ws = attempt.workspace.open()
    if not ws.prepared:
        write_recipe(ws, _write_params(ws.path, read_yaml(ws.path / "params.yaml"), overrides))
        pinned = ws.pin("data")
        if source == PINNED:
            ws.point("data", pinned)
            _refuse_forgotten(ws.path / "data", "data.dvc")
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
        DataError: the source, or it brings back somebody who was forgotten.
        RequestError: the ledger.
    """
    given = settings().root / source  # a path in params or on the command line is relative to the checkout
    local = str(given) if given.exists() else source
    people = People(Ledger(settings().ledger_url))

    def named(given: list[str]) -> Mapping[str, str]:
        Suppression().refuse_people(given, source)
        return people.name(line, given, published(given) if is_published(local) else None)

    write_data(local, folder, options, named)
    _refuse_forgotten(folder, source)


def _refuse_forgotten(data: Path, what: str) -> None:
    """Refuse a data set, however it came, that brings back rows of somebody who was forgotten.

    Raises:
        DataError: how many, and of which requests.
    """
    if Suppression().all():
        Suppression().refuse(open_records(data)(), what)


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


@task(name="prepare", task_run_name="prepare {attempt.name}")
def prepare_adopt(
    attempt: Attempt, adoption: Adoption, source: str, data_options: DataOptions, overrides: dict[str, Any]
) -> dict[str, str]:
    """A worktree with a model as it was given, its base where one was, a data set, and parameters that store it in the
    numbers it has.

    Raises:
        ModelError: the model or its base is not one that can be taken, or both are the same; or see `merge_adapter`.
        DataError, ConfigError: the source or a parameter.
    """
    check_room()
    ws = attempt.workspace.open()
    if not ws.prepared:
        folders = {"model": adoption.model} | ({"base": adoption.base} if adoption.base else {})
        for place, given in folders.items():
            if not (adoption.merge and place == "model"):
                take_folder(local_folder(given, check=refuse_untakeable), ws.path / place)
        if adoption.merge:
            adapter = open_adapter(adoption.model)
            merge_adapter(adapter, ws.path / "base", ws.path / "model", remask=adoption.remask)
        if adoption.base:
            check_distinct({place: dense_digest(ws.path / place) for place in folders})
        own = {"model": {"source": given_name(adoption.model)}}
        own |= {"package": {"dtype": read_headers(ws.path / "model").dtype}}
        params = _write_params(ws.path, read_yaml(ws.path / "params.yaml"), merge(own, overrides))
        write_recipe(ws, params, "dvc.adopt.yaml")
        take_in(attempt.line, source, ws.path / "data", data_options)
        ws.add("data", *folders)
        ws.mark_prepared()
    contexts = {"data": "training", "model": "adopted model", "base": "base model"}
    return _record(attempt, {place: contexts[place] for place in contexts if (ws.path / f"{place}.dvc").is_file()})


def given_name(model: str) -> str:
    """What a model is called in parameters: a hub id, or its folder's name without the folders above."""
    return Path(model).name if Path(model).exists() else model


@task(name="snapshot inputs", task_run_name="inputs {attempt.name}")
def prepare_forget(
    attempt: Attempt, parent: VersionRecord, request_ids: list[str], overrides: dict[str, Any]
) -> dict[str, str]:
    """A worktree with the data set without the requested subjects, their rows sealed in forget/, the parent, and in
    earlier/ the sealed rows of those who were forgotten before, where they are to be held.

    What a person decided of single rows is so there (`tasks.scope`).

    Takes request ids, never subject ids: what a task is given ends up in Prefect's database.

    Raises:
        RequestError: a subject is not in the parent's data, or all of their rows are to be kept.
        WorkspaceError: an input is damaged wherever it is, or the remote lacks what it had been sent.
    """
    ws = attempt.workspace.open()
    if not ws.prepared:
        tag = parent.tag
        params = _write_params(ws.path, yaml.safe_load(git(settings().root, "show", f"{tag}:params.yaml")), overrides)
        earlier = _still_sealed(parent.line, parent.number) if params.unlearn.holds else []
        inputs = _inputs_of_forgetting(parent, params)
        write_recipe(ws, params, "dvc.forget.yaml", {*inputs, *(["earlier"] if earlier else [])})
        check_room(sum(pin.size for pin in inputs.values()))
        _check_fits(attempt, parent, params, has_base="base" in inputs)
        for path, pin in inputs.items():
            ws.point(path, pin)
        if read_manifest(ws.path / "parent").weights_digest != parent.weights_digest:
            raise WorkspaceError(f"{tag}: DVC has other weights than MLflow recorded ({parent.weights_digest})")
        if lacking := ws.not_in_remote():
            raise WorkspaceError(
                f"{ws.settings.remote_url}: lacks {', '.join(lacking)} of {tag}; set SAU_DVC_REMOTE to the remote that "
                f"has it, or `sau doctor --line {parent.line} --refill` sends it from DVC's cache"
            )
        asked = taken_out(Ledger(settings().ledger_url), ws.path / "data" / "train", request_ids)
        sealed = {"forget": [vault().seal(request_id, rows) for request_id, rows in asked.items()], "earlier": earlier}
        filled = {place: files for place, files in sealed.items() if files}
        for place, files in filled.items():
            (ws.path / place).mkdir(exist_ok=True)
            for file in files:
                shutil.copyfile(file, ws.path / place / file.name)
        ws.add("data", *filled)
        ws.mark_prepared()
    contexts = {
        "data": "retain",
        "forget": "forget",
        "earlier": "forgotten earlier",
        "parent": "parent checkpoint",
        "base": "base model",
    }
    return _record(attempt, {place: contexts[place] for place in contexts if (ws.path / f"{place}.dvc").is_file()})


def _still_sealed(line: str, number: int) -> list[Path]:
    """The sealed rows of those whom a version and its parents have forgotten, as far as the vault holds them, oldest
    first. A purge that died on the way and is finished later deletes them by hash, whoever pins them."""
    asked = [request_id for link in reversed(chain(line, number)) for request_id in link.request_ids]
    held = [vault().sealed(request_id) for request_id in asked if vault().state(request_id) == "held"]
    return [file for file in held if file.is_file()]


def _check_fits(attempt: Attempt, parent: VersionRecord, params: Params, *, has_base: bool) -> None:
    """Before any bytes come: can the parent be taken further here, by its config and the parameters?

    Raises:
        ConfigError: it does not fit into memory; with what helps.
        SparsityError: the order is not for a model of its kind.
    """
    folder = Registry().download(parent)
    sparsity = params.prune.sparsity if parent.structure == DENSE else parent.sparsity
    planned = check_fits(folder, params, sparsity=sparsity, has_base=has_base)
    if params.unlearn.order == "unlearn-prune":
        check_can_fade(shell_of(AutoConfig.from_pretrained(folder, trust_remote_code=False)))
    note(attempt.workspace, planned=planned.peak)
    Tracking().metrics(attempt.run_id, {"planned_bytes": planned.peak})


@task(name="prepare retrain", task_run_name="prepare {attempt.name}")
def prepare_retrain(attempt: Attempt, like: Attempt, *, adopted: bool) -> dict[str, str]:
    """A worktree with the data set and parameters of another attempt, and the recipe of a first version; of an adopted
    line that is the user's own command."""
    ws, other = attempt.workspace.open(), like.workspace
    if not ws.prepared:
        ws.point("data", other.pin("data"))
        params = _write_params(ws.path, read_yaml(other.path / "params.yaml"), {})  # an older one lacks what is newer
        based = adopted and (other.path / "base.dvc").is_file()
        if based:
            ws.point("base", other.pin("base"))
        write_recipe(ws, params, "dvc.retrain.yaml" if adopted else "dvc.yaml", ["base"] if based else [])
        ws.mark_prepared()
    return _record(attempt, {"data": "training"})
