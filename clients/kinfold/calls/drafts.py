"""Checked events that have no id and no `sentAt` yet: they get these when they are encoded and sent.

A draft is a flat tuple, not an object, and is not formatted or encoded before it is sent: making one takes less than a
microsecond. `draft_seen` and `draft_named` are the only ways to make one.
"""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, cast

import msgspec

from kinfold.calls.plain import ENVELOPE_BYTES, NOT_PLAIN, PLAIN_BYTES, emails, external_ids, size_of, size_of_text, visitor_ids
from kinfold_schemas.canonical import Primitive
from kinfold_schemas.codec import check_event
from kinfold_schemas.events import MAX_INTEGER, Event, MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.rejections import EventError, Rejection, found

EventType = Literal["VisitorSeen", "VisitorIdentified", "MetadataSet"]

Draft = tuple[EventType, float | datetime, int, *tuple[Any, ...]]
"""The type; `at` (seconds since 1970, or the caller's datetime); an upper bound of the size in bytes; then the values of
`FIELDS`, None for a field that is not set."""

_NAMED_FIELDS: Final = ("visitorId", "externalId", "email", "contactId", "name", "image", "metadata", "unset")
FIELDS: Final[Mapping[EventType, tuple[str, ...]]] = {
    "VisitorSeen": ("visitorId", "context"),
    "VisitorIdentified": _NAMED_FIELDS,
    "MetadataSet": _NAMED_FIELDS,
}
"""The names of the fields on the wire."""

_now: Final = time.time


def fields_of(draft: Draft) -> dict[str, Any]:
    """The fields that are set, by their names on the wire."""
    return {name: value for name, value in zip(FIELDS[draft[0]], draft[3:], strict=True) if value is not None}


def draft_seen(visitor_id: str, context: Any, at: datetime | None) -> Draft:
    """A draft of a VisitorSeen; it keeps `context`. Raises EventError."""
    if at is None:
        try:
            size = ENVELOPE_BYTES + visitor_ids[visitor_id] + size_of(context)
        except NOT_PLAIN:
            size = PLAIN_BYTES
        if size < PLAIN_BYTES:
            return "VisitorSeen", _now(), size, visitor_id, context or None
    return _checked("VisitorSeen", at, visitor_id, context or None)


def draft_named(  # noqa: C901, PLR0917  one branch and one argument for each field
    event_type: EventType,
    at: datetime | None,
    is_plain: bool,  # noqa: FBT001  positional: keywords cost a tenth of a call
    visitor_id: str | None,
    external_id: str | None,
    email: str | None,
    contact_id: str | None,
    name: str | None,
    image: str | None,
    metadata: Any,
    unset: Any,
) -> Draft:
    """A draft of a VisitorIdentified or a MetadataSet, with a copy of `metadata`. Raises EventError.

    `is_plain` says that the identifiers are a valid combination for the event type.
    """
    if metadata.__class__ is dict:
        metadata = {**metadata}  # the caller may change its own
    if is_plain and at is None and unset is None and contact_id is None:
        try:
            size = ENVELOPE_BYTES
            if visitor_id is not None:
                size += visitor_ids[visitor_id]
            if external_id is not None:
                size += external_ids[external_id]
            if email is not None:
                size += emails[email]
            if name is not None:
                size += size_of_text(name)
            if image is not None:
                size += size_of_text(image)
            if metadata is not None:
                size += size_of(metadata)
        except NOT_PLAIN:
            size = PLAIN_BYTES
        if size < PLAIN_BYTES:
            return event_type, _now(), size, visitor_id, external_id, email, None, name, image, metadata, None
    return _checked(event_type, at, visitor_id, external_id, email, contact_id, name, image, metadata, unset)


# --- every other event --------------------------------------------------------------------------------------------------


def _checked(event_type: EventType, at: datetime | None, *values: object) -> Draft:
    fields = FIELDS[event_type]
    given = {name: _field(name, value) for name, value in zip(fields, values, strict=True) if value is not None}
    if at is not None:
        _check_at(at)
    try:
        check_event(_event(event_type, at, given))
    except UnicodeEncodeError:
        raise _invalid("event", "text that Unicode can encode", "a lone UTF-16 surrogate") from None
    size = ENVELOPE_BYTES + len(msgspec.json.encode(given))
    return event_type, _now() if at is None else at, size, *(given.get(name) for name in fields)


def _event(event_type: EventType, at: datetime | None, given: dict[str, Any]) -> Event:
    arguments: dict[str, Any] = {_SNAKE.get(name, name): value for name, value in given.items()}
    # The event that is sent also has an id and a sentAt: they count towards its size.
    arguments |= {"id": "0" * 36, "at": at or _SOME_TIME, "sent_at": _SOME_TIME}
    match event_type:
        case "VisitorSeen":
            return VisitorSeen(**{"visitor_id": cast("Any", None), **arguments})
        case "VisitorIdentified":
            return VisitorIdentified(**arguments)
        case "MetadataSet":
            return MetadataSet(**arguments)


_OBJECTS: Final = frozenset(["metadata", "context"])
_SNAKE: Final = {"visitorId": "visitor_id", "externalId": "external_id", "contactId": "contact_id"}
_SOME_TIME: Final = datetime.fromisoformat("2026-01-01T00:00:00.123456+00:00")


def _invalid(field: str, expected: str, got: str) -> EventError:
    return EventError(Rejection("invalid", field, expected, got))


def _field(name: str, value: object) -> object:
    if name in _OBJECTS:
        return primitives(name, value)
    if name == "unset":
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise _invalid("unset", "an array of metadata keys", found(value))
        return [_text(f"unset[{index}]", key) for index, key in enumerate(cast("Iterable[object]", value))]
    return _text(name, value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _invalid(name, "a string", found(value))
    return _plain_text(value)


def _plain_text(value: str) -> str:
    """The text of a string, a subclass of `str` (whose `__str__` may return something else), or a lazy string."""
    value_type: type = type(value)
    return str.__str__(value) if issubclass(value_type, str) else str(value)


def primitives(field: str, values: object) -> dict[str, Primitive]:
    """A copy with values of JSON's own types: text for a SafeString, a number for an IntEnum. Raises EventError for others."""
    if not isinstance(values, Mapping):
        raise _invalid(field, "a mapping of strings to primitives", found(values))
    copy: dict[str, Primitive] = {}
    for name, value in cast("Mapping[object, object]", values).items():
        if not isinstance(name, str):
            raise _invalid(field, "keys that are strings", found(name))
        copy[_plain_text(name)] = _primitive(f"{field}.{name}", value)
    return copy


def _primitive(field: str, value: object) -> Primitive:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, int):
        number = int.__int__(value)
        if not -MAX_INTEGER <= number <= MAX_INTEGER:
            raise _invalid(field, "an integer within ±(2^53-1)", str(number))
        return number
    if isinstance(value, float):
        real = float.__float__(value)
        if real - real != 0:
            raise _invalid(field, "a finite number", str(real))
        return real
    raise _invalid(field, "a string, a finite number, a boolean or None", found(value))


def _check_at(at: object) -> None:
    if not isinstance(at, datetime) or at.utcoffset() is None:
        raise _invalid("at", "a datetime with an offset, such as datetime.now(UTC)", found(at))
