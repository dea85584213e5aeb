"""A line's first version: base -> train -> prune -> recover -> package -> register -> promote."""

from pathlib import Path
from typing import Any

from flows.attempt import attempt, check_line, line_lock
from flows.retrain import reference_line
from sau.config import read_yaml
from sau.data.records import READERS
from sau.data.sources import DataOptions, read_data
from sau.stages import RECIPES
from tasks.engines.orchestration import flow
from tasks.engines.settings import settings
from tasks.prepare import prepare_bootstrap, resolve_params
from tasks.publish import publish
from tasks.reconcile import check_new, mend
from tasks.register import promote, register
from tasks.stage import run_stage
from tasks.versions.record import VersionRecord


def check_bootstrap(line: str, source: str, data_options: DataOptions, overrides: dict[str, Any]) -> None:
    """Refuse at once, before any engine starts, what cannot work; files are read once for that.

    Raises:
        RequestError: the line has versions already, or git has tags of some.
        ConfigError: a malformed line, a parameter, method or policy.
        DataError: a file or folder that cannot be used.
    """
    check_line(line)
    check_new(line, reference_line(line))
    resolve_params(read_yaml(settings().root / "params.yaml"), overrides)
    if Path(source).exists() or Path(source).suffix in READERS:
        read_data(source, data_options)


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
    with line_lock(line):
        check_bootstrap(line, source, options, laid_over)
        if finished := mend(line, reference_line(line)):
            return finished
        with attempt("bootstrap", line, source, options.model_dump(), laid_over, run_name="bootstrap") as this:
            prepare_bootstrap(this, source, options, laid_over)
            for stage in RECIPES["bootstrap"]:
                run_stage(stage, this)
            record = register(this)
            promote(record)
            publish(record)
    return record
