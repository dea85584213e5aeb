"""The flows: bootstrap a line's first version, forget, and retrain the reference. Read aloud, they are the product."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.settings import settings

settings()  # sets the engines' environment; has to come before prefect and mlflow are imported

from filelock import FileLock  # noqa: E402
from prefect import flow, task  # noqa: E402
from prefect.artifacts import create_markdown_artifact  # noqa: E402

from sau.config import read_yaml  # noqa: E402
from sau.errors import ConfigError, RequestError  # noqa: E402
from sau.params import load_params  # noqa: E402
from sau.stages import RECIPES  # noqa: E402
from tasks.ledger import LINE, Ledger, State  # noqa: E402
from tasks.lineage import chain, page, svg  # noqa: E402
from tasks.prepare import (  # noqa: E402
    prepare_bootstrap,
    prepare_forget,
    prepare_retrain,
    resolve_params,
    training_digest,
    workspace,
)
from tasks.register import BOOTSTRAP, promote, register  # noqa: E402
from tasks.stage import run_stage  # noqa: E402
from tasks.tracking import Tracking  # noqa: E402
from tasks.verify import verify  # noqa: E402
from tasks.workspace import Workspace  # noqa: E402

log = logging.getLogger("sau")
RETRAIN = "{line}-retrain"


def check_line(line: str) -> None:
    """Refuse a name that could not be a file, a git tag and part of an MLflow filter alike.

    Raises:
        ConfigError: malformed.
    """
    if not LINE.match(line):
        raise ConfigError(f"model line: malformed, it has to match {LINE.pattern}")


@contextmanager
def line_lock(line: str) -> Iterator[None]:
    """One attempt per line at a time; a second waits. The lock goes with the process that holds it."""
    check_line(line)
    folder = settings().state / "locks"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / f"{line}.lock"):
        yield


@contextmanager
def _attempt(kind: str, line: str, *inputs: Any) -> Iterator[Workspace]:
    """A worktree named after everything that goes in, gone at the end, whichever end that is.

    Only a killed process leaves one behind: the same attempt takes it up where it was, any other sweeps it away. What
    a failed attempt had finished comes back from DVC's run cache, so nothing is lost with the worktree.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
    for left in (settings().state / "work").glob(f"{kind}-{line}-{'[0-9a-f]' * 12}"):
        if not left.name.endswith(digest):
            workspace(left.name).close()
    ws = workspace(f"{kind}-{line}-{digest}")
    try:
        yield ws
    finally:
        ws.close()


def check_bootstrap(line: str, overrides: dict[str, Any]) -> None:
    """Refuse at once, before any engine starts, what cannot work.

    Raises:
        RequestError: the line has versions already.
        ConfigError: a malformed line, a parameter, method or policy.
    """
    check_line(line)
    if Tracking(settings()).versions(line):
        raise RequestError(f"line {line}: has versions already, a line is bootstrapped once")
    resolve_params(read_yaml(settings().root / "params.yaml"), overrides)


