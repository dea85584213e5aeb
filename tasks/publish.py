"""What people see of a version: its story on MLflow's pages, the picture of its lineage, a card in Prefect's."""

from sau.errors import some
from sau.verify import Verification
from sau.verify.report.words import COLUMNS, CONTROLS, HEADLINES, headline, markdown_cell, markdown_rows, markdown_table
from tasks.engines.orchestration import create_markdown_artifact, task
from tasks.engines.tracking import Tracking
from tasks.verify import RECORD
from tasks.versions.lineage import chain
from tasks.versions.picture import page, svg
from tasks.versions.record import VersionRecord

MAX_NAMED = 10
"""So many requests and versions are named on a version's page, which on PostgreSQL has 5,000 characters in all; all of
them are in its tags."""

_SHOWN = {name: COLUMNS[name] for name in ("check", "n", "value", "before", *CONTROLS, "margin", "verdict")}


@task(name="publish", task_run_name="publish {record.tag}")
def publish(record: VersionRecord) -> None:
    """Put a version's lineage and story on its MLflow run and version page, and its verdict on a card of Prefect's.

    Ids, digests, numbers and verdicts only.
    """
    if verification := tell(record):
        key = f"verdict-{record.tag.lower().replace('@', '-').replace('_', '-')}"
        create_markdown_artifact(_card(record, verification), key=key, description=f"{record.tag}: {record.verdict}")


def tell(record: VersionRecord) -> Verification | None:
    """Put a version's lineage and story on MLflow's pages; returns its verdict, None where it was not judged."""
    tracking = Tracking()
    links = chain(record.line, record.number)
    tracking.text(record.judged_in, svg(links), "lineage.svg")
    tracking.text(record.judged_in, page(links), "summary.html")
    verification = None
    if record.policy:
        verification = Verification.model_validate_json(tracking.artifact(record.judged_in, RECORD))
    text = story(links, verification, tracking)
    tracking.describe(record.judged_in, text)
    tracking.describe_version(record.line, record.number, text)
    return verification


def story(links: list[VersionRecord], verification: Verification | None, tracking: Tracking) -> str:
    """A version in Markdown: verdict, why, checks, where it comes from, and where to read on.

    Args:
        links: the version and its parents, newest first.
    """
    record = links[0]
    role = "the line's champion" if record.leads else "a candidate, not in use"
    said = headline(verification) if verification else HEADLINES[record.verdict]
    artifacts = ["lineage.svg", "summary.html"]
    parts = [f"## {record.tag}: {record.verdict}", f"{said} It is {role}."]
    if verification:
        artifacts = ["report.html", RECORD, *artifacts]
        parts += [_judged(record), "\n".join(f"* {markdown_cell(reason)}" for reason in verification.reasons)]
        parts += [markdown_table(verification.checks, _SHOWN)]
    pages = [f"[{name}]({tracking.page_of(record.line, record.judged_in, name)})" for name in artifacts]
    facts = {
        "Requests": some(record.request_ids, MAX_NAMED) or "none",
        "Lineage": some([link.tag for link in links], MAX_NAMED, " ← "),
        "Weights (sha256)": f"`{record.weights_digest}`",
        "Mask (sha256)": f"`{record.mask_digest}`, sparsity {record.sparse_in_words}",
        "Data set trained on or retained (DVC md5)": f"`{record.data_md5}`",
        "Checkpoint (DVC md5)": f"`{record.checkpoint_md5}`",
        "Memory": record.memory or "not measured",
        "Recipe, code (git)": f"`{record.git_commit[:12]}`, `{record.code_commit[:12]}`",
        "Run": f"[{record.judged_in}]({tracking.page_of(record.line, record.judged_in)})",
        "Artifacts of the run": ", ".join(pages),
        "Bring it back": f"`sau reproduce {record.tag}`",
    }
    return "\n\n".join([*parts, markdown_rows([("", ""), *facts.items()])]) + "\n"


def _card(record: VersionRecord, verification: Verification) -> str:
    """The verdict in Prefect's pages: numbers and verdicts only, and the MLflow run that has the rest."""
    head = f"**{record.tag}**: {record.verdict}. MLflow run `{record.judged_in}`, artifact `report.html`."
    return f"{head}\n\n{_judged(record)}\n\n{markdown_table(verification.checks, _SHOWN)}\n"


def _judged(record: VersionRecord) -> str:
    beside = f", beside the retrained {record.reference}" if record.reference else ""
    return f"Judged by policy `{record.policy}` ({record.policy_digest[:12]}) against {record.against}{beside}."
