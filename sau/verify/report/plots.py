"""The report's plots: SVG text, drawn from the record's numbers and our own words alone.

One colour per model everywhere; grey is what no model was trained on; a margin is a pale band; a verdict has its own
colour and its own marker, so that a page printed in grey still tells them apart.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sau.verify.record import Finding, Verification
from sau.verify.report.words import MODELS, Unlearning, stressed

Scores = Mapping[str, Mapping[str, list[float]]]

_COLOURS = {"before": "#c2410c", "unlearned": "#1d4ed8", "reference": "#0f766e"}

_UNSEEN, _BAND, _FAINT = "#94a3b8", "#e2e8f0", "#cbd5e1"

_TONES = {
    "PASS": ("#15803d", "o"),
    "FAIL": ("#b91c1c", "X"),
    "INCONCLUSIVE": ("#b45309", "D"),
    "NOT APPLICABLE": ("#475569", "o"),
}

_STYLE: Any = {
    "svg.fonttype": "none",
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


class _Plot(NamedTuple):
    draw: Callable[[Figure, Any], None]
    data: Any
    size: tuple[float, float]  # inches
    title: str
    caption: str


_WIDE, _HALF = 9.6, 4.6


def plots(verification: Verification, unlearning: Unlearning | None = None) -> list[dict[str, Any]]:
    """What can be drawn, each as `title`, `caption`, `svg`, and whether it is `wide`."""
    return [
        {"title": plot.title, "caption": plot.caption, "wide": plot.size[0] == _WIDE, "svg": _svg(plot)}
        for plot in (*_of_scores(verification), *_of_steps(unlearning), *_of_stressors(verification.checks))
    ]


def _of_scores(verification: Verification) -> Iterator[_Plot]:
    scores = {role: verification.scores[role] for role in MODELS if role in verification.scores}
    scores = {role: sets for role, sets in scores.items() if sets.get("forget") and sets.get("retain")}
    if not scores:
        return
    if unseen := {role: sets for role, sets in scores.items() if sets.get("holdout")}:
        yield _Plot(
            _draw_distributions,
            unseen,
            (_WIDE, 4.6),
            "How well each model knows the records",
            "Share of the records at each mean log-probability per answer token; dashed: the mean. After unlearning, "
            "the records to forget should lie where they lie for the model that never saw them.",
        )
        yield _Plot(
            _draw_roc,
            unseen,
            (_HALF, 4.0),
            "Telling forgotten from unseen records",
            "ROC of the loss attack. Its target is the curve of the model that never saw them, not the diagonal.",
        )
    yield _Plot(
        _draw_ks,
        scores,
        (_HALF, 4.0),
        "The records to forget, model against model",
        "Share of them at or below a log-probability. D: largest gap to the model that never saw them "
        "(Kolmogorov-Smirnov).",
    )
    yield _Plot(
        _draw_sets, scores, (_HALF, 4.0), "Forget, keep, never seen", "Mean answer probability of each set of records."
    )


def _of_steps(unlearning: Unlearning | None) -> Iterator[_Plot]:
    if unlearning:
        yield _Plot(
            _draw_trajectory,
            unlearning,
            (_HALF, 4.0),
            "The way there",
            "Measured while unlearning: what is to be forgotten sinks to where never-seen records are, the rest should "
            "stay. Dotted: the state that was kept.",
        )


def _of_stressors(checks: Sequence[Finding]) -> Iterator[_Plot]:
    """By stressed check the findings, as stored first."""
    groups: dict[str, list[tuple[str, Finding]]] = {}
    for finding in checks:
        if stored := stressed(finding, checks):
            groups.setdefault(stored.id, [("as stored", stored)]).append((finding.id.rpartition("/")[2], finding))
    if groups:
        yield _Plot(
            _draw_stressed,
            groups,
            (_WIDE, 0.9 + 0.32 * max(map(len, groups.values()))),
            "The same checks after the model was changed",
            "Value and interval; the band is the margin, the ring the model that never saw the records, changed alike. "
            "Green dot: pass; red cross: fail; amber diamond: inconclusive.",
        )


def _svg(plot: _Plot) -> Markup:
    """The plot as SVG text; the same numbers give the same bytes."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": plot.draw.__name__}):
        figure = Figure(figsize=plot.size, layout="constrained")
        plot.draw(figure, plot.data)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return Markup(re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL))


