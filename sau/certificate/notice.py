"""Notices to the person who asked: that a request is refused, refused in part, or takes longer, and why."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from sau.certificate.letter import day, rendered, words_in


class About(StrEnum):
    """What a notice is about: a refusal (GDPR Art. 12(4), 17(3)), one in part, or an extension (Art. 12(3))."""

    REFUSAL = "refusal"
    PARTIAL = "partial-refusal"
    EXTENSION = "extension"


class Notice(BaseModel):
    """A decision as the person is told of it.

    Attributes:
        law: gdpr or ccpa.
        decided_at: the day of the decision, which is the letter's.
        deadline_at: by when the person is owed an answer; of an extension, the new day.
        was_due_at: of an extension, the day before.
        grounds: of a refusal, by their names in `tasks.engines.decisions`; each is a sentence in every language.
        num_records: of a refusal in part, how many rows stay.
        say: what else the person is told, in the words of who decided.
    """

    model_config = ConfigDict(frozen=True)

    about: About
    request_id: str
    law: str
    received_at: datetime
    decided_at: datetime
    deadline_at: datetime
    was_due_at: datetime | None = None
    grounds: tuple[str, ...] = ()
    num_records: int = 0
    say: str = ""


def write_notice(notice: Notice, *, language: str = "en", html: bool = False) -> str:
    """A notice as Markdown, or as a page to print.

    Raises:
        ConfigError: no such language.
    """
    words = words_in(language)
    said, values = words.notices, {
        "request": notice.request_id,
        "received": day(words, notice.received_at),
        "decided": day(words, notice.decided_at),
        "deadline": day(words, notice.deadline_at),
        "was_due": day(words, notice.was_due_at or notice.deadline_at),
        "num_records": notice.num_records,
    }  # fmt: skip
    grounds = [said.grounds[notice.law][ground] for ground in notice.grounds]
    paragraphs = [words.greeting, said.asked.format(**values), said.told[notice.about].format(**values), *grounds]
    return rendered(
        language,
        title=said.titles[notice.about],
        date=day(words, notice.decided_at),
        paragraphs=[*paragraphs, *filter(None, notice.say.split("\n"))],
        sections=[(words.head_rights, [said.rights[notice.law], *([said.again] if notice.grounds else [])])],
        closing=words.closing,
        html=html,
    )
