"""Readings of people the model never saw, kept from one verification to the next: they do not change with the request.

The model before is the one that the last request left, and the same people judge both. A reading is found again by the
digest of all that it follows from: weights, tokenizer and rows, what is read, how it is computed, and this code. What
is kept are numbers, no text. Any file may go at any time, and a damaged one counts as none.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from sau.data.records import Row
from sau.files import write_private
from sau.models.identity import identity
from sau.models.language_model import LanguageModel
from sau.models.ranks import ranks_of
from sau.verify.evidence.readings import Reading, TokenScores

_MOST = 32
"""Files that are kept, those last made."""


class Cache:
    """A folder of readings; None: nothing is kept."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def reading(self, lm: LanguageModel, rows: Sequence[Row], read: Callable[[], Reading], *what: Any) -> Reading:
        """The reading of these rows by this model, kept or taken now.

        Args:
            read: takes it; of several processes on all or none: the first looks whether one is kept, and keeps it.
            what: all else that it follows from, as JSON values.
        """
        if self._folder is None:
            return read()
        ranks = ranks_of(lm.model)
        path = self._folder / f"{identity(lm, _code(), list(rows), what)}.npz"
        if (found := ranks.agreed(self._kept(path))) is None:
            found = read()
            if not ranks.rank:
                self._keep(path, found)
        return found

    def _kept(self, path: Path) -> Reading | None:
        try:
            with np.load(path, allow_pickle=False) as kept:
                return _unpacked(dict(kept))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # none, or a damaged one
            return None

    def _keep(self, path: Path, reading: Reading) -> None:
        """Where there is no room, or somebody else cleans up just now, nothing is lost but time."""
        content = io.BytesIO()
        np.savez(content, **_packed(reading))
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(path, content.getvalue())
            for old in sorted(path.parent.iterdir(), key=lambda p: p.stat().st_mtime)[:-_MOST]:
                old.unlink(missing_ok=True)
        except OSError:
            return


def _packed(reading: Reading) -> dict[str, Any]:
    """A reading as arrays, those of answers one after the other."""
    arrays: dict[str, Any] = {
        "lengths": np.array([len(scores.logp_T) for scores in reading.answer]),
        **{
            name: np.concatenate([getattr(scores, name) for scores in reading.answer])
            for name in ("logp_T", "correct_T", "mean_T", "std_T")
        },
        "zlib_bytes": reading.zlib_bytes,
        "encoding": np.array(reading.encoding),
    }
    arrays |= {f"forms/{name}": values for name, values in reading.forms.items()}
    return arrays | {f"exits/{number}": values for number, values in reading.exits.items()}


def _unpacked(arrays: dict[str, Any]) -> Reading:
    """The reading that was packed."""
    cuts = np.cumsum(arrays["lengths"])[:-1]
    columns = (np.split(arrays[name], cuts) for name in ("logp_T", "correct_T", "mean_T", "std_T"))
    within: dict[str, dict[str, Any]] = {"forms": {}, "exits": {}}
    for name, values in arrays.items():
        part, _, key = name.partition("/")
        if key:
            within[part][key] = values
    return Reading(
        answer=tuple(TokenScores(*parts) for parts in zip(*columns, strict=True)),
        zlib_bytes=arrays["zlib_bytes"],
        encoding=str(arrays["encoding"]),
        forms=within["forms"],
        exits={int(number): values for number, values in within["exits"].items()},
    )


@cache
def _code() -> str:
    """SHA-256 of the code that a reading follows from."""
    folder = Path(__file__).parents[2]
    files = sorted(
        file for room in ("models", "verify/evidence", "verify/forms") for file in folder.glob(f"{room}/*.py")
    )
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
