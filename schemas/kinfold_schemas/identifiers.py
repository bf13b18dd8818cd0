"""Identifiers: normalising, limits, and the blocked ones (contract section 2).

A blocked identifier is not an identity but an accident of some program (`null`, `undefined`, `[object Object]`): linking by
it would make one person of everybody who hit the same bug.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from kinfold_schemas.rejections import Rejection, found

MAX_ID_CHARS: Final = 255
MIN_EMAIL_CHARS: Final = 3
MAX_EMAIL_CHARS: Final = 320

BLOCKED_ANY_CASE: Final = frozenset(
    ["anonymous", "guest", "distinctid", "distinct_id", "id", "not_authenticated", "email", "undefined", "true", "false"]
)
BLOCKED_EXACT: Final = frozenset(["[object Object]", "NaN", "None", "none", "null", "0", "-1", ""])

_ZEROS_AND_DASHES: Final = re.compile(r"[0-]+\Z")
_QUOTES: Final = "\"'`"
_SUSPICIOUS: Final = frozenset(["", *_QUOTES, *"0-"])
_WORDS: Final = BLOCKED_ANY_CASE | frozenset(map(str.lower, BLOCKED_EXACT))
_LONGEST_WORD: Final = max(map(len, _WORDS))


class BadPattern(ValueError):
    """What a workspace blocks, and stands between slashes, is no regular expression."""


class IdentifierRules:
    """What counts as an identifier in one workspace: the contract's rules, and the workspace's own blocked ones.

    `blocked` holds exact values, and patterns between slashes (`/^test-/`) that are searched for in the identifier.
    Raises BadPattern.

    The methods return the identifier as it is to be matched, or the `Rejection` that it earns.
    """

    visitor_id: Callable[[str], str | Rejection]
    external_id: Callable[[str], str | Rejection]
    email: Callable[[str], str | Rejection]

    def __init__(self, blocked: Iterable[str] = ()) -> None:
        self.blocked: Final = tuple(sorted(blocked))
        is_pattern = re.compile(r"/.+/\Z", re.DOTALL).match
        self._exact: Final = frozenset(item for item in self.blocked if not is_pattern(item))
        self._patterns: Final = tuple(_compiled(item) for item in self.blocked if is_pattern(item))
        self.visitor_id = partial(self._id, "visitorId")
        self.external_id = partial(self._id, "externalId")
        self.email = self._email

    def is_blocked(self, value: str) -> bool:
        """Whether `value`, already stripped, is an accident rather than an identity."""
        if self.blocked and (value in self._exact or any(pattern.search(value) for pattern in self._patterns)):
            return True
        if not _may_be_accident(value):
            return False
        value = _unquoted(value)
        return (
            value in BLOCKED_EXACT
            or value.lower() in BLOCKED_ANY_CASE
            or _ZEROS_AND_DASHES.match(value) is not None
            or value in self._exact
        )

    def _id(self, field: str, raw: str) -> str | Rejection:
        value = raw.strip()
        if (self.blocked or _may_be_accident(value)) and self.is_blocked(value):
            return _blocked(field, raw)
        if len(value) > MAX_ID_CHARS or "\0" in value:
            return Rejection("invalid", f"{field}: found {_seen(value)}, allowed are 1 to 255 characters without NUL")
        return value

    def _email(self, raw: str) -> str | Rejection:
        value = raw.strip()
        if (self.blocked or _may_be_accident(value)) and self.is_blocked(value):
            return _blocked("email", raw)
        well_formed = value.count("@") == 1 and MIN_EMAIL_CHARS <= len(value) <= MAX_EMAIL_CHARS
        if not well_formed or "\0" in value:
            return Rejection(
                "invalid", f"email: found {_seen(value)}, allowed are 3 to 320 characters with one @ and without NUL"
            )
        return value


CONTRACT_RULES: Final = IdentifierRules()
"""The contract's own rules, for whoever has no workspace's at hand (producers)."""


def email_key(email: str) -> str:
    """What an address is matched by: its lower case (contract section 2, Normalising)."""
    return email.lower()


def _compiled(item: str) -> re.Pattern[str]:
    try:
        return re.compile(item[1:-1])
    except (re.error, OverflowError, RecursionError) as error:
        message = f"blocked identifiers: found {found(item)} ({error}), allowed between slashes is a regular expression"
        raise BadPattern(message) from error


def _may_be_accident(value: str) -> bool:
    """Whether it is worth a closer look: nearly no identifier is."""
    return value[:1] in _SUSPICIOUS or (len(value) <= _LONGEST_WORD and value.lower() in _WORDS)


def _unquoted(value: str) -> str:
    while len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES:
        value = value[1:-1].strip()
    return value


def _blocked(field: str, raw: str) -> Rejection:
    return Rejection(
        "blocked-identifier",
        f"{field}: found {found(raw)}, a blocked identifier; allowed is what names one {_OF[field]}",
    )


_OF: Final = {"visitorId": "device", "externalId": "person", "email": "person"}


def _seen(value: str) -> str:
    return f"{found(value)} ({len(value)} characters)"
