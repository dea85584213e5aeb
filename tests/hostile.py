"""Hostile input for tests: any JSON, any bytes that began as a good file, and what a refusal may look like."""

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sau.errors import SauError

SECRET = "Quillfeather"
"""Stands in every text of an input that is a person's, and must stand in no error."""

MORE = int(os.environ.get("SAU_FUZZ", "1"))
"""So many times as many examples: SAU_FUZZ=100 looks for an hour."""

_NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 2**63, 2**64, 1e308]))
_TEXTS = st.one_of(
    st.text(max_size=20),
    st.just(SECRET),
    st.sampled_from(["", " ", "\0", "\ud800", "\u2028", "../../x", "${HOME}", "=1+1", "[/red]", SECRET * 300]),
)
_KEYS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "\n", "\0", "x" * 3000, "subject_id", "question", "name", "[/red]"]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=8,
)
"""Any value that a JSON or YAML document may have, odd ones often."""


def examples(num: int) -> Callable[[Any], Any]:
    """So many examples (times `MORE`), the same ones at every run of the default."""
    return settings(
        max_examples=num * MORE,
        deadline=None,
        derandomize=MORE == 1,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A good file's bytes: cut off, with bytes changed, put in or taken out, or something said twice."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        to = min(len(content), at + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["cut", "change", "insert", "remove", "twice", "deep"]))
        if kind == "cut":
            del content[at:]
        elif kind == "change":
            content[at:to] = draw(st.binary(min_size=to - at, max_size=to - at))
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=8))
        elif kind == "remove":
            del content[at:to]
        elif kind == "twice":
            content[at:at] = content[at:to]
        else:
            content[at:at] = draw(st.sampled_from([b"[", b'{"a":', b"- ", b"("])) * 5000
    return bytes(content)


@st.composite
def altered(draw: st.DrawFn, whole: Any) -> Any:
    """A good document with one or two of its values exchanged for any other, or left out."""
    document = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 2))):
        if not (places := list(_places(document))):
            return draw(JSON)
        inside, key = draw(st.sampled_from(places))
        if draw(st.booleans()) or isinstance(inside, list):
            inside[key] = draw(JSON)
        else:
            del inside[key]
    return document


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(pairs):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


def read_or_refused(
    call: Callable[[], Any], kinds: type[SauError] | tuple[type[SauError], ...] = SauError, *, may_quote: bool = False
) -> Any:
    """What a call returns, or None where it refuses; any other way to fail is a defect, and so is what an error says.

    An error is one of the project's, of one line a terminal can show, not long, and quotes no secret.

    Args:
        may_quote: of a model's own files, which are nobody's rows.
    """
    try:
        return call()
    except kinds as error:
        said = str(error)
        assert said
        assert "\n" not in said, said
        assert len(said) < 2000, said
        assert may_quote or SECRET not in said, said
        said.encode()
        return None