def _draw_distributions(figure: Figure, scores: Scores) -> None:
    values = np.concatenate([np.asarray(sets[name]) for sets in scores.values() for name in ("forget", "holdout")])
    bins = np.linspace(values.min(), max(values.max(), values.min() + 1e-6), 41)
    axes = np.atleast_1d(figure.subplots(len(scores), 1, sharex=True))
    for axis, (role, sets) in zip(axes, scores.items(), strict=True):
        for name, alpha, colour in (("holdout", 0.5, _UNSEEN), ("forget", 0.75, _COLOURS[role])):
            weights = np.full(len(sets[name]), 1 / len(sets[name]))
            label = {"holdout": "never-seen records", "forget": "records to forget"}[name]
            axis.hist(sets[name], bins=list(bins), weights=weights, color=colour, alpha=alpha, label=label)
            axis.axvline(float(np.mean(sets[name])), color=colour if name == "forget" else "#64748b", lw=1.4, ls="--")
        axis.yaxis.set_major_formatter("{x:.0%}")
        axis.yaxis.set_major_locator(MaxNLocator(2))
        axis.set_title(MODELS[role], loc="left", fontsize=9.5, fontweight="bold", color=_COLOURS[role])
        axis.legend(loc="upper left", frameon=False, fontsize=8.5)
    axes[-1].set_xlabel("mean log-probability per answer token (nats)")


def _draw_roc(figure: Figure, scores: Scores) -> None:
    axis: Axes = figure.subplots()
    axis.plot([0, 1], [0, 1], color=_FAINT, lw=1, ls=":")
    for role, sets in scores.items():
        members, others = np.asarray(sets["forget"]), np.asarray(sets["holdout"])
        cuts = np.unique(np.concatenate([members, others]))[::-1]
        caught = [0.0, *((members >= cut).mean() for cut in cuts)]
        alarms = [0.0, *((others >= cut).mean() for cut in cuts)]
        area = float(np.trapezoid(caught, alarms))
        axis.plot(alarms, caught, color=_COLOURS[role], lw=2, label=f"{MODELS[role]}: {area:.2f}")
    axis.set(xlabel="unseen records taken for training data", ylabel="forgotten records recognised")
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.legend(loc="lower right", frameon=False, title="area under the curve", title_fontsize=8.5, fontsize=8.5)


def _draw_ks(figure: Figure, scores: Scores) -> None:
    axis: Axes = figure.subplots()
    grid = np.unique(np.concatenate([sets["forget"] for sets in scores.values()]))
    share = {
        role: np.searchsorted(np.sort(sets["forget"]), grid, "right") / len(sets["forget"])
        for role, sets in scores.items()
    }
    for role, curve in share.items():
        label = MODELS[role]
        if role != "reference" and "reference" in share:
            gap = np.abs(curve - share["reference"])
            place = int(gap.argmax())
            label += f", D = {gap[place]:.2f}"
            axis.plot([grid[place]] * 2, [curve[place], share["reference"][place]], color=_COLOURS[role], lw=1, ls=":")
        axis.step(grid, curve, where="post", color=_COLOURS[role], lw=2, label=label)
    axis.set(xlabel="mean log-probability per answer token (nats)", ylabel="share of the records to forget")
    axis.set_ylim(-0.02, 1.02)
    axis.legend(loc="upper left", frameon=False, fontsize=8.5)


