"""MLflow: one experiment per line, one run per flow with a child run per step, versions with aliases and lineage.

Everything goes through `MlflowClient` with explicit ids: the fluent calls keep the current run in a thread-local and
make orphans inside task threads. Only ids, digests and numbers are logged.
"""

import contextlib
import json
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.entities import PagedList
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from sau.errors import SauError, TrackingError
from tasks.engines.database import Database, waiting
from tasks.engines.leases import fence, name_of
from tasks.engines.moved import put_right
from tasks.engines.registered import PRODUCT, Registered, Tables
from tasks.engines.settings import Settings, settings
from tasks.engines.workspace import Pin

log = logging.getLogger("sau")
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it writes tracebacks of what it raises

T = TypeVar("T")

LEDGER_TAG = "sau.ledger"
"""Tag of a run: the ledger whose leases exclude what else runs on its line."""
_MAX_PARAM = 500
_SEE = "see SAU_MLFLOW_TRACKING_URI"
_SEE_LOGIN = "see MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_BUSY = "its database is locked, or does not answer; run this again when it does"
_OPENINGS = 4
"""Others who open a local store first, and make its tables, may take so many times what a server is given."""
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}  # its page opens on runs, not on traces


@contextlib.contextmanager
def mapped(what: str) -> Iterator[None]:
    """The store's errors as ours, in a few words."""
    try:
        yield
    except SauError:
        raise
    except MlflowException as error:
        raise TrackingError(f"MLflow: {what}: {_reason(error)}") from None
    except ImportError as error:
        raise TrackingError(f"MLflow: {what}: Python module {error.name} is not installed") from None
    except Timeout:
        raise TrackingError(f"MLflow: {what}: another process has been opening it all the while") from None
    except (OSError, sqlite3.Error, SQLAlchemyError, ValueError) as error:
        raise TrackingError(f"MLflow: {what}: {type(error).__name__}") from None
    except Exception as error:  # the client takes an answer apart as it comes
        raise TrackingError(f"MLflow: {what}: {_odd(type(error).__name__)}") from None


def _reason(error: MlflowException) -> str:
    """In a few words, without the request's content."""
    if not is_no_answer(error):
        return _BUSY if error.error_code == "TEMPORARILY_UNAVAILABLE" else error.error_code
    if status := re.search(r"(?:failed with error code|too many) (\d+)", str(error)):
        if status[1] in ("401", "403"):
            return f"{_server()} does not let this login in (status {status[1]}), {_SEE_LOGIN}"
        return _odd(f"status {status[1]}")
    return _odd("no JSON") if "valid JSON" in str(error) else f"no answer from {_server()}, {_SEE}"


def is_no_answer(error: MlflowException) -> bool:
    """Whether it is the client's own words for a server that cannot be reached, or is none of MLflow's."""
    return str(error).startswith("API request to")


def _odd(how: str) -> str:
    return f"{_server()} does not answer as MLflow does ({how}), {_SEE}"


def _server() -> str:
    server = urlsplit(settings().tracking_uri)
    return f"{server.hostname}:{server.port or server.scheme}" if server.hostname else "the store"


def _try_database(uri: str, seconds: float) -> None:
    """Open a store that is a database once: where that fails, MLflow would try it again for an hour."""
    if uri.partition(":")[0].partition("+")[0] not in _DATABASES:
        return
    url = make_url(uri)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, hide_parameters=True, connect_args=waiting(url, seconds))
    try:
        inspect(engine).get_table_names()
    finally:
        engine.dispose()


