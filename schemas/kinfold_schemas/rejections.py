"""Why an entry could not be folded (contract section 7)."""

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
]
"""The stable codes; new ones may be added, none is ever renamed."""


@final
class Rejection(msgspec.Struct, frozen=True):
    """An entry that is refused: a value that the fold returns, never an exception that it throws.

    `detail` is one sentence that names the field, what was found and what is allowed.
    """

    reason: Reason
    detail: str


class EventError(ValueError):
    """What `check_event` and the producers raise for an event that would be rejected."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"{rejection.reason}: {rejection.detail}")
        self.rejection = rejection


def found(value: object) -> str:
    """`value` as an error message shows it: short, and with its JSON type where the type is the mistake."""
    text = value if isinstance(value, str) else repr(value)
    short = text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004  fits a line of a terminal
    return f"{short!r}" if isinstance(value, str) else f"{short} ({json_type(value)})"


def json_type(value: object) -> str:
    """The name of the JSON type of a decoded value."""
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
