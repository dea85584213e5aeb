"""A verification as a page for people: one self-contained HTML file, or the same in Markdown."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sau.verify.check import Verdict
from sau.verify.verification import Finding, Margin, Verification

_TEMPLATES = Path(__file__).parent / "templates"
_MODELS = {"before": "Before", "unlearned": "After unlearning", "reference": "Never saw it"}
_COLOURS = {"before": "#c2410c", "unlearned": "#1d4ed8", "reference": "#0f766e"}
_HEADLINES: dict[Verdict, str] = {
    "PASS": "The records are forgotten, as far as this policy can tell.",
    "FAIL": "The model must not be released on this evidence.",
    "INCONCLUSIVE": "The evidence does not suffice for a verdict.",
    "REFUSED": "The request was not verified.",
}
_WARNED = "Within the margins of this policy, but a check that it does not count found a trace."
_MEANINGS: dict[Verdict, str] = {
    "PASS": "In every mandatory check the model behaves, within the margins of the policy, like a model that never saw "
    "the records, and it still answers what was to stay. The same checks do find the records in the model before.",
    "FAIL": "At least one mandatory check found more than the policy allows: a trace of the records, a suspicious hole "
    "where they were, or damage to what was to stay.",
    "INCONCLUSIVE": "At least one mandatory check did not run, had no power, or has too few records to tell. "
    "That is neither a pass nor a failure.",
    "REFUSED": "The records given cannot be verified as they are.",
}
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
    answers: Sequence[Mapping[str, str]] | None = None,
) -> str:
    """The verification as one HTML page without scripts or remote assets.

    Args:
        title: of the page.
        facts: shown as label and value: ids, digests, dates. Never text of a record.
        answers: `question`, `before`, `after` and perhaps `reference` of a few rows. They quote the data: for
            invented data only.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=select_autoescape(default=True), undefined=StrictUndefined
    )
    return environment.get_template("report.html").render(_context(verification, title, facts, answers))


