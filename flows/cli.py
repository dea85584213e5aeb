"""`sau`: the command line. Heavy imports happen inside the commands, so `--help` and `request list` answer fast.

Exit codes: 0 done (verify: PASS), 1 error, 2 usage, 3 FAIL, 4 INCONCLUSIVE, 5 REFUSED.
"""

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sau.errors import ConfigError, RequestError, SauError
from tasks.settings import settings

EXIT_CODES = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4, "REFUSED": 5}
QUIET_S = 30.0  # in a log file a step speaks up this often
COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "REFUSED": "red"}

app = typer.Typer(
    name="sau",
    help=(
        "Sparsity-aware unlearning: make a sparse language model forget a person, prove how well, keep the lineage.\n\n"
        "Exit codes: 0 done (verify, forget: PASS), 1 error, 2 usage, 3 FAIL, 4 INCONCLUSIVE, 5 REFUSED."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
request_app = typer.Typer(help="Take, list, show and withdraw forget requests.", no_args_is_help=True)
app.add_typer(request_app, name="request")
# Piped output keeps whole digests on a line.
out, err = Console(width=None if sys.stdout.isatty() else 140), Console(stderr=True)

Line = Annotated[str, typer.Option("--line", "-l", help="The model line.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="A parameter on top, as unlearn.lr=1e-4; repeat for more.")
]
Profile = Annotated[
    str | None, typer.Option(help="A file of profiles/ by name, or a YAML file, laid over params.yaml.")
]
ShowAnswers = Annotated[
    bool, typer.Option("--show-answers", help="Quote answers in the report; refused for all but the demo people.")
]


def main() -> None:
    """Entry point: a deliberate error becomes one line on stderr and exit code 1."""
    # Ended from outside, still end child servers, take worktrees down and reopen requests.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except SauError as error:
        err.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


class _Progress(logging.Handler):
    """INFO lines are printed; DEBUG lines (a step's own progress) replace each other beside a spinner,
    or where there is no terminal are printed now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.status = err.status("starting")
        self.printed = time.time()

    def emit(self, record: logging.LogRecord) -> None:
        text = escape(record.getMessage())
        if record.levelno >= logging.INFO:
            err.print(
                f"[dim]{self.formatter.formatTime(record, '%H:%M:%S') if self.formatter else ''}[/] {text}",
                highlight=False,
            )
        elif err.is_terminal:
            self.status.update(text)
        elif record.created - self.printed > QUIET_S:
            self.printed = record.created
            err.print(f"         {text}", highlight=False)


@contextmanager
def progress() -> Iterator[None]:
    """Show the product's log on stderr while the block runs."""
    handler = _Progress()
    handler.setFormatter(logging.Formatter())
    logger = logging.getLogger("sau")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        with handler.status:
            yield
    finally:
        logger.removeHandler(handler)


def overrides(profile: str | None, settings_: list[str] | None) -> dict[str, Any]:
    """--profile and --set as one nested mapping."""
    from sau.config import merge, read_yaml

    merged: dict[str, Any] = {}
    if profile and profile != "tiny":
        named = settings().root / "profiles" / f"{profile}.yaml"
        path = named if named.is_file() else Path(profile)
        if not path.is_file():
            known = ", ".join(["tiny", *sorted(p.stem for p in named.parent.glob("*.yaml"))])
            raise ConfigError(f"profile {profile!r}: neither a YAML file nor one of {known}")
        merged = read_yaml(path)
    for item in settings_ or []:
        key, sep, value = item.partition("=")
        if not sep or not key:
            raise typer.BadParameter(f"{item!r}: has to look like unlearn.lr=1e-4", param_hint="--set")
        nested: Any = _scalar(value)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        merged = merge(merged, nested)
    return merged


def _scalar(value: str) -> Any:
    try:
        return float(value) if "e" in value.lower() else yaml.safe_load(value)
    except (ValueError, yaml.YAMLError):
        return value


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


# -- requests ---------------------------------------------------------------------------------------


def _ledger() -> Any:
    from tasks.ledger import Ledger

    return Ledger(settings().ledger_url)


@request_app.command("submit")
def request_submit(
    subject: Annotated[str, typer.Option("--subject", help="Id of the person, as in the data's subject_id.")],
    line: Line = "tiny",
    reason: Annotated[
        str, typer.Option(help="Ground, such as consent-withdrawn (see `sau request list --help`).")
    ] = "unstated",
    as_json: AsJson = False,
) -> None:
    """Take a forget request. The same request twice is one request; the deadline is a calendar month away."""
    from tasks.prepare import subjects_at
    from tasks.tracking import Tracking

    ledger = _ledger()
    request = ledger.find(line, subject)
    if request is None:
        from sau.data.records import SUBJECT_ID

        if not SUBJECT_ID.match(subject):
            raise RequestError(f"subject: malformed, it has to match {SUBJECT_ID.pattern}")
        champion = Tracking(settings()).champion(line)
        if subject not in subjects_at(champion.tags["git_tag"]):
            raise RequestError(f"subject: unknown, the training data of {champion.tags['git_tag']} has no such subject")
        request = ledger.submit(line, subject, reason)
    _show(request, as_json)


@request_app.command("list")
def request_list(
    line: Annotated[str | None, typer.Option("--line", "-l", help="Only this model line.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Only open, running, forgotten, review or withdrawn; repeat for more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List requests, oldest first. Grounds: no-longer-needed, consent-withdrawn, objection, unlawful,
    legal-obligation, child, unstated."""
    from tasks.ledger import State

    if bad := [s for s in state or [] if s not in set(State)]:
        raise typer.BadParameter(f"{bad[0]!r}: has to be one of {', '.join(State)}", param_hint="--state")
    rows = _ledger().list(line, [State(s) for s in state or []])
    if as_json:
        _print_json([row.public() for row in rows])
        return
    table = Table("request", "line", "state", "received", "deadline", "verdict", "version")
    for r in rows:
        version = f"{r.line}@v{r.version}" if r.version else ""
        table.add_row(
            r.id,
            r.line,
            r.state,
            f"{r.received_at:%Y-%m-%d %H:%M}",
            f"{r.deadline_at:%Y-%m-%d}",
            r.verdict or "",
            version,
        )
    out.print(table if rows else "no requests")


@request_app.command("show")
def request_show(request_id: str, as_json: AsJson = False) -> None:
    """Show one request with its history."""
    _show(_ledger().get(request_id), as_json)


@request_app.command("withdraw")
def request_withdraw(request_id: str, as_json: AsJson = False) -> None:
    """Withdraw a request that is still open."""
    _show(_ledger().withdraw(request_id), as_json)


def _show(request: Any, as_json: bool) -> None:
    events = [{"at": at.isoformat(), "state": state} for at, state in _ledger().events(request.id)]
    if as_json:
        _print_json(request.public() | {"events": events})
        return
    table = Table(show_header=False, box=None)
    for key, value in request.public().items():
        if value is not None:
            table.add_row(f"[dim]{key}[/]", escape(str(value)))
    table.add_row("[dim]history[/]", ", ".join(f"{e['state']} {e['at'][:19]}" for e in events))
    out.print(table)


# -- flows ------------------------------------------------------------------------------------------


def _data_options(forget_split: str, retain_rows: int, holdout_rows: int, subject_column: str) -> dict[str, Any]:
    return {
        "forget": forget_split,
        "num_retain": retain_rows,
        "num_holdout": holdout_rows,
        "subject_column": subject_column,
    }


ForgetSplit = Annotated[str, typer.Option(help="TOFU: forget01, forget05 or forget10.")]
RetainRows = Annotated[int, typer.Option(help="TOFU: rows to train on beside the forget rows.")]
HoldoutRows = Annotated[int, typer.Option(help="Rows no model is ever trained on.")]
SubjectColumn = Annotated[str, typer.Option(help="Your data's column that names the person.")]


@app.command()
def bootstrap(
    line: Line = "tiny",
    data: Annotated[
        str,
        typer.Option(
            help="demo, pinned (what data.dvc pins), a JSONL or Parquet file or folder, TOFU's folder or hub name."
        ),
    ] = "demo",
    profile: Profile = None,
    set_: Set = None,
    forget_split: ForgetSplit = "forget01",
    retain_rows: RetainRows = 100,
    holdout_rows: HoldoutRows = 100,
    subject_column: SubjectColumn = "subject_id",
    as_json: AsJson = False,
) -> None:
    """Make a line's first version: train, prune, recover, package, register v1 as champion."""
    settings()
    with progress():
        from flows import pipeline

        laid_over = overrides(profile, set_)
        pipeline.check_bootstrap(line, laid_over)
        version = pipeline.bootstrap(
            line,
            _absolute(data),
            _data_options(forget_split, retain_rows, holdout_rows, subject_column),
            laid_over,
        )
    _print_json(version) if as_json else out.print(f"[bold]{version['tag']}[/] is registered and champion")


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


@app.command()
def forget(
    line: Line = "tiny",
    reference: Annotated[
        bool, typer.Option(help="Retrain a reference without the rows to judge by; without one no verdict is PASS.")
    ] = True,
    retry_review: Annotated[bool, typer.Option(help="Take requests again whose last version did not pass.")] = False,
    show_answers: ShowAnswers = False,
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Carry out all open requests of a line now: unlearn, verify, register, promote on PASS."""
    laid_over = overrides(None, set_)
    outcome: dict[str, Any] = {"requests": [], "version": None}
    if _ledger().waiting(line, retry_review=retry_review):
        with progress():
            from flows import pipeline

            outcome = pipeline.forget(line, reference, retry_review, laid_over, show_answers)
    if as_json:
        _print_json(outcome)
    elif outcome["version"] is None:
        out.print(f"no open request on {line}")
    else:
        verdict = outcome["verdict"]
        place = "champion" if outcome["champion"] else "candidate only"
        out.print(f"[bold]{outcome['tag']}[/]: [{COLOURS[verdict]}]{verdict}[/], {place}")
    if outcome["version"] is not None:
        raise typer.Exit(EXIT_CODES[outcome["verdict"]])


@app.command()
def demo(
    profile: Annotated[
        str, typer.Option(help="tiny (minutes) or smollm2 (the real 135M model, with --data).")
    ] = "tiny",
    data: Annotated[str, typer.Option(help="As in bootstrap; smollm2 wants TOFU.")] = "demo",
    forget_split: ForgetSplit = "forget01",
    retain_rows: RetainRows = 100,
    holdout_rows: HoldoutRows = 100,
    set_: Set = None,
) -> None:
    """The whole path once: a first version, one forget request, the verdict, and what to open next."""
    settings()
    from flows.demo import run_demo

    run_demo(
        profile,
        _absolute(data),
        _data_options(forget_split, retain_rows, holdout_rows, "subject_id"),
        overrides(profile, set_),
    )


@app.command()
def serve(
    line: Line = "tiny",
    cron: Annotated[str, typer.Option(help="When to run, as a cron expression in UTC.")] = "0 3 * * *",
) -> None:
    """Keep the forget flow running on a schedule in this process (starts a Prefect server where none is set)."""
    settings()
    from flows.schedule import serve_line

    with progress():
        serve_line(line, cron)


@app.command()
def deploy(
    line: Line = "tiny",
    cron: Annotated[str, typer.Option(help="When to run, as a cron expression in UTC.")] = "0 3 * * *",
) -> None:
    """Create the deployment of prefect.yaml on a Prefect server (PREFECT_API_URL or SAU_PREFECT_API_URL)."""
    settings()
    from flows.schedule import deploy_line

    out.print(f"deployment [bold]{deploy_line(line, cron)}[/] is there")


@app.command()
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow pages.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect pages.")] = 4200,
) -> None:
    """Serve the MLflow and Prefect pages on this machine until Ctrl-C."""
    settings()
    from flows.schedule import serve_pages

    serve_pages(mlflow_port, prefect_port, lambda text: out.print(text, highlight=False))


# -- records ----------------------------------------------------------------------------------------


@app.command()
def lineage(
    what: Annotated[str, typer.Argument(help="A request id or a version such as tiny@v2.")], as_json: AsJson = False
) -> None:
    """Print the chain: version, request, data, mask, parent, down to the first version."""
    from tasks.lineage import chain
    from tasks.workspace import parse_tag

    if "@" in what:
        line, number = parse_tag(what)
    else:
        request = _ledger().get(what)
        if request.version is None:
            raise RequestError(f"request {what}: is {request.state}, no version was made for it yet")
        line, number = request.line, request.version
    links = chain(line, number)
    if as_json:
        _print_json([link.public() for link in links])
        return
    from rich.tree import Tree

    root = branch = Tree(f"lineage of {what}")
    for link in links:
        colour = COLOURS.get(link.verdict, "blue")
        head = f"[bold]{link.tag}[/] [{colour}]{link.verdict}[/] {' '.join(link.aliases)}"
        branch = branch.add(head)
        for request_id in link.request_ids:
            branch.add(f"request {request_id}, rows md5 {link.forget_md5}")
        branch.add(f"data md5 {link.data_md5}")
        branch.add(f"model sha256 {link.model_digest}")
        branch.add(f"mask sha256 {link.mask_digest}, sparsity {float(link.sparsity):.2%}")
        branch.add(f"checkpoint md5 {link.checkpoint_md5}")
        branch.add(
            f"recipe commit {link.git_commit[:12]}, code {link.code_commit[:12]}, params {link.params_digest[:12]}"
        )
        if link.policy:
            branch.add(
                f"judged by policy {link.policy} against {link.reference or 'nothing'}, MLflow run {link.run_id}"
            )
    out.print(root)


@app.command()
def reproduce(
    version: Annotated[str, typer.Argument(help="A version such as tiny@v2.")],
    rerun: Annotated[bool, typer.Option("--rerun", help="Also run its recipe again and compare digests.")] = False,
    target: Annotated[
        Path | None, typer.Option("--out", help="Folder for the checkpoint; default models/<version> in .sau.")
    ] = None,
    remote: Annotated[
        str | None, typer.Option(help="DVC remote to read from; default SAU_DVC_REMOTE or the local one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a version's bytes back through DVC; with --rerun make them again. Exit 3 where the digests differ."""
    if remote:
        import os

        os.environ["SAU_DVC_REMOTE"] = _absolute(remote)
        settings.cache_clear()
    from tasks.reproduce import reproduce as run

    with progress():
        result = run(version, target or settings().state / "models" / version, rerun=rerun)
    if as_json:
        _print_json(result.__dict__ | {"equal": result.equal})
    else:
        out.print(
            f"[bold]{result.tag}[/] restored to {result.folder}, model digest {result.model_digest}", soft_wrap=True
        )
        if rerun:
            word = "[green]bit-equal[/]" if result.equal else "[red]DIFFERENT[/]"
            out.print(f"made again: {result.rerun_digest}: {word}", soft_wrap=True)
    if not result.equal:
        raise typer.Exit(3)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A version such as tiny@v2, or a sparse checkpoint folder.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; has to be empty or absent.")],
    dtype: Annotated[
        str | None, typer.Option(help="float32 (default) or bfloat16; what that rounds has to be verified again.")
    ] = None,
    delta: Annotated[
        str | None, typer.Option(help="Write the difference from this model, for somebody who has it (sau restore).")
    ] = None,
) -> None:
    """Write a sparse checkpoint as a dense Hugging Face folder that stock transformers and vLLM open.

    With --delta write only what changed since another version with the same mask; `sau restore` makes it whole."""
    from sau.checkpoint.sparse import DTYPES, read_manifest
    from sau.checkpoint.sparse import export as write

    if dtype and dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r}: has to be one of {', '.join(DTYPES)}", param_hint="--dtype")
    checkpoint = _checkpoint(model)
    if delta:
        from sau.checkpoint.archive import num_bytes
        from sau.checkpoint.delta import save_delta

        if dtype:
            raise typer.BadParameter("a delta is of the stored numbers, leave it out", param_hint="--dtype")
        made = save_delta(checkpoint, _checkpoint(delta), target)
        out.print(
            f"delta of {num_bytes(target):,} bytes ({num_bytes(checkpoint):,} whole) written to {target}; "
            f"sau restore {target} OUT --base FOLDER gives model digest {made.model_digest}",
            soft_wrap=True,
        )
        return
    write(checkpoint, target, dtype=dtype or "float32")
    out.print(f"dense folder written to {target}", soft_wrap=True)
    if dtype == "bfloat16" != read_manifest(checkpoint).dtype:
        out.print(
            f"its numbers are rounded: no verdict on {model} speaks of it. Judge it by itself:\n"
            f"sau verify --model {target} --before PARENT --forget ROWS --retain ROWS --holdout ROWS",
            soft_wrap=True,
        )


@app.command()
def archive(
    folder: Annotated[Path, typer.Argument(help="The archive; made on first use, versions it has are left alone.")],
    line: Line = "tiny",
    max_hops: Annotated[int, typer.Option(min=0, help="Deltas that restoring any version may need at most.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Keep every version of a line in a folder: the newest whole, older ones as deltas where that is smaller."""
    from tasks.archive import archive as run

    with progress():
        kept = run(line, folder, max_hops)
    if as_json:
        _print_json([version.__dict__ for version in kept])
        return
    table = Table("version", "bytes", "deltas to apply", "model digest")
    for version in kept:
        table.add_row(version.name, f"{version.num_bytes:,}", str(version.hops), version.model_digest)
    out.print(table)


@app.command()
def restore(
    stored: Annotated[Path, typer.Argument(help="A version in an archive, or a delta that `sau export` wrote.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; has to be empty or absent.")],
    base: Annotated[
        str | None, typer.Option(help="The model a delta starts from; default: looked for beside it by digest.")
    ] = None,
) -> None:
    """Make a stored version whole again, every file checked against its digest. Needs no MLflow, no DVC, no Prefect."""
    from sau.checkpoint.archive import restore as write
    from sau.checkpoint.delta import apply_delta

    manifest = apply_delta(stored, _checkpoint(base), target) if base else write(stored, target)
    out.print(f"restored to {target}, model digest {manifest.digest}", soft_wrap=True)


def _checkpoint(model: str) -> Path:
    """The folder of a model given as a path or as <line>@v<N> of the registry."""
    if Path(model).is_dir() or "@" not in model:
        return Path(model)
    from tasks.tracking import Tracking
    from tasks.workspace import parse_tag

    tracking = Tracking(settings())
    found = tracking.version(*parse_tag(model))
    if found is None:
        raise RequestError(f"version {model}: not in this MLflow store")
    return tracking.download(found)


@app.command()
def verify(
    model: Annotated[
        str, typer.Option(help="Model folder (sparse or Hugging Face), hub id, or version such as tiny@v2.")
    ],
    forget: Annotated[Path, typer.Option(help="Rows to have been forgotten: JSONL, Parquet or a folder.")],
    retain: Annotated[Path, typer.Option(help="Rows to be kept.")],
    holdout: Annotated[
        Path | None, typer.Option(help="Rows no model ever saw; without them there is no membership check.")
    ] = None,
    before: Annotated[str | None, typer.Option(help="The model before unlearning: the positive control.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="A model that never saw the rows: the negative control.")
    ] = None,
    dense: Annotated[
        str | None, typer.Option(help="The dense model that the sparse one comes from, for the stressor densify.")
    ] = None,
    policy: Annotated[str, typer.Option(help="quick, standard, strict, or a policy file.")] = "quick",
    stressors: Annotated[
        int | None, typer.Option(min=0, help="Run only so many of the policy's stressors; default: its own budget.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Who rows are about that name nobody.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the report here.")] = None,
    show_answers: ShowAnswers = False,
) -> None:
    """Judge any causal language model, sparse or not, whoever unlearned it. Needs no Prefect and no MLflow."""
    from sau.verify.report.page import render_html
    from sau.verify.standalone import answer_paths, verify_paths

    if show_answers and not html_file:
        raise typer.BadParameter("needs --html", param_hint="--show-answers")

    def place(given: str | None) -> str | None:
        return str(_checkpoint(given)) if given else None

    with progress():
        logger = logging.getLogger("sau")
        models = {"before": place(before), "after": place(model), "reference": place(reference)}
        # Before the battery: rows that may not be quoted are refused at once.
        shown = answer_paths(models, {"forget": forget, "retain": retain}, subject=subject) if show_answers else None
        verification = verify_paths(
            model=str(models["after"]),
            forget=forget,
            retain=retain,
            holdout=holdout,
            before=models["before"],
            reference=models["reference"],
            dense=place(dense),
            policy=policy,
            num_stressors=stressors,
            subject=subject,
            progress=lambda text: logger.debug("%s", text),
        )
    record = verification.to_json()
    if json_file:
        json_file.write_text(json.dumps(record, indent=1) + "\n")
    if html_file:
        html_file.write_text(
            render_html(
                verification, title=f"Verification of {Path(model).name}", facts={"Model": model}, answers=shown
            )
        )
    print_checks(record)
    raise typer.Exit(EXIT_CODES[record["verdict"]])


@app.command()
def benchmark(
    json_file: Annotated[
        Path, typer.Option("--json", help="Where the result goes; finished cells are kept beside it as .jsonl.")
    ],
    size: Annotated[
        str, typer.Option(help="tiny (minutes), smollm2 (hours on CPU), or gpu (every cell of the real model).")
    ] = "tiny",
    cells: Annotated[
        str,
        typer.Option(
            help="Only cells like objective/method/pruner/sparsity/order/seed, with * and ?; several with commas."
        ),
    ] = "*",
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds; default: the size's own.")] = None,
    data: Annotated[str, typer.Option(help="demo, or TOFU's folder or hub name.")] = "demo",
) -> None:
    """Compare SAU with its rivals, everyone with the same budget and measured sparse. Exit 0: it ran, whoever won."""
    settings()
    with progress():
        from flows.benchmark import benchmark as run

        result = run(size, json_file, pattern=cells, num_seeds=seeds, data=_absolute(data))
    table = Table("pruner", "sparsity", "order", "SAU / rival", "over seeds", title="distance to retraining")
    for row in result["ratio"]:
        spread = f"{row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f}"
        table.add_row(row["pruner"], str(row["sparsity"]), row["order"], f"{row['ratio']:.2f}", spread)
    out.print(table)
    out.print(f"{len(result['cells'])} cells; below 1 SAU is nearer; written to {json_file}", soft_wrap=True)


def print_checks(record: dict[str, Any]) -> None:
    """The verdict and its checks with both controls, power and cost as a table."""
    table = Table(
        "check", "n", "value", "before", "never saw it", "margin", "power", "rows read", "CPU s", "verdict"
    )  # fmt: skip
    for check in record["checks"]:
        colour = COLOURS.get(check["verdict"], "dim")
        table.add_row(
            check["id"], _number(check["n"]), _number(check["value"]), _number(check["before"]),
            _number(check["never_saw_it"]), _margin(check["margin"]), _number(check["power"]),
            f"{check['rows_read']:,}", f"{check['seconds']:.1f}", f"[{colour}]{check['verdict']}[/]",
        )  # fmt: skip
    out.print(table)
    out.print(
        f"{record['rows_read']:,} rows read, {record['seconds']:.1f} s of CPU time; a reading that checks share "
        "is in the row of each, and here once"
    )
    verdict = record["verdict"]
    out.print(f"verdict [bold {COLOURS[verdict]}]{verdict}[/] by policy {record['policy']}")
    for reason in record["reasons"]:
        out.print(f"  {escape(reason)}", highlight=False)


def _margin(margin: list[float | None] | None) -> str:
    low, high = margin or (None, None)
    if low is None or high is None:
        return f">= {low:.3f}" if low is not None else f"<= {high:.3f}" if high is not None else ""
    return f"{low:.3f} to {high:.3f}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
