"""MLflow: one experiment per line, one run per flow with a child run per step, versions with aliases and lineage.

Everything goes through `MlflowClient` with explicit ids: the fluent calls keep the current run in a thread-local and
make orphans inside task threads. Only ids, digests and numbers are logged.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from sau.errors import RequestError, TrackingError
from tasks.settings import Settings
from tasks.workspace import Pin

CHAMPION, CANDIDATE = "champion", "candidate"
_MAX_PARAM = 500


@contextlib.contextmanager
def _mapped(what: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise TrackingError(f"MLflow: {what}: {error.error_code}") from None
    except OSError as error:
        raise TrackingError(f"MLflow: {what}: {type(error).__name__}") from None


class Tracking:
    """The MLflow side of one process.

    Raises:
        TrackingError: the store cannot be reached, or refuses; every method may.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        with _mapped(f"opening {settings.tracking_uri.partition('://')[0]} store"):
            mlflow.set_tracking_uri(settings.tracking_uri)
            mlflow.set_registry_uri(settings.tracking_uri)
            self.client = MlflowClient(settings.tracking_uri, settings.tracking_uri)

    def experiment(self, line: str) -> str:
        """The line's experiment, made on first use."""
        with _mapped(f"experiment {line}"):
            if found := self.client.get_experiment_by_name(line):
                return found.experiment_id
            root = self.settings.artifact_root
            try:
                return self.client.create_experiment(line, artifact_location=f"{root}/{line}" if root else None)
            except MlflowException:  # another process was first
                if found := self.client.get_experiment_by_name(line):
                    return found.experiment_id
                raise

    @contextlib.contextmanager
    def run(
        self, line: str, name: str, *, parent: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Iterator[str]:
        """An MLflow run as a context: its id; FAILED where the block raises. Its duration is logged as `seconds`."""
        all_tags = dict(tags or {}) | ({"mlflow.parentRunId": parent} if parent else {})
        with _mapped(f"run {name}"):
            run_id = self.client.create_run(self.experiment(line), run_name=name, tags=all_tags).info.run_id
        started = time.monotonic()
        try:
            yield run_id
        except BaseException:
            with contextlib.suppress(MlflowException):
                self.client.set_terminated(run_id, "FAILED")
            raise
        self.metrics(run_id, {"seconds": time.monotonic() - started})
        with _mapped(f"run {name}"):
            self.client.set_terminated(run_id, "FINISHED")

    def params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log a nested mapping of parameters under dotted names."""
        flat = [Param(key, str(value)[:_MAX_PARAM]) for key, value in flatten(params).items()]
        with _mapped("parameters"):
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
        with _mapped("metrics"):
            for start in range(0, len(points), 1000):
                self.client.log_batch(run_id, metrics=points[start : start + 1000])

    def tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        with _mapped("tags"):
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def dataset(self, run_id: str, name: str, pin: Pin, context: str) -> None:
        """Make a DVC-pinned data set an input of a run: its digest is the md5 that DVC pins."""
        source = json.dumps({"dvc": pin.md5, "path": name})
        profile = json.dumps({"num_files": pin.nfiles, "num_bytes": pin.size})
        entity = Dataset(name=name, digest=pin.md5, source_type="dvc", source=source, profile=profile)
        with _mapped("data set input"):
            self.client.log_inputs(run_id, datasets=[DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    def text(self, run_id: str, content: str, name: str) -> None:
        """Store a text as an artifact of a run."""
        with _mapped(f"artifact {name}"):
            self.client.log_text(run_id, content, name)

    # -- registry -----------------------------------------------------------------------------------

    def version(self, line: str, number: int | None = None, *, alias: str = CHAMPION) -> ModelVersion | None:
        """A version of a line by number, else by alias; None where there is none."""
        try:
            if number is None:
                return self.client.get_model_version_by_alias(line, alias)
            return self.client.get_model_version(line, str(number))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise TrackingError(f"MLflow: version of {line}: {error.error_code}") from None

    def champion(self, line: str) -> ModelVersion:
        """The line's champion.

        Raises:
            RequestError: it has none yet.
        """
        if (version := self.version(line)) is None:
            raise RequestError(f"line {line}: no champion version, run `sau bootstrap` first")
        return version

    def versions(self, line: str) -> list[ModelVersion]:
        """Every version of a line, oldest first."""
        with _mapped(f"versions of {line}"):
            found = self.client.search_model_versions(f"name = '{line}'")
        return sorted(found, key=lambda v: int(v.version))

    def register(
        self,
        line: str,
        checkpoint: Path,
        *,
        run_id: str,
        tags: Mapping[str, str],
        parent: ModelVersion | None,
        description: str,
    ) -> ModelVersion:
        """Store a checkpoint as a logged model and register it as the line's next version, alias `candidate`.

        The run gets the new model as output and the parent version's model as input. A version that an earlier
        attempt registered with the same tags is returned as it is.
        """
        for found in self.versions(line):
            if all(found.tags.get(key) == tags[key] for key in ("request_ids", "parent_version", "model_digest")):
                self.set_alias(line, CANDIDATE, found.version)
                return found
        with _mapped(f"registering {line}"):
            model = self.client.create_logged_model(
                self.experiment(line), name=line, source_run_id=run_id, tags=dict(tags), model_type="sau-sparse"
            )
            self.client.log_model_artifacts(model.model_id, str(checkpoint))
            self.client.finalize_logged_model(model.model_id, "READY")
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
            if parent and parent.source:
                self.client.log_inputs(run_id, models=[LoggedModelInput(parent.source.removeprefix("models:/"))])
            with contextlib.suppress(MlflowException):  # it exists from the second version on
                self.client.create_registered_model(line, tags={"product": "sau"})
            version = self.client.create_model_version(
                line,
                f"models:/{model.model_id}",
                run_id,
                tags=dict(tags),
                description=description,
                model_id=model.model_id,
            )
        self.set_alias(line, CANDIDATE, version.version)
        return version

    def tag_version(self, line: str, number: str, tags: Mapping[str, str]) -> None:
        with _mapped(f"tags of {line} version {number}"):
            for key, value in tags.items():
                self.client.set_model_version_tag(line, number, key, value)

    def set_alias(self, line: str, alias: str, number: str) -> None:
        """Point an alias at a version and read it back (aliases have no compare-and-swap)."""
        with _mapped(f"alias {alias} of {line}"):
            self.client.set_registered_model_alias(line, alias, number)
        found = self.version(line, alias=alias)
        if found is None or found.version != number:
            raise TrackingError(f"MLflow: alias {alias} of {line} does not point at version {number} after it was set")

    def download(self, version: ModelVersion) -> Path:
        """A version's stored checkpoint on this machine (the store's own folder where it is local)."""
        with _mapped(f"downloading {version.name} version {version.version}"):
            return Path(mlflow.artifacts.download_artifacts(version.source, tracking_uri=self.settings.tracking_uri))


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
