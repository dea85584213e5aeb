"""A line's first version: base -> train -> prune -> recover -> package, or adopted; -> register -> promote."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flows.attempt import attempt, check_line, line_lock
from flows.retrain import reference_line
from sau.config import read_yaml
from sau.data.readers import READERS
from sau.data.sources import DataOptions, open_source
from sau.errors import ConfigError, ModelError, RequestError
from sau.models.folder import check_takeable, fingerprint
from sau.params import Params
from sau.pruners.adapter import check_merge, open_adapter
from sau.stages import RECIPES
from tasks.engines.orchestration import flow
from tasks.engines.settings import settings
from tasks.engines.workspace import Attempt
from tasks.memory import forecast, params_of_checkout
from tasks.prepare import Adoption, prepare_adopt, prepare_bootstrap, resolve_params
from tasks.publish import publish
from tasks.reconcile import check_new, mend
from tasks.register import promote, register
from tasks.stage import run_stage
from tasks.suppression import Suppression
from tasks.versions.record import VersionRecord

log = logging.getLogger("sau")


def check_bootstrap(line: str, source: str, data_options: DataOptions, overrides: dict[str, Any]) -> None:
    """Refuse at once, before any engine starts, what cannot work; files are read once for that.

    Raises:
        RequestError: the line has versions already, also a first one of other parameters; or git has tags of some.
        ConfigError: a malformed line, a parameter, method or policy.
        DataError: a file or folder that cannot be used, or that brings back somebody who was forgotten.
    """
    begun, params = _checked(line, source, data_options, overrides)
    if begun and begun.params_digest != params.digest:
        raise RequestError(
            f"{begun.tag}: was made with other parameters and does not lead yet; `sau doctor --line {line}` finishes "
            "it as it is, or take another name with --line"
        )


def _checked(
    line: str, source: str, data_options: DataOptions, overrides: dict[str, Any]
) -> tuple[VersionRecord | None, Params]:
    """A first version that was begun, where there is one, and the parameters that are asked for now."""
    check_line(line)
    begun = check_new(line, reference_line(line))
    params = resolve_params(read_yaml(settings().root / "params.yaml"), overrides)
    if Path(source).exists() or Path(source).suffix.lower() in READERS:
        opened = open_source(source, data_options)
        Suppression().refuse_people(opened.people, source)
        Suppression().refuse((row for _, row in opened.rows()), source)
    return begun, params


def check_adopt(
    line: str, adoption: Adoption, source: str, data_options: DataOptions, overrides: dict[str, Any]
) -> Adoption:
    """As `check_bootstrap`, and what is no model to be taken in is refused by its config and headers.

    Returns:
        The adoption with the models that it named on this machine, and of an adapter with the base that it names.

    Raises:
        ModelError: see `sau.models.folder` and `sau.pruners.adapter.open_adapter`.
    """
    _checked(line, source, data_options, overrides)
    if not adoption.merge and adoption.remask is not None:
        raise ConfigError(
            "--remask and --no-remask say what becomes of zeros when an adapter is merged: --merge-adapter"
        )
    adapter = open_adapter(adoption.model) if adoption.merge else None
    base = adoption.base or (adapter.base if adapter else "")
    folders = [adapter.folder if adapter else check_takeable(adoption.model)]
    try:
        folders += [check_takeable(base)] if base or adapter else []
    except ModelError as error:
        if adoption.base:
            raise
        raise ModelError(f"{error}; the adapter names that as its base, say with --base where it is") from None
    return adoption.model_copy(update={"base": base, "fingerprint": " ".join(map(fingerprint, folders))})


def check_zeros(adoption: Adoption) -> None:
    """Before anything begins: refuse a merge that fills zeros of its base where nobody said what becomes of them.

    Raises:
        ModelError: it does, or adapter and base do not fit.
    """
    if adoption.merge and adoption.remask is None:
        check_merge(open_adapter(adoption.model), check_takeable(adoption.base))


@flow(name="bootstrap", flow_run_name="bootstrap {line}")
def bootstrap(
    line: str,
    source: str = "demo",
    data_options: DataOptions | None = None,
    overrides: dict[str, Any] | None = None,
) -> VersionRecord:
    """Make and register v1 as champion.

    Args:
        line: the model line's name.
        source: demo, pinned (what data.dvc pins), TOFU, or a user's data; see `sau.data.sources.write_data`.
        data_options: how to read it.
        overrides: parameters on top of params.yaml.

    Raises:
        RequestError: the line has versions already.
        SauError: whatever a step refuses.
    """
    options, laid_over = data_options or DataOptions(), overrides or {}
    with line_lock(line, "bootstrap"):
        check_bootstrap(line, source, options, laid_over)
        inputs = (source, options.model_dump(), laid_over)
        prepare = partial(prepare_bootstrap, source=source, data_options=options, overrides=laid_over)
        return _first_version("bootstrap", line, inputs, prepare)


@flow(name="adopt", flow_run_name="adopt {line}")
def adopt(
    line: str,
    adoption: Adoption,
    source: str,
    data_options: DataOptions | None = None,
    overrides: dict[str, Any] | None = None,
) -> VersionRecord:
    """Register a model that exists already as v1 and champion, not one weight changed.

    Args:
        line, source, data_options, overrides: as of `bootstrap`; the rows are those the model was trained on.
        adoption: the model, and its base where that is known.

    Raises:
        RequestError: the line has versions already.
        SauError: whatever a step refuses.
    """
    options, laid_over = data_options or DataOptions(), overrides or {}
    with line_lock(line, "adopt"):
        known = check_adopt(line, adoption, source, options, laid_over)
        planned = known.base if known.merge else known.model
        later = forecast(planned, params_of_checkout(laid_over), sparsity=0.5, has_base=bool(known.base))
        if not later.fits:
            log.warning("forgetting: %s", later.verdict)
        inputs = (known.model_dump(), source, options.model_dump(), laid_over)
        prepare = partial(prepare_adopt, adoption=known, source=source, data_options=options, overrides=laid_over)
        return _first_version("adopt", line, inputs, prepare)


def _first_version(
    recipe: str, line: str, inputs: tuple[Any, ...], prepare: Callable[[Attempt], dict[str, str]]
) -> VersionRecord:
    """By a recipe of `sau.stages`, once its inputs are prepared; the line's lock is held."""
    if finished := mend(line, reference_line(line)):
        return finished
    with attempt(recipe, line, *inputs, run_name=recipe) as this:
        prepare(this)
        for stage in RECIPES[recipe]:
            run_stage(stage, this)
        record = register(this)
        promote(record)
        publish(record)
    return record
