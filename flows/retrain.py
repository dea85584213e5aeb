"""The reference: a model retrained without the forgotten rows, by the recipe of a first version."""

import logging

from flows.attempt import attempt
from sau.params import load_params
from sau.stages import RECIPES
from tasks.engines.orchestration import flow
from tasks.engines.workspace import Attempt
from tasks.prepare import prepare_retrain
from tasks.register import register
from tasks.stage import run_stage
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

log = logging.getLogger("sau")


def reference_line(line: str) -> str:
    """The line that a line's references are versions of."""
    return f"{line}-retrain"


@flow(name="retrain", flow_run_name="retrain {like.line}")
def retrain(like: Attempt) -> VersionRecord:
    """The reference for an attempt, whose data set the forgotten rows are not in.

    One that was made from the same data set and parameters is taken as it is. Of an adopted line it is the user's own
    command that trains, see `check_retrainable`.
    """
    line, champion = reference_line(like.line), Registry().champion(like.line)
    adopted = bool(champion.adopted)
    data_md5 = like.workspace.pin("data").md5
    training_digest = load_params(like.workspace.path / "params.yaml").training_digest
    for record in Registry().all(line):
        if (record.data_md5, record.training_digest) == (data_md5, training_digest):
            return record
    log.info("retraining the reference without the forgotten rows")
    with attempt("retrain", line, data_md5, training_digest, run_name="retrain") as this:
        prepare_retrain(this, like, adopted=adopted)
        for stage in RECIPES["retrain" if adopted else "bootstrap"]:
            run_stage(stage, this)
        return register(this)
