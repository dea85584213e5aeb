"""Who asks, and what they may do: a link with a token or a proxy's user header, three roles, a mark on every form."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sau.errors import ConfigError
from tasks.engines.decisions import MAX_NAME, checked_text

SESSION_S = 12 * 3600
COOKIE = "sau_desk"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Role(StrEnum):
    """Officers decide, operators run the machinery, auditors read everything and change nothing."""

    OFFICER = "officer"
    OPERATOR = "operator"
    AUDITOR = "auditor"


MAY: Mapping[str, frozenset[Role]] = {
    **dict.fromkeys(("take", "told", "approve"), frozenset({Role.OFFICER, Role.OPERATOR})),
    **dict.fromkeys(
        ("withdraw", "confirm", "extend", "refuse", "hold", "release", "rows", "keep", "purge"),
        frozenset({Role.OFFICER}),
    ),
}
"""Who may do what; reading is everybody's who is let in."""


@dataclass(frozen=True)
class User:
    """Who asks. `session` is what a form's mark is bound to."""

    name: str
    role: Role
    session: str

    def may(self, action: str) -> bool:
        return self.role in MAY.get(action, ())


class Access:
    """The people who may come in.

    Args:
        roles: by name.
        header: of a proxy that says who is logged in; "" where people come by a link with a token.
    """

    def __init__(self, roles: Mapping[str, Role], header: str = "") -> None:
        self.roles, self.header = dict(roles), header
        self._tokens = {name: secrets.token_urlsafe(24) for name in self.roles}
        self._sessions: dict[str, tuple[str, float]] = {}
        self._key = secrets.token_bytes(32)

    def token(self, name: str) -> str:
        """A person's token, new at every start."""
        return self._tokens[name]

    def enter(self, token: str) -> str | None:
        """A session for whose token it is; None for nobody's."""
        given = token.encode()
        found = [name for name, known in self._tokens.items() if hmac.compare_digest(known.encode(), given)]
        if self.header or not found:
            return None
        now = time.time()
        self._sessions = {key: kept for key, kept in self._sessions.items() if now - kept[1] < SESSION_S}
        session = secrets.token_urlsafe(24)
        self._sessions[session] = (found[0], now)
        return session

    def leave(self, session: str) -> None:
        """End a session."""
        self._sessions.pop(session, None)

    def user(self, cookie: str | None, header: str | None) -> User | None:
        """Who asks, by a session's cookie or the proxy's header; None where that is nobody who may come in."""
        if self.header:
            return User(header, self.roles[header], header) if header in self.roles else None
        name, began = self._sessions.get(cookie or "", ("", 0.0))
        return User(name, self.roles[name], cookie or "") if name and time.time() - began < SESSION_S else None

    def mark(self, user: User) -> str:
        """What a form has to bring back: nobody else's page knows it."""
        return hmac.new(self._key, f"{user.name}\0{user.session}".encode(), hashlib.sha256).hexdigest()

    def is_marked(self, user: User, given: str) -> bool:
        """Whether a form is one of ours, for this person."""
        return hmac.compare_digest(self.mark(user).encode(), given.encode())


def read_roles(text: str, default: str) -> dict[str, Role]:
    """`ada=officer, eve=auditor` by name; nothing said, who starts the desk is an officer.

    Raises:
        ConfigError: malformed, an unknown role, or a name twice.
    """
    roles: dict[str, Role] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, role = (word.strip() for word in item.rpartition("="))
        if not equals or not name or role not in set(Role):
            raise ConfigError(f"SAU_DESK_USERS: {item!r} has to look like ada=officer, with {', '.join(Role)}")
        if checked_text("SAU_DESK_USERS", name, MAX_NAME) in roles:
            raise ConfigError(f"SAU_DESK_USERS: {name!r} is named twice")
        roles[name] = Role(role)
    return roles or {default: Role.OFFICER}