@flow(name="bootstrap", flow_run_name="bootstrap {line}")
def bootstrap(
    line: str,
    source: str = "demo",
    data_options: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """base -> train -> prune -> recover -> package -> register v1 as champion.

    Args:
        line: the model line's name.
        source: demo, pinned (what data.dvc pins), TOFU, or a user's data; `data_options` see `tasks.data.write_data`.
        overrides: parameters on top of params.yaml.

    Raises:
        RequestError: the line has versions already.
        SauError: whatever a step refuses.
    """
    options = {"forget": "forget01", "num_retain": 100, "num_holdout": 100, "subject_column": "subject_id"}
    tracking = Tracking(settings())
    with line_lock(line):
        check_bootstrap(line, overrides or {})
        with (
            _attempt("bootstrap", line, source, options | (data_options or {}), overrides or {}) as ws,
            tracking.run(line, "bootstrap") as run_id,
        ):
            prepare_bootstrap(ws.path.name, run_id, source, options | (data_options or {}), overrides or {})
            for stage in RECIPES["bootstrap"]:
                run_stage(stage, ws.path.name, line, run_id)
            version = register(ws.path.name, line, run_id, request_ids=[], parent=None, verdict=BOOTSTRAP, tags={})
            promote(line, version["version"])
            _publish_lineage(tracking, line, version["version"], run_id)
    return version


@flow(name="retrain", flow_run_name="retrain {line}")
def retrain(line: str, like: str) -> tuple[str, int]:
    """The reference: the bootstrap recipe on the data set of worktree `like`, which the forgotten rows are not in.

    A reference made from the same data set and parameters is taken as it is.

    Returns:
        (line, number) of the reference's version.
    """
    gold = RETRAIN.format(line=line)
    tracking, source = Tracking(settings()), workspace(like)
    wanted = {
        "data_md5": source.pin("data").md5,
        "training_digest": training_digest(load_params(source.path / "params.yaml")),
    }
    for version in tracking.versions(gold):
        if wanted.items() <= version.tags.items():
            return gold, int(version.version)
    log.info("retraining the reference without the forgotten rows")
    with _attempt("retrain", line, wanted) as ws, tracking.run(gold, "retrain") as run_id:
        prepare_retrain(ws.path.name, run_id, like)
        for stage in RECIPES["bootstrap"]:
            run_stage(stage, ws.path.name, gold, run_id)
        made = register(ws.path.name, gold, run_id, request_ids=[], parent=None, verdict=BOOTSTRAP, tags={})
    return gold, made["version"]


@flow(name="forget", flow_run_name="forget {line}")
def forget(
    line: str,
    reference: bool = True,
    retry_review: bool = False,
    overrides: dict[str, Any] | None = None,
    show_answers: bool = False,
) -> dict[str, Any]:
    """All open requests of a line: snapshot -> unlearn -> package -> verify -> register -> promote on PASS.

    Args:
        reference: retrain a reference model to judge by; without one the verdict cannot be PASS.
        retry_review: also take requests again whose last version did not pass.
        overrides: parameters on top of the parent version's.
        show_answers: put what the models answer into the report; rows of the demo people only.

    Returns:
        {"requests": [], "version": None} where nothing was open; else requests, version, tag, verdict, champion.

    Raises:
        SauError: whatever a step refuses; the requests are open again then.
    """
    ledger, tracking = Ledger(settings().ledger_url), Tracking(settings())
    with line_lock(line):
        requests = ledger.claim(line, retry_review=retry_review)
        ids = [request.id for request in requests]
        if not ids:
            log.info("no open request on %s", line)
            return {"requests": [], "version": None}
        try:
            outcome = _forget(tracking, line, ids, reference, overrides or {}, show_answers)
        except BaseException as error:
            for request_id in ids:
                ledger.move(request_id, [State.RUNNING], State.OPEN, last_error=type(error).__name__)
            raise
        for request_id in ids:
            ledger.move(
                request_id,
                [State.RUNNING],
                State.FORGOTTEN if outcome["champion"] else State.REVIEW,
                version=outcome["version"],
                verdict=outcome["verdict"],
                run_id=outcome["run_id"],
            )
    return outcome


def _forget(
    tracking: Tracking, line: str, ids: list[str], reference: bool, overrides: dict[str, Any], show_answers: bool
) -> dict[str, Any]:
    parent = tracking.champion(line)
    tags = {"request_ids": ",".join(ids), "parent": parent.tags["git_tag"]}
    with (
        _attempt("forget", line, parent.version, ids, overrides) as ws,
        tracking.run(line, f"forget {ids[0]}", tags=tags) as run_id,
    ):
        pins = prepare_forget(ws.path.name, run_id, line, ids, overrides)
        for stage in RECIPES["forget"]:
            run_stage(stage, ws.path.name, line, run_id)
        gold = retrain(line, ws.path.name) if reference else None
        judged = verify(ws.path.name, line, run_id, request_ids=ids, reference=gold, show_answers=show_answers)
        version = register(
            ws.path.name,
            line,
            run_id,
            request_ids=ids,
            parent=parent.version,
            verdict=judged["verdict"],
            verified=judged["model_digest"],
            tags={
                "forget_md5": pins["forget"],
                "policy": judged["policy"],
                "policy_digest": judged["policy_digest"],
                "reference": f"{gold[0]}@v{gold[1]}" if gold else "",
            },
        )
        champion = promote(line, version["version"])
        _publish_lineage(tracking, line, version["version"], run_id)
        publish_card(version["tag"], judged, run_id)
    return {"requests": ids, "champion": champion, "run_id": run_id, "verdict": judged["verdict"], **version}


def _publish_lineage(tracking: Tracking, line: str, number: int, run_id: str) -> None:
    links = chain(line, number)
    tracking.text(run_id, svg(links), "lineage.svg")
    tracking.text(run_id, page(links), "summary.html")


@task(name="report card", task_run_name="report {tag}")
def publish_card(tag: str, judged: dict[str, Any], run_id: str) -> None:
    """The checks in Prefect's UI, with the MLflow run that holds the report: ids, numbers and verdicts only."""
    verdict, policy = judged["verdict"], f"{judged['policy']} {judged['policy_digest'][:12]}"
    head = f"**{tag}**: {verdict} by policy {policy}\n\nMLflow run `{run_id}`, artifact `report.html`\n"
    names = list(judged["checks"][0]) if judged["checks"] else []
    lines = [names, ["---"] * len(names), *([_cell(check[name]) for name in names] for check in judged["checks"])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines if names)
    key = f"verdict-{tag.lower().replace('@', '-').replace('_', '-')}"
    create_markdown_artifact(f"{head}\n{table}", key=key, description=f"{tag}: {verdict}")


def _cell(value: Any) -> str:
    """A number, a range open at None, or a word."""
    if isinstance(value, list):
        return " to ".join(_cell(end) if end is not None else "..." for end in value)
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
