"""Whom a row is about: ids as people write them, and the random internal ids that data sets carry in their place.

A person's id is often a name, a number or an e-mail address. It would be a file's name and stand in listings that
nobody can take back, so a data set has internal ids only: 32 random hex digits. Which one is whose is for the caller to
keep (in the product the ledger does, per model line).
"""

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sau.errors import DataError

Naming = Callable[[list[str]], Mapping[str, str]]
"""Gives each id as people write it its internal one."""

MAX_ID_LENGTH = 1024
ID_RULE = f"text without line ends or other control characters, 1 to {MAX_ID_LENGTH} characters, or a whole number"
INTERNAL = re.compile(r"[0-9a-f]{32}\Z")
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}


def canonical(value: Any) -> str:
    """An id as it is compared: 77 and "77" are one, so are composed and decomposed umlauts; Alice and alice are two.

    Raises:
        DataError: the rule, without the id.
    """
    if isinstance(value, float) and value.is_integer():  # a whole number, in a table whose column has gaps
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = unicodedata.normalize("NFC", value).strip(" \u00a0") if isinstance(value, str) else ""
    fits = 1 <= len(text) <= MAX_ID_LENGTH
    if not fits or not (text.isprintable() or _CONTROL.isdisjoint(map(unicodedata.category, text))):
        raise DataError(f"malformed id: {ID_RULE}, is needed")
    return text


def drawn(given: Iterable[str]) -> dict[str, str]:
    """A fresh random internal id for each."""
    return {one: secrets.token_hex(16) for one in given}


def published(given: Iterable[str]) -> dict[str, str]:
    """Internal ids for invented people of public data sets: the same on every machine, in the order of the given ids.

    An order says who is who; that of public ids is no secret, and it keeps the order of training, so every number.
    """
    names = sorted(given)
    digests = (hashlib.sha256(f"published person {number}".encode()).hexdigest() for number in range(len(names)))
    return dict(zip(names, sorted(digest[:32] for digest in digests), strict=True))


def people_of(row: Mapping[str, Any]) -> list[str]:
    """Everybody a row is about: nobody, one person or several."""
    return list(row.get("subject_ids") or ([] if row["subject_id"] is None else [row["subject_id"]]))
