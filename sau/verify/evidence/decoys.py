"""Decoys: what else a forgotten answer could have said, equally likely to anyone who never saw it.

Two ways to make them, both from the data alone:

* by template: rows of several subjects that ask the same question (the capitalised names in it apart) and answer in
  the same words around one slot. A decoy is the row's own answer with another value in the slot: the values of holdout
  rows and of everybody's false answers, none of which the model was trained on;
* by kind, where no other rows share the template: every date, number and name in the answer (that the question does not
  give away) is replaced by one of the same kind from other rows. Such an answer is less coherent than the true one to
  any model (one that never saw TOFU puts the true answer first in 10 of 12 rows), so these decoys are not exact: they
  count only in comparison with the model that never saw the records.

Where that is not enough, a slot of digits is filled with generated ones; only a row with fewer than 19 decoys (a p of
0.05) borrows the values of retain rows, which the model knows and may therefore prefer. The model that never saw the
records, judged by the same check, would show such a bias.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sau.data.records import Row

_TOKEN = re.compile(r"\w+|\W")

_NAME = re.compile(r"\b[A-Z]\w*(?:['-]\w+)*(?:\s+[A-Z]\w*(?:['-]\w+)*)*")

_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"

_KINDS = {
    "date": re.compile(
        rf"\b(?:\d{{1,2}} (?:{_MONTH}) \d{{4}}|(?:{_MONTH}) \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}"
        r"|\d{1,4}[-/]\d{1,2}[-/]\d{1,4})\b"
    ),
    "number": re.compile(r"\b\d[\d,.-]*\d\b|\b\d\b"),
    "name": _NAME,
}

_MIN_GROUP = 3

_ENOUGH = 19

_TRIES = 20


@dataclass(frozen=True)
class Secret:
    """One forget row's secret.

    Attributes:
        row: index into the forget rows.
        value: what the question does not give away, as it stands in the answer.
        prefix: the answer up to the value.
        decoys: distinct answers that say something else.
        exact: to a model that never saw the row they are as likely as the true answer.
    """

    row: int
    value: str = field(repr=False)
    prefix: str = field(repr=False)
    decoys: tuple[str, ...] = field(repr=False)
    exact: bool


@dataclass(frozen=True)
class _Masked:
    """A row with its subject's names taken out."""

    key: str
    names: tuple[str, ...]
    answer: str
    others: tuple[str, ...]  # the paraphrased answer, then the false ones


def find_secrets(
    forget: Sequence[Row], retain: Sequence[Row], holdout: Sequence[Row], *, num_decoys: int, seed: int
) -> list[Secret]:
    """The secrets of the forget rows, each with up to `num_decoys` decoys; rows without any decoy are left out."""
    rng = np.random.default_rng(seed)
    masked = {name: [_masked(row) for row in rows] for name, rows in (("f", forget), ("r", retain), ("h", holdout))}
    found = _found(holdout, retain)
    secrets = []
    for index, (row, hidden) in enumerate(zip(forget, masked["f"], strict=True)):
        ways = [_by_template(index, hidden, masked, num_decoys, rng)]
        if ways[0] is None or len(ways[0].decoys) < _ENOUGH:
            ways.append(_by_kind(index, row, found, num_decoys, rng))
        made = [secret for secret in ways if secret is not None]
        if made:
            secrets.append(max(made, key=lambda secret: len(secret.decoys)))
    return secrets


def _masked(row: Row) -> _Masked:
    question = row["question"]
    spans = [m for m in _NAME.finditer(question) if m.start() > 0]
    names = tuple(dict.fromkeys(m.group() for m in spans))
    return _Masked(
        key=_hide(question, names),
        names=names,
        answer=_hide(row["answer"], names),
        others=tuple(_hide(text, names) for text in (row["paraphrased_answer"], *row["perturbed_answer"])),
    )


def _hide(text: str, names: Sequence[str]) -> str:
    for number, name in enumerate(names):
        text = text.replace(name, f"\x00{number}\x00")
    return text


def _show(text: str, names: Sequence[str]) -> str:
    for number, name in enumerate(names):
        text = text.replace(f"\x00{number}\x00", name)
    return text