def _draw_sets(figure: Figure, scores: Scores) -> None:
    axis: Axes = figure.subplots()
    names = [name for name in ("forget", "retain", "holdout") if all(sets.get(name) for sets in scores.values())]
    width = 0.8 / len(scores)
    for offset, (role, sets) in enumerate(scores.items()):
        heights = [float(np.exp(sets[name]).mean()) for name in names]
        places = np.arange(len(names)) + (offset - (len(scores) - 1) / 2) * width
        bars = axis.bar(places, heights, width * 0.9, color=_COLOURS[role], label=MODELS[role])
        axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axis.set_xticks(
        range(len(names)), [{"forget": "to forget", "retain": "to keep"}.get(n, "never seen") for n in names]
    )
    axis.set_ylabel("mean answer probability")
    axis.set_ylim(0, 1.25)
    axis.set_yticks(np.linspace(0, 1, 5))
    axis.legend(loc="upper center", frameon=False, ncols=3, fontsize=8.5, columnspacing=1.0, handlelength=1.2)


def _draw_trajectory(figure: Figure, unlearning: Unlearning) -> None:
    axis: Axes = figure.subplots()
    trajectory = unlearning["trajectory"]
    steps = [point["step"] for point in trajectory]
    lines = (
        ("retain_logp", "to keep", "#60a5fa", "-"),
        ("forget_logp", "to forget", _COLOURS["unlearned"], "-"),
        ("target_logp", "target", "#64748b", "--"),
    )
    for key, label, colour, style in lines:
        axis.plot(steps, [point[key] for point in trajectory], color=colour, lw=2, ls=style, label=label)
    axis.axvline(unlearning["num_steps"], color="#64748b", lw=1, ls=":")
    axis.set(xlabel="unlearning step", ylabel="mean log-probability per answer token (nats)")
    axis.legend(loc="best", frameon=False, fontsize=8.5)


def _draw_stressed(figure: Figure, groups: Mapping[str, list[tuple[str, Finding]]]) -> None:
    axes = np.atleast_1d(figure.subplots(1, len(groups), sharey=True))
    for axis, rows in zip(axes, groups.values(), strict=True):
        left, right = _span([finding for _, finding in rows])
        for place, (_, finding) in enumerate(rows):
            _draw_finding(axis, place, finding, left, right)
        axis.set(xlim=(left, right), ylim=(len(rows) - 0.5, -0.5))
        axis.set_yticks(range(len(rows)), [name for name, _ in rows])
        axis.tick_params(axis="y", length=0)
        axis.set_title(rows[0][1].title, loc="left", fontsize=9.5, fontweight="bold")
        axis.set_xlabel("value")


def _span(findings: Sequence[Finding]) -> tuple[float, float]:
    """The range that everything drawn of them lies in, and a little more."""
    numbers = [n for f in findings for n in (f.value, f.reference, *(f.interval or ()), *(f.margin or ()))]
    known = [n for n in numbers if n is not None] or [0.0, 1.0]
    pad = 0.05 * max(max(known) - min(known), 1e-6)
    return min(known) - pad, max(known) + pad


def _draw_finding(axis: Axes, place: int, finding: Finding, left: float, right: float) -> None:
    if finding.value is None or finding.interval is None:
        said = "not applicable" if finding.verdict == "NOT APPLICABLE" else "did not run"
        axis.text((left + right) / 2, place, said, ha="center", va="center", fontsize=8.5, color="#475569")
        return
    low, high = finding.margin or (None, None)
    low, high = left if low is None else low, right if high is None else high
    axis.barh(place, high - low, left=low, height=0.8, color=_BAND, zorder=0)
    if finding.reference is not None:
        axis.plot(finding.reference, place, marker="o", mfc="none", mec=_COLOURS["reference"], ms=8, mew=1.5)
    colour, marker = _TONES[finding.verdict]
    axis.plot(finding.interval, [place, place], color=colour, lw=1.6)
    axis.plot(finding.value, place, marker=marker, color=colour, ms=6)
