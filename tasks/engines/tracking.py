"""MLflow's registry on top of its runs: a line's versions, their aliases, tags and stored models."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlflow
from mlflow.entities import LifecycleStage, LoggedModelInput, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sau.errors import TrackingError
from tasks.engines.leases import fence
from tasks.engines.registered import PRODUCT, Registered, Tables
from tasks.engines.runs import LEDGER_TAG, Runs, all_pages, is_no_answer, mapped
from tasks.engines.settings import settings


class Tracking(Runs):
    """The MLflow side of one process: the runs of `Runs`, and the registry."""

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

    def store(self, source: str, folder: Path, what: str) -> None:
        """Store files of a version once more; `source` and `what` as in `download`."""
        fence()
        with mapped(f"storing {what}"):
            self.client.log_model_artifacts(source.removeprefix("models:/"), str(folder))


def _registered(version: ModelVersion) -> Registered:
    return Registered(
        version.name,
        int(version.version),  # an int or a string, as the client's release likes it
        version.tags,
        tuple(sorted(version.aliases)),
        version.run_id or "",
        version.source or "",
    )
