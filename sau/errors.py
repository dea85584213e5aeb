"""Every error the product raises on purpose.

SauError
├── ConfigError      a parameter, policy or setting is unknown, out of bounds or contradictory
├── DataError        a data set is missing, malformed or empty where rows are needed
├── ModelError       a model cannot be opened, or is not one we may open
├── SparsityError    a mask, pattern or pruned weight is not what it has to be
├── CertificateError an evidence record was changed, or is not one
├── CheckpointError  a stored checkpoint is incomplete, damaged or not the one named
├── DivergedError    training left the finite numbers
├── RequestError     a forget request cannot be taken or changed as asked
├── VaultError       sealed rows cannot be opened: the key is gone, or something was changed
├── LeaseError       an attempt has lost its model line to another one
├── WorkspaceError   git or DVC refused
└── TrackingError    MLflow or Prefect refused, or cannot be reached

A message names the thing, its value and what is allowed. It never quotes a record's text.
"""

from collections.abc import Sequence


class SauError(Exception):
    """Base of every deliberate error."""


class ConfigError(SauError):
    """A parameter, policy or setting is unknown, out of bounds or contradictory."""


class DataError(SauError):
    """A data set is missing, malformed or empty where rows are needed."""


class ModelError(SauError):
    """A model cannot be opened, or is not one we may open."""


class SparsityError(SauError):
    """A mask, pattern or pruned weight is not what it has to be."""


class CertificateError(SauError):
    """An evidence record was changed, or is not one."""


class CheckpointError(SauError):
    """A stored checkpoint is incomplete, damaged or not the one named."""


class DivergedError(SauError):
    """Training left the finite numbers."""


class RequestError(SauError):
    """A forget request cannot be taken or changed as asked."""


class VaultError(SauError):
    """Sealed rows cannot be opened: the key is gone, or something was changed."""


class LeaseError(SauError):
    """An attempt has lost its model line to another one."""


class WorkspaceError(SauError):
    """git or DVC refused."""


class TrackingError(SauError):
    """MLflow or Prefect refused, or cannot be reached."""


def one_line(words: object) -> str:
    """What a file or a library says, as a part of an error: its first line, at most 200 characters of it."""
    return (str(words).strip().splitlines() or [""])[0][:200]


def some(words: Sequence[str], most: int, between: str = ", ") -> str:
    """The first few of many words, and how many more there are."""
    return between.join(words[:most]) + f" and {len(words) - most} more" * (len(words) > most)
