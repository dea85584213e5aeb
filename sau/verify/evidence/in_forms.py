"""Records put in every form of `sau.verify.forms`, and how well a model knows them so."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sau.data.records import Row
from sau.data.sets import by_person
from sau.models.batches import encode
from sau.models.language_model import LanguageModel
from sau.registry import discover
from sau.verify.evidence.likelihoods import mean_logps
from sau.verify.forms.base import PACKAGE, Around, Form


def in_forms(
    lm: LanguageModel, rows: Sequence[Row], strangers: Sequence[Row], rows_each: int | None, batch_size: int
) -> dict[str, NDArray[np.float64]]:
    """By name of a form, the score of each row [N], NaN where it was not or cannot be put so.

    Args:
        strangers: rows of people the model never saw, which forms may use.
        rows_each: of each person at most so many rows are put into a form, others into the next; None: all.
    """
    people = by_person(rows)
    around = {id(row): Around([r for r in own if r is not row], strangers) for own in people for row in own}
    found = {}
    for turn, (name, kind) in enumerate(discover(Form, PACKAGE).items()):
        form = kind()
        chosen = {id(row) for own in people for row in _in_turn(own, rows_each, turn)}
        put = {
            number: [asked, *form.against(given, around[id(given)])]
            for number, given in enumerate(rows)
            if id(given) in chosen and (asked := form.put(given, around[id(given)])) is not None
        }
        means = np.full(len(rows), np.nan)
        if put:
            encoded = encode(lm.tokenizer, form.prompt(lm), itertools.chain(*put.values()))
            scores = np.split(mean_logps(lm, encoded, batch_size=batch_size), np.cumsum(list(map(len, put.values()))))
            for number, (own, *others) in zip(put, scores, strict=False):
                means[number] = own - (np.mean(others) if others else 0.0)
        found[name] = means
    return found


def _in_turn(rows: Sequence[Row], most: int | None, turn: int) -> Sequence[Row]:
    """At most so many of the rows, going on at each turn where the last one ended."""
    if most is None or len(rows) <= most:
        return rows
    return [rows[(turn * most + i) % len(rows)] for i in range(most)]
