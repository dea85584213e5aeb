"""How a verdict is written for people: the one place where numbers, margins and tables of findings become words.

The terminal, the page, its Markdown, MLflow's description and Prefect's card all show what is made here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sau.verify.record import Finding, Margin, Verification

NONE = "–"
MODELS = {"before": "Before", "unlearned": "After unlearning", "reference": "Reference"}
Unlearning = Mapping[str, Any]
"""Metrics of the step that unlearned: `trajectory` as in `sau.training.session.History`, `num_steps` of the state
left."""
HEADLINES: dict[str, str] = {
    "PASS": "The records are forgotten, as far as this policy can tell.",
    "FAIL": "The model must not be released on this evidence.",
    "INCONCLUSIVE": "The evidence does not suffice for a verdict.",
    "REFUSED": "The request was not verified.",
    "BOOTSTRAP": "A first version: nobody has asked to be forgotten yet.",
    "UNJUDGED": "Taken from git: nothing here shows how it was judged.",
}
_WARNED = "Within the margins of this policy, but a check that it does not count found a trace."
COLUMNS = {
    "check": "Check",
    "n": "n",
    "value": "Value",
    "interval": "Interval",
    "before": "Before",
    "reference": "Reference",
    "seen": "People who stay",
    "alarms": "Strangers",
    "margin": "Margin",
    "power": "Power",
    "verdict": "Verdict",
    "why": "Why",
}
"""What a table of findings shows, with its headings; `finding_words` has more."""
CONTROLS = ("reference", "seen", "alarms")
"""Columns that only some nulls fill."""


def stressed(finding: Finding, checks: Sequence[Finding]) -> Finding | None:
    """The finding on the model as stored that this one repeats on a changed model; None where it is no repetition."""
    return next((other for other in checks if other.id == finding.id.rpartition("/")[0]), None)


def filled(columns: Mapping[str, str], findings: Sequence[Finding]) -> dict[str, str]:
    """The columns without those of controls that no finding has."""
    empty = {name for name in CONTROLS if all(getattr(finding, name) is None for finding in findings)}
    return {name: heading for name, heading in columns.items() if name not in empty}


def share_words(share: float | None) -> str:
    """Per cent."""
    return NONE if share is None else f"{share:.0%}"


def number_words(value: float | None) -> str:
    """Three decimals."""
    return NONE if value is None else f"{value:.3f}"


def margin_words(margin: Margin | None) -> str:
    """A range that may be open on a side."""
    low, high = margin or (None, None)
    if low is None:
        return NONE if high is None else f"at most {high:.3f}"
    return f"at least {low:.3f}" if high is None else f"{low:.3f} to {high:.3f}"


def finding_words(finding: Finding) -> dict[str, str]:
    """Everything of a finding that is shown anywhere, as text."""
    low, high = finding.interval or (None, None)
    return {
        "id": finding.id,
        "check": finding.title + ("" if finding.mandatory else " (not mandatory)"),
        "title": finding.title,
        "question": finding.question,
        "n": str(finding.n),
        "value": number_words(finding.value),
        "interval": "" if finding.interval is None else f"{number_words(low)} to {number_words(high)}",
        "before": number_words(finding.before),
        "reference": number_words(finding.reference),
        "seen": share_words(finding.seen),
        "alarms": share_words(finding.alarms),
        "margin": margin_words(finding.margin),
        "power": number_words(finding.power),
        "rows_read": f"{finding.rows_read:,}",
        "seconds": f"{finding.seconds:.1f}",
        "verdict": finding.verdict,
        "why": finding.reason,
    }


def cost_words(verification: Verification) -> str:
    """What the whole verification cost."""
    return f"{verification.rows_read:,} rows read, {verification.seconds:.0f} s of processor time"


def is_warned(verification: Verification) -> bool:
    """Whether a PASS stands beside a failure that the policy does not count."""
    return verification.verdict == "PASS" and any(finding.verdict == "FAIL" for finding in verification.checks)


def headline(verification: Verification) -> str:
    """The verdict in a sentence."""
    return _WARNED if is_warned(verification) else HEADLINES[verification.verdict]


def markdown_cell(text: object) -> str:
    """Text that cannot leave its table cell, nor become markup."""
    plain = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|" else c for c in plain)


def markdown_rows(rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, the first row its head; cells are taken as they are."""
    head, *body = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * (head.count(" | ") + 1), *body])


def markdown_table(findings: Sequence[Finding], columns: Mapping[str, str] = COLUMNS) -> str:
    """Findings as a Markdown table."""
    columns = filled(columns, findings)
    words = [finding_words(finding) for finding in findings]
    return markdown_rows([[*columns.values()], *([markdown_cell(row[name]) for name in columns] for row in words)])
