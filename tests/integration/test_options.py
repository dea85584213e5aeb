"""Values on the command line arrive as they were typed, and what a source's columns are called is part of them."""

from pathlib import Path

import pytest
import typer

from flows.cli.options import data_options, overrides
from sau.config import read_yaml
from sau.errors import ConfigError
from tasks.prepare import resolve_params

PARAMS = read_yaml(Path(__file__).resolve().parents[2] / "params.yaml")


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("prune.structure=2:4", ("prune", "structure"), "2:4"), ("prune.structure=4:8", ("prune", "structure"), "4:8"),
        ("train.lr=1e-4", ("train", "lr"), 1e-4), ("unlearn.paraphrases=false", ("unlearn", "paraphrases"), False),
        ("model.source=on", ("model", "source"), "on"), ("model.source=2026-11-26", ("model", "source"), "2026-11-26"),
        ("model.source=012", ("model", "source"), 12), ("seed=7", ("seed",), 7),
    ],
)  # fmt: skip
def test_a_value_is_what_was_typed(typed, key, value):
    found = overrides(None, [typed])
    for part in key:
        found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_the_documented_structure_is_taken():
    assert resolve_params(PARAMS, overrides(None, ["prune.structure=2:4"])).prune.structure == "2:4"


def test_a_prompt_is_a_word_or_a_text():
    for prompt in ("chat", "Q {question}\nA:"):
        assert resolve_params(PARAMS, {"model": {"prompt": prompt}}).model.prompt == prompt
    with pytest.raises(ConfigError, match=r"model.prompt: .*has to be auto, chat, plain"):
        resolve_params(PARAMS, overrides(None, ["model.prompt=templated"]))


def test_columns_by_option_and_by_parameter():
    laid_over = overrides(None, ["data.columns.answer=antwort", "data.window_bytes=500", "seed=3"])
    options = data_options(laid_over, ["question=frage"], subject_column="kunde")
    assert options.columns == {"question": "frage", "answer": "antwort"}
    assert (options.window_bytes, options.subject_column) == (500, "kunde")
    assert laid_over == {"seed": 3}


@pytest.mark.parametrize("item", ["question", "=frage", "question="])
def test_a_column_without_two_names_is_a_usage_error(item):
    with pytest.raises(typer.BadParameter, match="has to look like"):
        data_options({}, [item])


def test_an_unknown_column_is_named():
    with pytest.raises(ConfigError, match="'quesion': has to be one of answer, completion"):
        data_options({}, ["quesion=frage"])
