"""Who is who: a line's people by the ids that its users know, and the random ids that its data sets carry.

The ledger's database alone connects the two, for all clones that share it, and it knows people by keyed digest
(HMAC-SHA256, a random key for each line), so that it is no list of everybody in the data; only a request names its
person. Where a row here is deleted, an internal id says nothing about anybody any more.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from sau.data.people import INTERNAL, canonical, drawn
from sau.errors import RequestError
from tasks.engines.ledger import LINE, Ledger, subject_of
from tasks.engines.settings import settings
from tasks.engines.tables import PeopleKey, Person

_TOGETHER = 400
"""Rows of one statement: SQLite takes so many bound values."""


class People:
    """The people of all lines in a ledger's database.

    Raises:
        RequestError: the database cannot be opened, or fails.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = {"postgresql": postgresql.insert}.get(ledger.engine.dialect.name, sqlite.insert)

    def name(self, line: str, given: Iterable[str], ids: Mapping[str, str] | None = None) -> dict[str, str]:
        """Everybody's internal id by the given one; who has none yet gets a random one, and keeps it for ever.

        Two who name the same people at once get the same ids.

        Args:
            ids: what internal ids have to be, for invented people of published data sets.
        """
        key = self._key(line)
        assert key is not None
        digests = {_digest(key, person): person for person in given}
        new = drawn(digests) if ids is None else {digest: ids[person] for digest, person in digests.items()}
        for some in _some(digests):
            rows = [{"line": line, "digest": digest, "internal_id": new[digest]} for digest in some]
            statement = self._insert(Person).values(rows)
            unique = ["line", "digest"]
            with self._ledger.session() as session:
                if ids is None:
                    session.execute(statement.on_conflict_do_nothing(index_elements=unique))
                else:
                    known = {"internal_id": statement.excluded.internal_id}
                    session.execute(statement.on_conflict_do_update(index_elements=unique, set_=known))
        return self.known(line, digests.values())

    def known(self, line: str, given: Iterable[str]) -> dict[str, str]:
        """The internal ids of those whom the line knows, by the given ids.

        Raises:
            DataError: a malformed id.
        """
        found: dict[str, str] = {}
        people = {canonical(person): person for person in given}
        if (key := self._key(line, make=False)) is None:
            return found
        digests = {_digest(key, person): given for person, given in people.items()}
        for some in _some(digests):
            query = select(Person.digest, Person.internal_id).where(Person.line == line, Person.digest.in_(some))
            with self._ledger.session() as session:
                found |= {digests[digest]: internal for digest, internal in session.execute(query)}
        return found

    def find(self, line: str, given: str) -> str | None:
        """A person's internal id; None where the line knows nobody by this id.

        Raises:
            DataError: a malformed id.
        """
        return self.known(line, [given]).get(given)

    def forget(self, line: str, given: str) -> bool:
        """Delete the connection between a person and their internal id, for good; returns whether there was one."""
        which = (Person.line == line) & (Person.digest == self.digest(line, given))
        with self._ledger.session() as session:
            return bool(session.scalars(delete(Person).where(which).returning(Person.digest)).all())

    def count(self, line: str) -> int:
        """How many people a line knows."""
        with self._ledger.session() as session:
            return session.scalar(select(func.count()).select_from(Person).where(Person.line == line)) or 0

    def digest(self, line: str, given: str) -> str:
        """HMAC-SHA256 (hex) of a person's id under the line's key: what stands for the id in lists that outlive it.

        Raises:
            DataError: a malformed id.
        """
        key = self._key(line)
        assert key is not None
        return _digest(key, given)

    def _key(self, line: str, *, make: bool = True) -> bytes | None:
        query = select(PeopleKey.key).where(PeopleKey.line == line)
        with self._ledger.session() as session:
            key = session.scalar(query)
            if key is None and make:
                values = {"line": line, "key": secrets.token_hex(32)}
                session.execute(self._insert(PeopleKey).values(values).on_conflict_do_nothing(index_elements=["line"]))
                key = session.scalar(query)  # ours or another's
        return None if key is None else bytes.fromhex(key)


def _digest(key: bytes, given: str) -> str:
    return hmac.new(key, canonical(given).encode(), hashlib.sha256).hexdigest()


def _some(digests: Iterable[str]) -> Iterator[list[str]]:
    """As many at a time as one statement takes."""
    left = iter(digests)
    while some := list(islice(left, _TOGETHER)):
        yield some


def internal_id(line: str, subject: str, ledger: Ledger | None = None) -> str:
    """By what id a line's data sets know a person: internal ids are taken as they are, and so are ids that data sets of
    before internal ids have.

    Raises:
        RequestError: malformed, or of nobody whom the line knows.
    """
    if (found := internal_ids(line, [subject], ledger).get(subject)) is None:
        raise RequestError(f"subject: unknown, nobody of line {line} has this id")
    return found


def internal_ids(line: str, subjects: Iterable[str], ledger: Ledger | None = None) -> dict[str, str]:
    """As `internal_id`, of many at once, without those whom the line does not know.

    Raises:
        RequestError: malformed.
    """
    given = {subject: subject_of(subject) for subject in subjects}
    known = People(ledger or Ledger(settings().ledger_url)).known(line, given.values())
    # Anything but these was never the name of a file.
    as_it_is = {one: one for one in given.values() if INTERNAL.match(one) or LINE.match(one)}
    found = as_it_is | known
    return {subject: found[one] for subject, one in given.items() if one in found}


def person_of(request_id: str, ledger: Ledger | None = None) -> str:
    """The internal id of the person a request is about.

    Raises:
        RequestError: an unknown request, or nobody whom its line knows.
    """
    ledger = ledger or Ledger(settings().ledger_url)
    request = ledger.get(request_id)
    return internal_id(request.line, request.subject_id, ledger)
