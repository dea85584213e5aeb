"""The letter to the person who asked: one page, from the record alone, in any language that has a file in letters/."""

from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from sau.certificate.record import Evidence
from sau.config import Section, checked, read_yaml
from sau.errors import ConfigError

_FOLDER = Path(__file__).parent / "letters"


class _Words(Section):
    """One language's sentences; what stands in braces is filled in."""

    title: str
    greeting: str
    date: str
    verdicts: dict[str, str]
    asked: str
    done: str
    strangers: str
    purged: str
    partly_purged: str
    not_purged: str
    head_limits: str
    limits: list[str]
    head_rights: str
    rights: str
    proof: str
    closing: str


def languages() -> list[str]:
    """The languages there are letters in."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def letter(evidence: Evidence, record: str, *, language: str = "en", html: bool = False) -> str:
    """A letter as Markdown, or as a page to print.

    Args:
        record: digest of the record's file, so that the letter names the one it is about.

    Raises:
        ConfigError: no such language.
    """
    if language not in languages():
        raise ConfigError(f"language {language!r}: has to be one of {', '.join(languages())}")
    file = _FOLDER / f"{language}.yaml"
    words = checked(_Words, read_yaml(file), file.name)
    passed = evidence.verdict == "PASS" and evidence.decision.leads
    values = {
        "request": evidence.request.id,
        "version": evidence.decision.version,
        "received": _day(words, evidence.request.received_at),
        "deadline": _day(words, evidence.request.deadline_at),
        "issued": _day(words, evidence.issued_at),
        "num_records": evidence.request.num_records,
        "num_checks": len([check for check in evidence.checks if check.verdict != "NOT APPLICABLE"]),
        "record": record,
    }
    residual = [cleaned for cleaned in evidence.purge if cleaned.residual]
    purge = words.not_purged if not evidence.purge else words.partly_purged if residual else words.purged
    outcome = words.verdicts["PASS" if passed else "other"]
    paragraphs = [words.greeting, words.asked, outcome, *([words.done, words.strangers] if passed else []), purge]
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), undefined=StrictUndefined, autoescape=select_autoescape(["html.j2"]),
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(f"letter.{'html' if html else 'md'}.j2").render(
        language=language,
        title=words.title,
        date=values["issued"],
        paragraphs=[text.format(**values) for text in paragraphs],
        sections=[(words.head_limits, words.limits), (words.head_rights, [words.rights, words.proof.format(**values)])],
        closing=words.closing,
    )


def _day(words: _Words, at: datetime) -> str:
    return at.strftime(words.date)
