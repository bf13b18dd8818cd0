"""Why an entry was rejected (contract section 7)."""

import json
from typing import Final, Literal, final

import msgspec

_MAX_CHARS: Final = 60
"""How much of a value a message shows: it fits a line of a terminal."""

Reason = Literal[
    "not-json",
    "no-event-field",
    "unknown-type",
    "invalid",
    "too-large",
    "blocked-identifier",
    "no-identifier",
    "unknown-contact",
    "hash-mismatch",
    "not-allowed",
    "held-by-another",
]
"""Stable codes. New ones may be added; existing ones are never renamed."""


@final
class Rejection(msgspec.Struct, frozen=True):
    """Why an entry is rejected. The fold returns it as a value and never raises it.

    `field` is the path of the field within the event (`metadata.plan`, `unset[1]`), or `event` for the whole.
    """

    reason: Reason
    field: str
    expected: str
    got: str

    @property
    def detail(self) -> str:
        """The parts as one sentence, as `rejects` stores it."""
        return f"{self.field}: expected {self.expected}, got {self.got}"


class EventError(ValueError):
    """Raised by `check_event` and the producers for an event that the fold would reject."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"{rejection.reason}: {rejection.detail}")
        self.rejection = rejection


def found(value: object) -> str:
    """Render a decoded value for an error message: as JSON, at most 60 characters, with its type unless it is a string or null.

    A value that JSON does not have, which only a Python caller can give, is rendered as Python does, with its class.
    """
    if value is None:
        return "null"
    if isinstance(value, str):
        return repr(_short(value))
    try:
        text, kind = json.dumps(value, ensure_ascii=False), json_type(value)
        if not text.isprintable():
            text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text, kind = repr(value), type(value).__name__
    return f"{_short(text)} ({kind})"


def found_bytes(data: bytes) -> str:
    """Render bytes for an error message: as text if they are UTF-8, else with escapes; at most 60 characters."""
    try:
        return found(data.decode())
    except UnicodeDecodeError:
        return _short(repr(data[:_MAX_CHARS])[1:])


def _short(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[: _MAX_CHARS - 3]}..."


def json_type(value: object) -> str:
    """The JSON type of a decoded value, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case _:
            return "an object"
