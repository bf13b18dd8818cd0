"""The syntax tree of the filter language (`kinfold_schemas.filters`), and the times in it."""

import re
from datetime import datetime
from typing import Final, Literal

import msgspec

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.times import LAST_MS, to_ms

MAX_AGE_MS: Final = 36_500 * 86_400_000
"""The longest age, about a century."""

FieldType = Literal["string", "number", "time"]
FIELDS: Final[dict[str, FieldType]] = {
    "id": "string",
    "externalId": "string",
    "email": "string",
    "name": "string",
    "image": "string",
    "visitorCount": "number",
    "firstSeenAt": "time",
    "lastSeenAt": "time",
    "createdAt": "time",
    "updatedAt": "time",
    "version": "number",
}
"""The contact's own fields that can be compared and sorted by."""

Operator = Literal["=", "!=", "<", "<=", ">", ">="]


class Field(msgspec.Struct, frozen=True):
    """A field of the contact, or a metadata key."""

    name: str
    in_metadata: bool

    @property
    def type(self) -> FieldType | None:
        """The type of a contact's field. A metadata key can hold any type: None."""
        return None if self.in_metadata else FIELDS[self.name]


class Moment(msgspec.Struct, frozen=True, tag=True):
    """A fixed time, in milliseconds since 1970."""

    ms: int


class Age(msgspec.Struct, frozen=True, tag=True):
    """A time relative to now, in milliseconds before it."""

    ms: int


Time = Moment | Age
Value = Primitive | Time


class Comparison(msgspec.Struct, frozen=True, tag=True):
    """`=` and `!=` compare type and value. The others compare numbers with numbers, and strings by code point."""

    field: Field
    operator: Operator
    value: Value


class OneOf(msgspec.Struct, frozen=True, tag=True):
    """The field equals one of the values."""

    field: Field
    values: tuple[Value, ...]


class Contains(msgspec.Struct, frozen=True, tag=True):
    """The field is a string with this part. Case and accents do not matter."""

    field: Field
    part: str


class Exists(msgspec.Struct, frozen=True, tag=True):
    """The metadata key is set, possibly to null. A field of the contact exists if it is not null."""

    field: Field


class Dated(msgspec.Struct, frozen=True, tag=True):
    """The metadata key holds a string with a date or an RFC 3339 time, and that is before or after `time`."""

    field: Field
    order: Literal["before", "after"]
    time: Time


class Not(msgspec.Struct, frozen=True, tag=True):
    """The filter does not hold."""

    filter: "Filter"


class And(msgspec.Struct, frozen=True, tag=True):
    """All of at least two filters hold."""

    filters: "tuple[Filter, ...]"


class Or(msgspec.Struct, frozen=True, tag=True):
    """At least one of at least two filters holds."""

    filters: "tuple[Filter, ...]"


Filter = Comparison | OneOf | Contains | Exists | Dated | Not | And | Or


# --- times --------------------------------------------------------------------------------------------------------------

DATE_PATTERN: Final = (
    r"(?!0000)\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
    r"|(?!0000)(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
)
TIME_PATTERN: Final = (
    rf"^(?:{DATE_PATTERN})(?:[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-](?:0\d|1[0-5]):[0-5]\d))?$"
)
"""Matches a date of the calendar, or a time of RFC 3339, and nothing else.

It means the same to Python (with `re.ASCII`) and to PostgreSQL, which raises an error when it converts any other string.
"""
_is_time: Final = re.compile(TIME_PATTERN.replace("$", r"\Z"), re.ASCII).match
_DATE_CHARS: Final = len("2026-11-01")
_FIRST_MS: Final = -62_135_596_800_000
"""0001-01-01T00:00:00.000Z."""
_to_milliseconds: Final = re.compile(r"(\.\d{3})\d+").sub

UNITS: Final = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
is_age: Final = re.compile(r"([0-9]+)(ms|[wdhms])").fullmatch


def text_time_ms(text: str) -> int | None:
    """The time in a date or an RFC 3339 time, in milliseconds since 1970, rounded down. None if `text` is neither."""
    if _is_time(text) is None:
        return None
    full = f"{text}T00:00:00Z" if len(text) == _DATE_CHARS else _to_milliseconds(r"\1", text.upper())
    return to_ms(datetime.fromisoformat(full))


def time_ms(time: Time, now_ms: int) -> int:
    """The time in milliseconds since 1970, with an age counted back from `now_ms`."""
    return time.ms if isinstance(time, Moment) else now_ms - time.ms


def parse_time(text: str) -> Time | None:
    """A date, a time or an age. None if `text` is none of them, too long ago, or in a year without four digits."""
    if (age := is_age(text)) is not None:
        digits = age[1].lstrip("0")
        ms = int(digits or 0) * UNITS[age[2]] if len(digits) <= len(str(MAX_AGE_MS)) else MAX_AGE_MS + 1
        return Age(ms) if ms <= MAX_AGE_MS else None
    moment_ms = text_time_ms(text)
    # An offset can take the first and the last day beyond the years that have four digits.
    return Moment(moment_ms) if moment_ms is not None and _FIRST_MS <= moment_ms <= LAST_MS else None