def _by_template(
    index: int, hidden: _Masked, masked: dict[str, list[_Masked]], count: int, rng: np.random.Generator
) -> Secret | None:
    group = {side: [m for m in rows if m.key == hidden.key] for side, rows in masked.items()}
    everyone = [*group["f"], *group["r"], *group["h"]]
    # The answers in other words are six times as many, so chance agreements around the slot are rarer there.
    wide = _slot([text for m in everyone for text in m.others if text])
    if wide and all(m.others[0] and _value(m.others[0], wide) in m.answer for m in everyone):
        values_of = {side: [_value(m.others[0], wide) for m in rows] for side, rows in group.items()}
        false_values = [_value(text, wide) for m in everyone for text in m.others[1:]]
        value = _value(hidden.others[0], wide)
        begin = hidden.answer.index(value)
    elif slot := _slot([m.answer for m in everyone]):
        values_of = {side: [_value(m.answer, slot) for m in rows] for side, rows in group.items()}
        false_values = []
        value = _value(hidden.answer, slot)
        begin = len("".join(_TOKEN.findall(hidden.answer)[: slot[0]]))
    else:
        return None
    values = _shuffled([*values_of["h"], *false_values], value, rng)
    if len(values) < count and any(c.isdigit() for c in value):
        values += [v for v in _generated(value, count, rng) if v not in values]
    if len(values) < min(count, _ENOUGH):
        values += [v for v in _shuffled(values_of["r"], value, rng) if v not in values]
    if not values:
        return None
    prefix, suffix = hidden.answer[:begin], hidden.answer[begin + len(value) :]
    decoys = tuple(_show(prefix + v + suffix, hidden.names) for v in values[:count])
    return Secret(index, _show(value, hidden.names), _show(prefix, hidden.names), decoys, exact=True)


def _slot(texts: Sequence[str]) -> tuple[int, int] | None:
    """(tokens that all texts begin with, tokens that all end with), if one slot is all they differ in."""
    rows = [_TOKEN.findall(text) for text in dict.fromkeys(texts)]
    if len(rows) < _MIN_GROUP:
        return None
    shortest = min(map(len, rows))
    before = next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)
    after = next((i for i in range(shortest - before) if len({row[-1 - i] for row in rows}) > 1), shortest - before)
    framed = "".join(rows[0][:before] + rows[0][len(rows[0]) - after :])
    if before + after >= shortest or not re.search(r"\w", framed):
        return None
    return before, after


def _value(text: str, slot: tuple[int, int]) -> str:
    tokens = _TOKEN.findall(text)
    return "".join(tokens[slot[0] : len(tokens) - slot[1]])


def _shuffled(values: Iterable[str], true_value: str, rng: np.random.Generator) -> list[str]:
    """The distinct values other than the row's own, in random order."""
    distinct = sorted({v for v in values if v and v != true_value})
    return [distinct[i] for i in rng.permutation(len(distinct))]


def _generated(value: str, count: int, rng: np.random.Generator) -> list[str]:
    """Values of the same format with other digits, the first digit of a number never 0."""

    def other(match: re.Match[str]) -> str:
        low = 10 ** (len(match.group()) - 1) if len(match.group()) > 1 else 0
        return str(rng.integers(low, 10 ** len(match.group())))

    drawn = (re.sub(r"\d{1,9}", other, value) for _ in range(_TRIES * count))
    return [v for v in dict.fromkeys(drawn) if v != value][:count]


def _found(holdout: Sequence[Row], retain: Sequence[Row]) -> dict[str, list[str]]:
    """Dates, numbers and names in the answers of holdout rows; where those are too few, of retain rows as well."""
    found: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for rows in (holdout, retain):
        lacking = [kind for kind, texts in found.items() if len(set(texts)) < _ENOUGH]
        for row in rows:
            for _, _, kind, text in _spans(row["answer"], row["question"]):
                if kind in lacking:
                    found[kind].append(text)
    return found


def _by_kind(index: int, row: Row, found: dict[str, list[str]], count: int, rng: np.random.Generator) -> Secret | None:
    spans = _spans(row["answer"], row["question"])
    if not spans:
        return None
    decoys: dict[str, None] = {}
    for _ in range(_TRIES * count):
        answer = row["answer"]
        for start, end, kind, text in reversed(spans):
            choices = found[kind] if kind == "name" or found[kind] else _generated(text, 1, rng)
            choices = [c for c in choices if c != text]
            if choices:
                answer = answer[:start] + choices[rng.integers(len(choices))] + answer[end:]
        if answer != row["answer"]:
            decoys[answer] = None
        if len(decoys) == count:
            break
    if not decoys:
        return None
    start, end = max(((s, e) for s, e, _, _ in spans), key=lambda span: span[1] - span[0])
    return Secret(index, row["answer"][start:end], row["answer"][:start], tuple(decoys), exact=False)


def _spans(answer: str, question: str) -> list[tuple[int, int, str, str]]:
    """(start, end, kind, text) of each date, number and name that the question does not hold, in order, disjoint."""
    spans: list[tuple[int, int, str, str]] = []
    for kind, pattern in _KINDS.items():
        for match in pattern.finditer(answer):
            start, end, text = match.start(), match.end(), match.group()
            if text in question or (kind == "name" and re.search(r"(?:^|[.!?]\s+)$", answer[:start])):
                continue  # given away, or capitalised only because a sentence starts
            if not any(s < end and start < e for s, e, _, _ in spans):
                spans.append((start, end, kind, text))
    return sorted(spans)