class Tracking:
    """The MLflow side of one process.

    Raises:
        TrackingError: the store cannot be reached, or refuses; every method may.
    """

    def __init__(self, given: Settings | None = None) -> None:
        self.settings = given or settings()
        uri = self.settings.tracking_uri
        # The first to open a local store makes its tables, and two at once would make them twice.
        opening = FileLock(self.settings.state / "mlflow.lock", timeout=_OPENINGS * self.settings.mlflow_wait_s)
        with mapped("the store of SAU_MLFLOW_TRACKING_URI cannot be opened"), opening:
            _try_database(uri, self.settings.mlflow_wait_s)
            if root := self.settings.artifact_root:
                for before in put_right(self.settings.state / "mlflow.db", Path(root)):
                    log.warning("MLflow's files were in %s, and are named where they are now", before)
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            self.client = MlflowClient(uri, uri)

    @cached_property
    def ledger(self) -> str:
        """The name of the ledger's database."""
        return name_of(Database(self.settings.ledger_url))

    def experiment(self, line: str) -> str:
        """The line's experiment, made on first use.

        Raises:
            TrackingError: it was deleted, and MLflow keeps its name.
        """
        if found := self._experiment(line):
            return found
        with mapped(f"experiment {line}"):
            root = self.settings.artifact_root
            try:
                return self.client.create_experiment(
                    line, artifact_location=f"{root}/{line}" if root else None, tags=_EXPERIMENT
                )
            except MlflowException:  # another process was first
                if found := self._experiment(line):
                    return found
                raise

    def _experiment(self, line: str) -> str | None:
        with mapped(f"experiment {line}"):
            found = self.client.get_experiment_by_name(line)
        if found and found.lifecycle_stage == LifecycleStage.DELETED:
            raise TrackingError(
                f"MLflow: experiment {line} was deleted, and with it the line's runs; bring it back with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
            )
        return found.experiment_id if found else None

    @contextlib.contextmanager
    def run(
        self, line: str, name: str, *, parent: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Iterator[str]:
        """An MLflow run as a context: its id; FAILED where the block raises. Its duration is logged as `seconds`."""
        all_tags = dict(tags or {}) | {LEDGER_TAG: self.ledger} | ({"mlflow.parentRunId": parent} if parent else {})
        with mapped(f"run {name}"):
            run_id = self.client.create_run(self.experiment(line), run_name=name, tags=all_tags).info.run_id
        started = time.monotonic()
        try:
            yield run_id
        except BaseException:
            with contextlib.suppress(Exception):  # what the block raised is what is to be said
                self.client.set_terminated(run_id, "FAILED")
            raise
        self.metrics(run_id, {"seconds": time.monotonic() - started})
        with mapped(f"run {name}"):
            self.client.set_terminated(run_id, "FINISHED")

    def finish(self, run_id: str) -> None:
        """Say of a run that its work was finished, by whichever attempt."""
        with mapped("run"):
            self.client.set_terminated(run_id, "FINISHED")

    def end_dead_runs(self, line: str) -> list[str]:
        """End a line's running runs as KILLED, and delete models that unfinished runs stored and did not register.

        Those of this ledger only: none of them runs, the line is held by a caller who has begun no run yet.

        Returns:
            The ids of the runs.
        """
        if (experiment := self._experiment(line)) is None:
            return []
        fence()
        with mapped(f"dead runs of {line}"):
            of_ours = f"attributes.status != 'FINISHED' and tags.`{LEDGER_TAG}` = '{self.ledger}'"
            runs = all_pages(partial(self.client.search_runs, [experiment], of_ours))
            unfinished = {run.info.run_id for run in runs}
            dead = [run.info.run_id for run in runs if run.info.status == "RUNNING"]
            models = all_pages(partial(self.client.search_logged_models, [experiment])) if unfinished else []
            left = [model.model_id for model in models if model.source_run_id in unfinished]
            sources = {entry.source for entry in self.all_registered(line)} if left else set()
            for model_id in left:
                if f"models:/{model_id}" not in sources:
                    self.client.delete_logged_model(model_id)
            for run_id in dead:
                self.client.set_terminated(run_id, "KILLED")
        return dead

    def params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log a nested mapping of parameters under dotted names."""
        flat = [Param(key, str(value)[:_MAX_PARAM]) for key, value in flatten(params).items()]
        with mapped("parameters"):
            self.client.log_batch(run_id, params=flat)

    def metrics(self, run_id: str, metrics: Mapping[str, Any]) -> None:
        """Log the numbers of a mapping; a `trajectory` (list of points with `step`) becomes curves."""
        now = int(time.time() * 1000)
        points = [
            Metric(key, float(value), now, 0)
            for key, value in flatten({k: v for k, v in metrics.items() if k != "trajectory"}).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        for point in metrics.get("trajectory", ()):
            points += [
                Metric(key, float(value), now, int(point["step"]))
                for key, value in point.items()
                if key != "step" and isinstance(value, int | float)
            ]
        with mapped("metrics"):
            for start in range(0, len(points), 1000):
                self.client.log_batch(run_id, metrics=points[start : start + 1000])

    def page_of(self, line: str, run_id: str = "", artifact: str = "") -> str:
        """Where MLflow's pages show a line's runs, one run, or an artifact of it, after the server's address.

        Said outright, since without it MLflow opens its other half, which shows no versions.
        """
        path = f"#/experiments/{self.experiment(line)}/runs"
        path += f"/{run_id}" if run_id else ""
        path += f"/artifacts/{artifact}" if artifact else ""
        return f"{path}?workflowType=machine_learning"

    def lines(self) -> list[str]:
        """Every model line that has an experiment."""
        with mapped("experiments"):
            kind = next(iter(_EXPERIMENT.items()))
            of_ours = f"tags.`{kind[0]}` = '{kind[1]}'"
            found = all_pages(partial(self.client.search_experiments, filter_string=of_ours))
        return sorted(experiment.name for experiment in found)

    def tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        with mapped("tags"):
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def dataset(self, run_id: str, name: str, pin: Pin, context: str) -> None:
        """Make a DVC-pinned data set an input of a run: its digest is the md5 that DVC pins."""
        source = json.dumps({"dvc": pin.md5, "path": name})
        profile = json.dumps({"num_files": pin.nfiles, "num_bytes": pin.size})
        entity = Dataset(name=name, digest=pin.md5, source_type="dvc", source=source, profile=profile)
        with mapped("data set input"):
            self.client.log_inputs(run_id, datasets=[DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    def describe(self, run_id: str, text: str) -> None:
        """Set a run's description, Markdown: what its page shows first."""
        self.tags(run_id, {"mlflow.note.content": text})

    def text(self, run_id: str, content: str, name: str) -> None:
        """Store a text as an artifact of a run."""
        with mapped(f"artifact {name}"):
            self.client.log_text(run_id, content, name)

    # -- registry -----------------------------------------------------------------------------------

    def registered(self, line: str, number: int | None, *, alias: str) -> Registered | None:
        """A version of a line by number, else by alias; None where there is none."""
        with mapped(f"version of {line}"):
            try:
                if number is None:
                    return _registered(self.client.get_model_version_by_alias(line, alias))
                return _registered(self.client.get_model_version(line, str(number)))
            except MlflowException as error:
                missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
                if missing and not is_no_answer(error):  # a page that is not there is no registry that says so
                    return None
                raise

    def _model(self, line: str) -> RegisteredModel | None:
        with mapped(f"versions of {line}"):
            found = self.client.search_registered_models(f"name = '{line}'")
        return found[0] if found else None

    def has_line(self, line: str) -> bool:
        """Whether MLflow knows a line: by a registered model of ours, or an experiment.

        Raises:
            TrackingError: the registered model is somebody else's.
        """
        self._check_ours(line)
        with mapped(f"experiment {line}"):
            return self._model(line) is not None or self.client.get_experiment_by_name(line) is not None

    def _check_ours(self, line: str) -> RegisteredModel | None:
        """Refuse a registered model that is somebody else's; returns ours."""
        model = self._model(line)
        if model and PRODUCT not in model.tags.items():
            raise TrackingError(
                f"MLflow: the registered model {line} is not this product's (no tag product=sau): "
                "take another name with --line"
            )
        return model

    def all_registered(self, line: str) -> list[Registered]:
        """Every version of a line, oldest first; a local store is read off its tables, thirty times as fast.

        Raises:
            TrackingError: the registry has somebody else's model of that name.
        """
        if self.settings == settings() and (here := Tables().line(line)):
            return here[0]
        model = self._check_ours(line)
        aliases: dict[int, list[str]] = {}  # a search of versions tells none
        for alias, number in (model.aliases if model else {}).items():
            aliases.setdefault(int(number), []).append(alias)
        with mapped(f"versions of {line}"):
            found = map(_registered, all_pages(partial(self.client.search_model_versions, f"name = '{line}'")))
            known = [replace(entry, aliases=tuple(sorted(aliases.get(entry.number, ())))) for entry in found]
        return sorted(known, key=lambda entry: entry.number)

    def with_weights(self, line: str, weights_digest: str) -> list[Registered]:
        """The versions of a line that have these weights, oldest first, without their aliases.

        Raises:
            TrackingError: as of `all_registered`.
        """
        self._check_ours(line)
        with mapped(f"versions of {line}"):
            which = f"name = '{line}' and tags.weights_digest = '{weights_digest}'"
            found = all_pages(partial(self.client.search_model_versions, which))
        return sorted(map(_registered, found), key=lambda entry: entry.number)

    def register(
        self,
        line: str,
        checkpoint: Path,
        *,
        run_id: str,
        tags: Mapping[str, str],
        parent_source: str | None,
        description: str,
        number: int | None = None,
    ) -> Registered:
        """Store a checkpoint as a logged model and register it as the line's next version.

        The run gets the new model as output and the parent version's model as input.

        Args:
            number: the one to register it under. MLflow gives numbers in order and none twice: those before it stay
                empty, and where it was given already, the next one is taken.

        Raises:
            LeaseError: meanwhile another attempt has the line; so may whatever moves an alias or tags a version.
        """
        with mapped(f"registering {line}"):
            model = self.client.create_logged_model(
                self.experiment(line), name=line, source_run_id=run_id, tags=dict(tags), model_type="sau-sparse"
            )
            self.client.log_model_artifacts(model.model_id, str(checkpoint))
            self.client.finalize_logged_model(model.model_id, "READY")
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
            if parent_source:
                self.client.log_inputs(run_id, models=[LoggedModelInput(parent_source.removeprefix("models:/"))])
            fence()
            with contextlib.suppress(MlflowException):  # it exists from the second version on
                self.client.create_registered_model(line, tags=dict([PRODUCT]))
            register = partial(
                self.client.create_model_version,
                line,
                f"models:/{model.model_id}",
                run_id,
                tags=dict(tags),
                description=description,
                model_id=model.model_id,
            )
            version = register()
            while number and int(version.version) < number:
                self.client.delete_model_version(line, version.version)
                version = register()
        return _registered(version)

    def delete_version(self, line: str, number: int) -> None:
        """Take a version out of the registry; its model stays stored."""
        fence()
        with mapped(f"deleting {line} version {number}"):
            self.client.delete_model_version(line, str(number))

    def rename_line(self, line: str, name: str) -> None:
        """Give a line's registered model and experiment another name; what has it already, or is not there, stays.

        Raises:
            TrackingError: the registered model is somebody else's.
        """
        self._check_ours(line)
        fence()
        with mapped(f"renaming {line}"):
            if self._model(line):
                self.client.rename_registered_model(line, name)
            if found := self.client.get_experiment_by_name(line):
                if found.lifecycle_stage == LifecycleStage.DELETED:  # it would keep the name to itself
                    self.client.restore_experiment(found.experiment_id)
                self.client.rename_experiment(found.experiment_id, name)

    def judged_runs(self, line: str, weights_digest: str) -> list[tuple[str, Mapping[str, str]]]:
        """Runs of a line that hold a verdict on these weights, newest first: their ids and tags."""
        if (experiment := self._experiment(line)) is None:
            return []
        with mapped(f"runs of {line}"):
            of_these = f"tags.weights_digest = '{weights_digest}'"
            found = all_pages(partial(self.client.search_runs, [experiment], of_these))
        return [(run.info.run_id, run.data.tags) for run in found]

    def tag_version(self, line: str, number: int, tags: Mapping[str, str]) -> None:
        fence()
        with mapped(f"tags of {line} version {number}"):
            for key, value in tags.items():
                self.client.set_model_version_tag(line, str(number), key, value)

    def tag_line(self, line: str, key: str, value: str) -> None:
        """Tag a line as a whole."""
        with mapped(f"tags of {line}"):
            self.client.set_registered_model_tag(line, key, value)

    def line_tags(self, line: str) -> Mapping[str, str]:
        """A line's own tags; none where it has no version."""
        model = self._model(line)
        return model.tags if model else {}

    def describe_version(self, line: str, number: int, text: str) -> None:
        """Set a version's description, Markdown."""
        with mapped(f"description of {line} version {number}"):
            self.client.update_model_version(line, str(number), text)

    def set_alias(self, line: str, alias: str, number: int) -> None:
        """Point an alias at a version and read it back (aliases have no compare-and-swap)."""
        fence()
        with mapped(f"alias {alias} of {line}"):
            self.client.set_registered_model_alias(line, alias, str(number))
        found = self.registered(line, None, alias=alias)
        if found is None or found.number != number:
            raise TrackingError(f"MLflow: alias {alias} of {line} does not point at version {number} after it was set")

    def delete_model(self, source: str) -> int:
        """Delete the stored files of a version's model for good; its entry in the registry stays.

        Args:
            source: the version's source, models:/...

        Returns:
            How many files are left.
        """
        with mapped("deleting a model"):
            try:
                location = self.client.get_logged_model(source.removeprefix("models:/")).artifact_location
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return 0
                raise
            store = get_artifact_repository(location)
            if files := store.list_artifacts():
                for file in files:
                    store.delete_artifacts(file.path)
            return len(store.list_artifacts())

    def download(self, source: str, what: str) -> Path:
        """Stored files on this machine (the store's own folder where it is local).

        Args:
            source: the version's source, models:/...
            what: the version in words, for an error.
        """
        with mapped(f"downloading {what}"):
            return Path(mlflow.artifacts.download_artifacts(source, tracking_uri=self.settings.tracking_uri))

    def seconds(self, run_id: str) -> float:
        """How long a run took, or has taken until now."""
        with mapped("run"):
            info = self.client.get_run(run_id).info
        return ((info.end_time or int(time.time() * 1000)) - info.start_time) / 1000

    def store(self, source: str, folder: Path, what: str) -> None:
        """Store files of a version once more; `source` and `what` as in `download`."""
        fence()
        with mapped(f"storing {what}"):
            self.client.log_model_artifacts(source.removeprefix("models:/"), str(folder))

    def artifact(self, run_id: str, name: str) -> str:
        """The text of a run's artifact."""
        with mapped(f"artifact {name}"):
            return Path(self.client.download_artifacts(run_id, name)).read_text(encoding="utf-8")


def all_pages(search: Callable[..., PagedList[T]]) -> list[T]:
    """Everything that a search finds: one answer is a page, of which there may be more."""
    found = [*(page := search())]
    while page.token:
        found += (page := search(page_token=page.token))
    return found


def _registered(version: ModelVersion) -> Registered:
    return Registered(
        version.name,
        int(version.version),  # an int or a string, as the client's release likes it
        version.tags,
        tuple(sorted(version.aliases)),
        version.run_id or "",
        version.source or "",
    )


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
