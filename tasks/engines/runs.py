"""MLflow's runs: one experiment per line, one run per flow with a child run per step, and the store's errors as ours.

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
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from sau.errors import SauError, TrackingError
from tasks.engines.database import Database, waiting
from tasks.engines.leases import name_of
from tasks.engines.moved import put_right
from tasks.engines.pins import Pin
from tasks.engines.settings import Settings, settings

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


class Runs:
    """Experiments and runs of MLflow, for one process.

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

    def judged_runs(self, line: str, weights_digest: str) -> list[tuple[str, Mapping[str, str]]]:
        """Runs of a line that hold a verdict on these weights, newest first: their ids and tags."""
        if (experiment := self._experiment(line)) is None:
            return []
        with mapped(f"runs of {line}"):
            of_these = f"tags.weights_digest = '{weights_digest}'"
            found = all_pages(partial(self.client.search_runs, [experiment], of_these))
        return [(run.info.run_id, run.data.tags) for run in found]

    def seconds(self, run_id: str) -> float:
        """How long a run took, or has taken until now."""
        with mapped("run"):
            info = self.client.get_run(run_id).info
        return ((info.end_time or int(time.time() * 1000)) - info.start_time) / 1000

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


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
