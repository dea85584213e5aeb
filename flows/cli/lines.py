"""What is done to a model line: bootstrap, forget, demo, and the schedule."""

from typing import Annotated

import typer

from flows.cli.options import (
    Column,
    ForgetSplit,
    HoldoutRows,
    Line,
    Profile,
    PromptFormat,
    RetainRows,
    Set,
    SubjectColumn,
    absolute,
    data_options,
    overrides,
)
from flows.cli.requests import open_ledger
from flows.cli.stores import print_findings
from sau.cli.app import app
from sau.cli.console import COLOURS, EXIT_CODES, AsJson, ShowAnswers, err, out, plain, print_json, progress
from sau.config import merge
from sau.errors import RequestError


@app.command("bootstrap")
def bootstrap_line(
    line: Line = "tiny",
    data: Annotated[
        str,
        typer.Option(
            help="demo, pinned (what data.dvc pins), a file or folder of rows (JSON lines, JSON, CSV, Parquet), a hub "
            "data set as name, name:config or name:config:split, TOFU's folder or hub name."
        ),
    ] = "demo",
    profile: Profile = None,
    set_: Set = None,
    forget_split: ForgetSplit = "forget01",
    retain_rows: RetainRows = 100,
    holdout_rows: HoldoutRows = None,
    subject_column: SubjectColumn = "subject_id",
    column: Column = None,
    prompt_format: PromptFormat = None,
    as_json: AsJson = False,
) -> None:
    """Make a line's first version: train, prune, recover, package, register v1 as champion."""
    from flows.servers import embedded_server

    server_is_up = embedded_server()
    with progress():
        from flows.bootstrap import bootstrap, check_bootstrap

        laid_over = overrides(profile, set_, prompt_format)
        source = absolute(data)
        options = data_options(
            laid_over,
            column,
            forget=forget_split,
            num_retain=retain_rows,
            num_holdout=holdout_rows,
            subject_column=subject_column,
        )
        check_bootstrap(line, source, options, laid_over)
        server_is_up()
        record = bootstrap(line, source, options, laid_over)
    if as_json:
        print_json(record)
    else:
        out.print(f"[bold]{record.tag}[/] is registered and champion")


@app.command("adopt")
def adopt_line(
    line: Line,
    model: Annotated[
        str, typer.Option(help="Folder or hub id of the model in production: safetensors, no code of its own.")
    ],
    data: Annotated[str, typer.Option(help="The rows it was trained on: a file or folder, as in bootstrap.")],
    holdout: Annotated[
        str | None,
        typer.Option(help="Rows of people it never saw; default: the last people of the data."),
    ] = None,
    base: Annotated[
        str, typer.Option(help="Folder or hub id of the model it was trained from, if you have it: sharper verdicts.")
    ] = "",
    prune: Annotated[bool, typer.Option(help="Prune it at once, where it brings no mask.")] = False,
    merge_adapter: Annotated[
        bool,
        typer.Option(
            "--merge-adapter", help="--model is an adapter: peft merges it into --base, or the base it names."
        ),
    ] = False,
    remask: Annotated[
        bool | None, typer.Option(help="Where merging fills zeros of the base: set them to zero again, or let them go.")
    ] = None,
    profile: Profile = None,
    set_: Set = None,
    holdout_rows: HoldoutRows = None,
    subject_column: SubjectColumn = "subject_id",
    column: Column = None,
    prompt_format: PromptFormat = None,
    as_json: AsJson = False,
) -> None:
    """Make the model you have a line's first version, not one weight changed: its mask is read from its zeros."""
    from flows.servers import embedded_server

    server_is_up = embedded_server()
    with progress():
        from flows.bootstrap import adopt, check_adopt, check_zeros
        from tasks.prepare import Adoption
        from tasks.versions.origin import check_retrainable

        laid_over = merge(overrides(profile, set_, prompt_format), {"adopt": {"prune": True}} if prune else {})
        options = data_options(
            laid_over,
            column,
            num_holdout=holdout_rows,
            subject_column=subject_column,
            holdout=absolute(holdout) if holdout else None,
        )
        given = Adoption(model=absolute(model), base=absolute(base) if base else "", merge=merge_adapter, remask=remask)
        source = absolute(data)
        check_zeros(check_adopt(line, given, source, options, laid_over))
        server_is_up()
        record = adopt(line, given, source, options, laid_over)
    if as_json:
        print_json(record)
        return
    out.print(f"[bold]{record.tag}[/] is registered and champion: {record.sparse_in_words}", soft_wrap=True)
    try:
        check_retrainable(record)
    except RequestError as error:
        out.print(str(error), soft_wrap=True)