def render_markdown(
    verification: Verification,
    *,
    title: str,
    facts: Mapping[str, str],
    answers: Sequence[Mapping[str, str]] | None = None,
) -> str:
    """The same without plots; arguments as for `render_html`."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=False, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["cell"] = _cell
    return environment.get_template("report.md").render(_context(verification, title, facts, answers))


def _cell(text: object) -> str:
    """Text that cannot leave its table cell, nor become markup."""
    plain = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|" else c for c in plain)


def _context(
    verification: Verification, title: str, facts: Mapping[str, str], answers: Sequence[Mapping[str, str]] | None
) -> dict[str, Any]:
    counts = verification.num_records
    warned = verification.verdict == "PASS" and any(f.verdict == "FAIL" for f in verification.checks)
    return {
        "v": verification,
        "title": title,
        "warned": warned,
        "headline": _WARNED if warned else _HEADLINES[verification.verdict],
        "meaning": _MEANINGS[verification.verdict],
        "facts": {
            **facts,
            "Policy": f"{verification.policy} version {verification.policy_version}, {verification.policy_digest[:16]}",
            "Model verified": verification.model_digest,
            "Records": f"{counts['forget']} to forget, {counts['retain']} to keep, {counts['holdout']} never seen",
            "Confidence": f"{verification.confidence:.0%} over the whole battery",
        },
        "models": {role: name for role, name in _MODELS.items() if role in verification.table},
        "rows": [_row(finding) for finding in verification.checks],
        "numbers": _numbers(verification),
        "plots": _plots(verification),
        "answers": answers or [],
    }


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "finding": finding,
        "value": _show(finding.value),
        "interval": "" if finding.interval is None else f"{_show(finding.interval[0])} to {_show(finding.interval[1])}",
        "before": _show(finding.before),
        "never": _show(finding.never_saw_it),
        "margin": _margin(finding.margin),
    }


def _show(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _margin(margin: Margin | None) -> str:
    low, high = margin or (None, None)
    if low is None:
        return "–" if high is None else f"at most {high:.2f}"
    return f"at least {low:.2f}" if high is None else f"{low:.2f} to {high:.2f}"


def _numbers(verification: Verification) -> list[dict[str, Any]]:
    """The metrics table as (set, metric, value of each model) rows."""
    rows = []
    for group, heading in _ROW_TITLES.items():
        metrics = dict.fromkeys(name for table in verification.table.values() for name in table[group])
        for metric in metrics:
            values = [verification.table[role][group].get(metric) for role in _MODELS if role in verification.table]
            shown = ["–" if value is None else f"{value:.3f}" for value in values]
            rows.append({"group": heading, "metric": metric.replace("_", " "), "values": shown})
    return rows


# -- plots --------------------------------------------------------------------------------------


def _plots(verification: Verification) -> list[dict[str, Any]]:
    scores = {role: verification.scores[role] for role in _MODELS if role in verification.scores}
    scores = {role: sets for role, sets in scores.items() if all(sets.values())}
    if not scores:
        return []
    return [
        {
            "title": "How well each model knows the records",
            "caption": "Mean log-probability per answer token. After unlearning, records to forget should lie where "
            "they lie for a model that never saw them.",
            "svg": _svg(_draw_distributions, scores, (6.4, 4.0)),
        },
        {
            "title": "Telling forgotten from unseen records",
            "caption": "ROC of the loss attack. The target is the curve of the model that never saw the records, "
            "not the diagonal.",
            "svg": _svg(_draw_roc, scores, (4.2, 4.0)),
        },
        {
            "title": "Forget, keep, never seen",
            "caption": "Mean answer probability of each set.",
            "svg": _svg(_draw_sets, scores, (4.2, 4.0)),
        },
    ]


def _svg(draw: Any, scores: Mapping[str, Mapping[str, list[float]]], size: tuple[float, float]) -> Markup:
    """Draw on a figure of `size` inches; the same numbers give the same bytes. Only numbers and our own words go in."""
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": draw.__name__,
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.edgecolor": "#94a3b8",
        "axes.labelcolor": "#334155",
        "text.color": "#0f172a",
        "xtick.color": "#475569",
        "ytick.color": "#475569",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, scores)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return Markup(re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL))


def _draw_distributions(figure: Figure, scores: Mapping[str, Mapping[str, list[float]]]) -> None:
    values = np.concatenate([np.asarray(sets[name]) for sets in scores.values() for name in ("forget", "holdout")])
    bins = np.linspace(values.min(), max(values.max(), values.min() + 1e-6), 31)
    axes = np.atleast_1d(figure.subplots(len(scores), 1, sharex=True))
    for axis, (role, sets) in zip(axes, scores.items(), strict=True):
        for name, alpha, colour in (("holdout", 0.45, "#94a3b8"), ("forget", 0.75, _COLOURS[role])):
            weights = np.full(len(sets[name]), 1 / len(sets[name]))
            label = {"holdout": "never-seen records", "forget": "records to forget"}[name]
            axis.hist(sets[name], bins=list(bins), weights=weights, color=colour, alpha=alpha, label=label)
            axis.axvline(float(np.mean(sets[name])), color=colour if name == "forget" else "#64748b", lw=1.4, ls="--")
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.set_title(_MODELS[role], loc="left", fontsize=9.5, fontweight="bold", color=_COLOURS[role])
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].legend(handles, labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8.5)
    axes[-1].set_xlabel("mean log-probability per answer token (nats)")


def _draw_roc(figure: Figure, scores: Mapping[str, Mapping[str, list[float]]]) -> None:
    axis: Axes = figure.subplots()
    axis.plot([0, 1], [0, 1], color="#cbd5e1", lw=1, ls=":")
    for role, sets in scores.items():
        members, others = np.asarray(sets["forget"]), np.asarray(sets["holdout"])
        cuts = np.unique(np.concatenate([members, others]))[::-1]
        caught = [0.0, *((members >= cut).mean() for cut in cuts)]
        alarms = [0.0, *((others >= cut).mean() for cut in cuts)]
        area = float(np.trapezoid(caught, alarms))
        axis.plot(alarms, caught, color=_COLOURS[role], lw=2, label=f"{_MODELS[role]}  {area:.2f}")
    axis.set(xlabel="unseen records taken for training data", ylabel="forgotten records recognised")
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.legend(loc="lower right", frameon=False, title="area under the curve", title_fontsize=8.5, fontsize=8.5)


def _draw_sets(figure: Figure, scores: Mapping[str, Mapping[str, list[float]]]) -> None:
    axis: Axes = figure.subplots()
    names = ("forget", "retain", "holdout")
    width = 0.8 / len(scores)
    for offset, (role, sets) in enumerate(scores.items()):
        heights = [float(np.exp(sets[name]).mean()) for name in names]
        places = np.arange(3) + (offset - (len(scores) - 1) / 2) * width
        bars = axis.bar(places, heights, width * 0.9, color=_COLOURS[role], label=_MODELS[role])
        axis.bar_label(bars, fmt="%.2f", fontsize=7.5, padding=2)
    axis.set_xticks(range(3), ["to forget", "to keep", "never seen"])
    axis.set_ylabel("mean answer probability")
    axis.set_ylim(0, 1.3)
    axis.set_yticks(np.linspace(0, 1, 5))
    axis.legend(loc="upper center", frameon=False, ncols=3, fontsize=8.5, columnspacing=1.0, handlelength=1.2)
