"""A verification as a page for people: one self-contained HTML file, or the same in Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from sau.verify.checks.base import Null, Verdict
from sau.verify.record import Finding, Verification
from sau.verify.report.words import (
    COLUMNS,
    CONTROLS,
    MODELS,
    Unlearning,
    cost_words,
    filled,
    finding_words,
    headline,
    is_warned,
    markdown_cell,
    markdown_table,
    number_words,
    stressed,
)

_TEMPLATES = Path(__file__).parent / "templates"

Answers = Sequence[Mapping[str, str]]

_MEANINGS: dict[Verdict, str] = {
    "PASS": "In every mandatory check the model behaves, within the margins of the policy, as if it had never seen the "
    "records, and it still answers what was to stay. The same checks do find the records in the model before.",
    "FAIL": "At least one mandatory check found more than the policy allows: a trace of the records, a suspicious hole "
    "where they were, or damage to what was to stay.",
    "INCONCLUSIVE": "At least one mandatory check did not run, had no power, or has too few records to tell. "
    "That is neither a pass nor a failure.",
    "NOT APPLICABLE": "The model before unlearning gives nothing away that could be looked for.",
    "REFUSED": "The records given cannot be verified as they are.",
}

_NULLS: dict[Null, str] = {
    "population": "The person who asked is judged beside people whom the model never saw: what it makes of them is "
    "what forgetting has to come to. Before unlearning the records have to be found; in the place of the one who asked "
    "people who stay have to be found, and people the model never saw must not be.",
    "retrained": "Each number stands beside the same number of two controls: the model before unlearning, in which the "
    "records have to be found, and a model retrained without them, which has to pass.",
}

_SETS = {"forget": "to forget", "retain": "to keep"}

_ROW_TITLES = {
    "forget": "Records to forget",
    "retain": "Records to keep",
    "holdout": "Records no model saw",
    "membership": "Membership inference (AUC)",
    "model": "Whole model",
}


def render_html(
    verification: Verification,
    *,
    title: str,
    facts: Mapping[str, str],
    answers: Answers | None = None,
    unlearning: Unlearning | None = None,
) -> str:
    """The verification as one HTML page without scripts or remote assets.

    Args:
        title: of the page.
        facts: shown as label and value: ids, digests, dates. Never text of a record.
        answers: `set`, `question`, `before`, `after` and perhaps `reference` of a few rows, as
            `sau.verify.report.answers.answers` gives them. They quote the data: for invented data only.
        unlearning: the metrics of the step that unlearned, where they are known.
    """
    context = _context(verification, title, facts, answers, unlearning)
    from sau.verify.report.plots import plots  # with matplotlib, which takes as long to import as many a command

    return html_template(_TEMPLATES / "report.html").render(context, plots=plots(verification, unlearning))


def html_template(path: Path) -> Template:
    """A template whose values are escaped; one that is missing is an error."""
    loader = FileSystemLoader(path.parent)
    environment = Environment(loader=loader, autoescape=select_autoescape(default=True), undefined=StrictUndefined)
    return environment.get_template(path.name)


def render_markdown(
    verification: Verification,
    *,
    title: str,
    facts: Mapping[str, str],
    answers: Answers | None = None,
    unlearning: Unlearning | None = None,
) -> str:
    """The same without plots; arguments as for `render_html`."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=False, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"cell": markdown_cell, "findings": markdown_table}
    context = _context(verification, title, facts, answers, unlearning)
    return environment.get_template("report.md").render(context)


def _context(
    verification: Verification,
    title: str,
    facts: Mapping[str, str],
    answers: Answers | None,
    unlearning: Unlearning | None,
) -> dict[str, Any]:
    counts = verification.num_records
    return {
        "v": verification,
        "title": title,
        "warned": is_warned(verification),
        "headline": headline(verification),
        "meaning": _MEANINGS[verification.verdict],
        "summary": _summary(verification),
        "facts": {
            **facts,
            "Weights verified": verification.weights_digest,
            "Policy": f"{verification.policy} version {verification.policy_version}, {verification.policy_digest[:16]}",
            "Records": f"{counts['forget']} to forget, {counts['retain']} to keep, {counts['holdout']} never seen",
            "Judged against": verification.judged_against,
            "Confidence": f"{verification.confidence:.0%} over the whole battery",
            **({"Unlearning": _steps(unlearning)} if unlearning else {}),
            **({"Forgotten earlier": _again(verification)} if verification.earlier else {}),
            "Cost": cost_words(verification),
        },
        "beside": _NULLS[verification.null],
        "controls": [(name, COLUMNS[name]) for name in filled(COLUMNS, verification.checks) if name in CONTROLS],
        "models": {role: name for role, name in MODELS.items() if role in verification.table},
        "rows": [(finding, finding_words(finding)) for finding in verification.checks],
        "stored": {finding.id for finding in verification.checks if not stressed(finding, verification.checks)},
        "numbers": _numbers(verification),
        "answers": [{**entry, "set": _SETS[entry["set"]]} for entry in answers or ()],
    }


def _summary(verification: Verification) -> list[str]:
    """Which checks came out how, without numbers; the reasons themselves where no check was run."""
    kinds = (
        ("FAIL", True, "Beyond the margin"),
        ("INCONCLUSIVE", True, "Without a clear result"),
        ("FAIL", False, "Beyond the margin, but not counted by this policy"),
        ("INCONCLUSIVE", False, "Without a clear result, and not counted by this policy"),
        ("PASS", True, "Within the margin"),
        ("NOT APPLICABLE", True, "Not applicable, as the model before gives nothing away there"),
    )
    lines = []
    for verdict, mandatory, words in kinds:
        chosen = [f for f in verification.checks if (f.verdict, f.mandatory) == (verdict, mandatory)]
        if chosen:
            lines.append(f"{words}: {'; '.join(_gathered(chosen, verification.checks))}.")
    return lines or verification.reasons


def _gathered(chosen: Sequence[Finding], checks: Sequence[Finding]) -> list[str]:
    """Titles, a check that was repeated on changed models once: with how it was changed."""
    named: dict[str, list[str]] = {}
    for finding in checks:
        if finding in chosen:
            stored = stressed(finding, checks)
            how = finding.id.rpartition("/")[2] if stored else "as stored"
            named.setdefault(stored.title if stored else finding.title, []).append(how)
    return [title if how == ["as stored"] else f"{title} ({', '.join(how)})" for title, how in named.items()]


def _steps(unlearning: Unlearning) -> str:
    first = unlearning["trajectory"][0]
    left = next(point for point in unlearning["trajectory"] if point["step"] == unlearning["num_steps"])
    ways = (f"{_SETS[name]} {first[f'{name}_logp']:.2f} to {left[f'{name}_logp']:.2f}" for name in _SETS)
    return f"{left['step']} steps; {', '.join(ways)} (nats per answer token)"


def _again(verification: Verification) -> str:
    verdicts = [person.verdict for person in verification.earlier]
    counted = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    return f"{len(verdicts)} people judged again on this model: {counted}"


def _numbers(verification: Verification) -> list[dict[str, Any]]:
    """The metrics table as (set, metric, value of each model) rows."""
    rows = []
    for group, heading in _ROW_TITLES.items():
        metrics = dict.fromkeys(name for table in verification.table.values() for name in table[group])
        for metric in metrics:
            values = [verification.table[role][group].get(metric) for role in MODELS if role in verification.table]
            rows.append(
                {"group": heading, "metric": metric.replace("_", " "), "values": [number_words(v) for v in values]}
            )
    return rows