@app.command("forget")
def forget_line(
    line: Line = "tiny",
    reference: Annotated[
        bool, typer.Option(help="Also retrain a model without the rows, as one control more: costs a whole training.")
    ] = False,
    retry_review: Annotated[bool, typer.Option(help="Take requests again whose last version did not pass.")] = False,
    show_answers: ShowAnswers = False,
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Carry out all open requests of a line now: unlearn, verify, register, promote on PASS."""
    from tasks.engines.decisions import put_aside, what_next
    from tasks.requests import waiting

    def say_aside() -> None:
        if words := what_next(put_aside(open_ledger().held(line))):
            err.print(words, highlight=False, soft_wrap=True)

    laid_over = overrides(None, set_)
    if not waiting(line, retry_review=retry_review):
        with progress():
            from flows.doctor import doctor

            findings = doctor(line, bytes_too=False)
        say_aside()
        if not as_json:
            print_findings(findings)
        print_json({"requests": [], "version": None}) if as_json else out.print(f"no open request on {line}")
        raise typer.Exit(any(finding.stops for finding in findings))
    from flows.servers import embedded_server

    server_is_up = embedded_server()
    with progress():
        from flows.forget import forget

        server_is_up()
        outcome = forget(line, reference, retry_review, laid_over, show_answers)
    say_aside()
    if outcome.version is None:  # another run has taken them, or they were put aside
        print_json(outcome) if as_json else out.print(f"no open request on {line}")
        return
    if as_json:
        print_json(outcome)
    else:
        role = "champion" if outcome.champion else "candidate only"
        out.print(f"[bold]{outcome.tag}[/]: [{COLOURS[outcome.verdict]}]{outcome.verdict}[/], {role}")
    raise typer.Exit(EXIT_CODES[outcome.verdict])


@app.command("audit")
def audit_line(
    line: Line = "tiny",
    again: Annotated[bool, typer.Option(help="Also those whom an earlier audit has judged.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge everybody forgotten since the last audit again, beside a model retrained without them. Exit 3 where the two
    nulls disagree."""
    from flows.servers import embedded_server

    server_is_up = embedded_server()
    with progress():
        from flows.audit import audit

        server_is_up()
        found = audit(line, again)
    if as_json:
        print_json(found)
    elif not found.requests:
        out.print(f"[bold]{found.champion}[/]: nobody is due for an audit; --again judges everybody once more")
    else:
        out.print(f"[bold]{found.champion}[/] beside the retrained [bold]{found.reference}[/]")
        for audited in found.requests:
            out.print(f"  {audited.request_id}: {audited.words}")
    raise typer.Exit(0 if all(audited.agrees for audited in found.requests) else EXIT_CODES["FAIL"])


@app.command()
def demo(
    profile: Annotated[
        str, typer.Option(help="tiny (minutes) or smollm2 (the real 135M model, with --data).")
    ] = "tiny",
    data: Annotated[str, typer.Option(help="As in bootstrap; smollm2 wants TOFU.")] = "demo",
    forget_split: ForgetSplit = "forget01",
    retain_rows: RetainRows = 100,
    holdout_rows: HoldoutRows = None,
    set_: Set = None,
) -> None:
    """The whole path once: a first version, one forget request, the verdict, and what to open next."""
    from flows.servers import embedded_server

    laid_over = overrides(profile, set_)
    options = data_options(laid_over, forget=forget_split, num_retain=retain_rows, num_holdout=holdout_rows)
    server_is_up = embedded_server()
    from flows.cli.demo import run_demo

    server_is_up()
    run_demo(profile, absolute(data), options, laid_over)


Cron = Annotated[str, typer.Option(help="When to run, as a cron expression.")]
Timezone = Annotated[
    str, typer.Option(help="Whose clocks it speaks of: an IANA name such as Europe/Berlin, daylight saving included.")
]


@app.command()
def serve(line: Line = "tiny", cron: Cron = "0 3 * * *", timezone: Timezone = "UTC") -> None:
    """Keep the forget flow running on a schedule in this process (starts a Prefect server where none is set)."""
    from flows.cron import next_run

    next_run(cron, timezone)
    with progress():
        from flows.schedule import serve_line

        serve_line(line, cron, timezone)


@app.command()
def deploy(
    line: Line = "tiny",
    cron: Cron = "0 3 * * *",
    timezone: Timezone = "UTC",
    pool: Annotated[
        str, typer.Option(help="The work pool; one that is there stays as it is, and only `sau` is made where missing.")
    ] = "sau",
    own_checkouts: Annotated[
        bool,
        typer.Option("--own-checkouts", help="Each worker runs in the checkout that its SAU_ROOT names, not in this."),
    ] = False,
    alarm: Annotated[
        str,
        typer.Option(help="A notification block, as TYPE/NAME: told of overdue requests, failed, late and stuck runs."),
    ] = "",
) -> None:
    """Put a line's deployments on a Prefect server (SAU_PREFECT_API_URL): forget on this schedule; audit, doctor, and
    purge by hand as prefect.yaml has them."""
    from flows.cron import check_deployable

    check_deployable(cron, timezone)
    with progress():
        from flows.deploy import deploy_line

        deployed = deploy_line(line, cron, timezone, pool, own_checkouts=own_checkouts, alarm=alarm)
    out.print(f"deployments [bold]{' '.join(deployed.names)}[/] are there", soft_wrap=True)
    if deployed.alarms:
        out.print(
            f"alarms through {plain(alarm)}: {plain(', '.join(deployed.alarms))}", highlight=False, soft_wrap=True
        )
    out.print(
        f"work pool {plain(deployed.pool)} ({plain(deployed.pool_type)}); a worker of it: "
        f"`prefect worker start --pool {plain(deployed.pool)}`",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


@app.command()
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow pages.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect pages.")] = 4200,
) -> None:
    """Serve the MLflow and Prefect pages on this machine until Ctrl-C."""
    from flows.servers import serve_pages

    serve_pages(mlflow_port, prefect_port, lambda text: out.print(text, highlight=False))
