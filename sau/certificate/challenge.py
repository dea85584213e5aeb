"""What an auditor makes again: stages and rows chosen by an HMAC over the record, so that the operator cannot choose.

The auditor draws a nonce after the record was signed. Who made the record cannot have known it, and whoever has record
and nonce comes to the same choice.
"""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from sau.certificate.log import Entry
from sau.errors import ConfigError

MIN_NONCE = 16
T = TypeVar("T")


class Challenge(BaseModel):
    """What is to be made again, and looked at.

    Attributes:
        record: digest of the record's file.
        stages: by name, with the md5 of each output that has to come out again.
        rows: per set, positions of rows counted from 1 in the order of the record ids (`artifacts/split.json`).
    """

    model_config = ConfigDict(frozen=True)

    record: str
    version: str
    stages: dict[str, dict[str, str]]
    rows: dict[str, list[int]]


def challenge(entry: Entry, nonce: str, *, num_stages: int = 1, num_rows: int = 5) -> Challenge:
    """Choose by HMAC-SHA256(nonce, record digest).

    Args:
        nonce: the auditor's own, drawn after the record was signed.

    Raises:
        ConfigError: a nonce that could be guessed.
    """
    if len(nonce) < MIN_NONCE:
        raise ConfigError(f"nonce: has to be at least {MIN_NONCE} characters, as `openssl rand -hex 16` gives")
    procedure = entry.evidence.procedure
    outs = {stage.name: stage.outs for stage in procedure.stages}
    chosen = _chosen(list(outs), num_stages, nonce, f"{entry.digest}/stages")
    return Challenge(
        record=entry.digest,
        version=entry.evidence.decision.version,
        stages={name: outs[name] for name in chosen},
        rows={
            part: sorted(_chosen(range(1, size + 1), num_rows, nonce, f"{entry.digest}/rows/{part}"))
            for part, size in procedure.num_rows.items()
        },
    )


def _chosen(what: Sequence[T], count: int, nonce: str, purpose: str) -> list[T]:
    """So many of them without any twice, each equally likely (Fisher-Yates)."""
    pool, numbers = list(what), _numbers(nonce, purpose)
    count = min(count, len(pool))
    for place in range(count):
        other = place + next(numbers) % (len(pool) - place)
        pool[place], pool[other] = pool[other], pool[place]
    return pool[:count]


def _numbers(nonce: str, purpose: str) -> Iterator[int]:
    """A stream of 256-bit numbers; the remainder by any number of rows is uniform for all that can be told."""
    counter = 0
    while True:
        message = f"{purpose}/{counter}".encode()
        yield int.from_bytes(hmac.new(nonce.encode(), message, hashlib.sha256).digest(), "big")
        counter += 1
