"""The letter to the person who asked: one page, from the record alone, in any language that has a file in letters/."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from sau.certificate.record import Evidence
from sau.config import Section, checked, read_yaml
from sau.errors import ConfigError

_FOLDER = Path(__file__).parent / "letters"


class Notices(Section):
    """One language's sentences for notices, by what they are about, and by law."""

    titles: dict[str, str]
    asked: str
    told: dict[str, str]
    grounds: dict[str, dict[str, str]]
    rights: dict[str, str]
    again: str


class Words(Section):
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
    notices: Notices


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
    words = words_in(language)
    passed = evidence.verdict == "PASS" and evidence.decision.leads
    values = {
        "request": evidence.request.id,
        "version": evidence.decision.version,
        "received": day(words, evidence.request.received_at),
        "deadline": day(words, evidence.request.deadline_at),
        "issued": day(words, evidence.issued_at),
        "num_records": evidence.request.num_records,
        "num_checks": len([check for check in evidence.checks if check.verdict != "NOT APPLICABLE"]),
        "record": record,
    }
    residual = [cleaned for cleaned in evidence.purge if cleaned.residual]
    purge = words.not_purged if not evidence.purge else words.partly_purged if residual else words.purged
    outcome = words.verdicts["PASS" if passed else "other"]
    paragraphs = [words.greeting, words.asked, outcome, *([words.done, words.strangers] if passed else []), purge]
    return rendered(
        language,
        title=words.title,
        date=str(values["issued"]),
        paragraphs=[text.format(**values) for text in paragraphs],
        sections=[(words.head_limits, words.limits), (words.head_rights, [words.rights, words.proof.format(**values)])],
        closing=words.closing,
        html=html,
    )


def words_in(language: str) -> Words:
    """The sentences of a language.

    Raises:
        ConfigError: no such language.
    """
    if language not in languages():
        raise ConfigError(f"language {language!r}: has to be one of {', '.join(languages())}")
    file = _FOLDER / f"{language}.yaml"
    return checked(Words, read_yaml(file), file.name)


def rendered(
    language: str,
    *,
    title: str,
    date: str,
    paragraphs: Sequence[str],
    sections: Sequence[tuple[str, Sequence[str]]],
    closing: str,
    html: bool,
) -> str:
    """A letter's parts as Markdown, or as a page to print: one sheet of paper for every letter."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), undefined=StrictUndefined, autoescape=select_autoescape(["html.j2"]),
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(f"letter.{'html' if html else 'md'}.j2").render(
        language=language, title=title, date=date, paragraphs=paragraphs, sections=sections, closing=closing
    )


def day(words: Words, at: datetime) -> str:
    """A day as a language writes it."""
    return at.strftime(words.date)
