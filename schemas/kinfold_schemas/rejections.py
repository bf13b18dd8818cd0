"""Why an entry was rejected (contract section 7)."""

from typing import Literal, final

import msgspec

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
    """Render a decoded value for an error message: at most 60 characters, with its JSON type unless it is a string."""
    text = value if isinstance(value, str) else repr(value)
    short = text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004  fits a line of a terminal
    return f"{short!r}" if isinstance(value, str) else f"{short} ({json_type(value)})"


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
