"""What a caller said, checked at the call: an event without its id and its `sentAt`, which it gets when it is sent.

Nearly every event is plainly good, and a few comparisons tell. Only what is not plainly good is put through `check_event`,
which decides; so the two cannot disagree on what is refused. A draft is a flat tuple and not a class, and nothing of it is
formatted or encoded before it is sent, because making one must cost less than a microsecond.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, cast

import msgspec

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.codec import check_event
from kinfold_schemas.events import (
    MAX_INTEGER,
    MAX_KEY_CHARS,
    MAX_METADATA_KEYS,
    MAX_VALUE_BYTES,
    Event,
    MetadataSet,
    VisitorIdentified,
    VisitorSeen,
)
from kinfold_schemas.identifiers import CONTRACT_RULES
from kinfold_schemas.rejections import EventError, Rejection, found

EventType = Literal["VisitorSeen", "VisitorIdentified", "MetadataSet"]

Draft = tuple[EventType, float | datetime, int, *tuple[Any, ...]]
"""Type; when it happened (seconds since 1970, or what the caller gave); about how many bytes; then the values of `FIELDS`,
None for what was not said."""

FIELDS: Final[Mapping[EventType, tuple[str, ...]]] = {
    "VisitorSeen": ("visitorId", "context"),
    "VisitorIdentified": ("visitorId", "externalId", "email", "name", "image", "metadata", "unset"),
    "MetadataSet": ("visitorId", "externalId", "email", "contactId", "metadata", "unset"),
}
"""By their names on the wire."""

ENVELOPE_BYTES: Final = 256
"""More than type, id, at, sentAt, the fields' names and the punctuation take."""
PLAIN_BYTES: Final = MAX_VALUE_BYTES
"""Up to here an event is plainly good if its parts are: not even a single value can be too long, and keys not too many."""
_CHAR_BYTES: Final = 4
"""UTF-8 has four at most. Control characters take six in JSON and are rare; the limits leave room for a text of them."""
_KEY_BYTES: Final = 32
"""What a key takes besides itself: punctuation, and a number of 24 characters."""
_CACHED: Final = 1 << 13
_LEAST_INTEGER: Final = -MAX_INTEGER

assert MAX_METADATA_KEYS * _KEY_BYTES >= PLAIN_BYTES  # noqa: S101  see PLAIN_BYTES


class LookCloser(Exception):
    """Not plainly good: `checked` decides."""


NOT_PLAIN: Final = (LookCloser, TypeError)
"""The second: an identifier that cannot even be looked up."""


def fields_of(draft: Draft) -> dict[str, Any]:
    """What was said, by its names on the wire."""
    return {name: value for name, value in zip(FIELDS[draft[0]], draft[3:], strict=True) if value is not None}


# --- what is plainly good: about how many bytes it takes ----------------------------------------------------------------


def size_of(values: Any) -> int:
    """Of metadata or context. Raises LookCloser."""
    if values.__class__ is not dict:
        raise LookCloser
    size = chars = 0
    for name in values:
        size += _keys[name]
        value: Any = values[name]
        # Not its class, which a lazy object says is another's.
        kind: object = type(value)  # pyright: ignore[reportUnknownVariableType]
        if kind is str:
            # What is ASCII has no lone surrogates, and what is printable has none, either.
            if "\0" in value or not (value.isascii() or value.isprintable()):
                raise LookCloser
            chars += len(value)
        elif kind is int:
            if not _LEAST_INTEGER <= value <= MAX_INTEGER:
                raise LookCloser
        elif kind is float:
            if value - value != 0:  # not finite
                raise LookCloser
        elif kind is not bool and value is not None:
            raise LookCloser
    return size + chars * _CHAR_BYTES


def size_of_text(text: str) -> int:
    """Of a name or an image. Raises LookCloser."""
    if type(text) is not str or not text.isprintable():
        raise LookCloser
    return len(text) * _CHAR_BYTES


class _Sizes(dict[object, int]):
    """Of identifiers or keys that are good; the same come again and again, and a look into a dict is all that they cost.

    What is equal to a string but none (a lazy or safe string) finds the string's size, and is made one when it is encoded.
    """

    def __init__(self, judge: Callable[[object], int]) -> None:
        super().__init__()
        self._judge: Final = judge

    def __missing__(self, value: object) -> int:
        size = self._judge(value)
        if len(self) >= _CACHED:  # all at once: that is less work for each than to know which one is the oldest
            self.clear()
        self[value] = size
        return size


def _identifiers(rule: Callable[[str], str | Rejection]) -> _Sizes:
    def judge(value: object) -> int:
        if not isinstance(value, str) or not (value.isascii() or value.isprintable()) or rule(value).__class__ is not str:
            raise LookCloser
        return len(value) * _CHAR_BYTES

    return _Sizes(judge)


def _size_of_key(name: object) -> int:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_KEY_CHARS or not name.isprintable():
        raise LookCloser
    return len(name) * _CHAR_BYTES + _KEY_BYTES


visitor_ids: Final = _identifiers(CONTRACT_RULES.visitor_id)
external_ids: Final = _identifiers(CONTRACT_RULES.external_id)
emails: Final = _identifiers(CONTRACT_RULES.email)
_keys: Final = _Sizes(_size_of_key)


# --- what is not --------------------------------------------------------------------------------------------------------


def checked(kind: EventType, at: datetime | None, *given: object) -> Draft:
    """A draft of what is not plainly good: the values of `FIELDS`. Raises EventError."""
    named = {name: _field(name, value) for name, value in zip(FIELDS[kind], given, strict=True) if value is not None}
    if at is not None:
        _check_at(at)
    try:
        check_event(_event(kind, at, named))
    except UnicodeEncodeError:
        raise _invalid("event", "text that Unicode can encode", "a lone UTF-16 surrogate") from None
    size = ENVELOPE_BYTES + len(msgspec.json.encode(named))
    return kind, time.time() if at is None else at, size, *(named.get(name) for name in FIELDS[kind])


def _event(kind: EventType, at: datetime | None, named: dict[str, Any]) -> Event:
    arguments: dict[str, Any] = {_SNAKE.get(name, name): value for name, value in named.items()}
    # What goes out has an id and a sentAt, too; with them the event must not be too large.
    arguments |= {"id": "0" * 36, "at": at or _SOME_TIME, "sent_at": _SOME_TIME}
    match kind:
        case "VisitorSeen":
            return VisitorSeen(**{"visitor_id": cast("Any", None), **arguments})
        case "VisitorIdentified":
            return VisitorIdentified(**arguments)
        case "MetadataSet":
            return MetadataSet(**arguments)


_OBJECTS: Final = frozenset(["metadata", "context"])
_SNAKE: Final = {"visitorId": "visitor_id", "externalId": "external_id", "contactId": "contact_id"}
_SOME_TIME: Final = datetime.fromisoformat("2026-01-01T00:00:00.123456+00:00")


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
    """Of a subclass what it holds, for its `__str__` may say something else; a lazy object is none, and says what it holds."""
    kind: type = type(value)
    return str.__str__(value) if issubclass(kind, str) else str(value)


def primitives(field: str, values: object) -> dict[str, Primitive]:
    """A copy, of JSON's own types alone: a `SafeString` is text, an `IntEnum` a number, a Decimal nothing that JSON knows."""
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


def _check_at(at: datetime) -> None:
    if not isinstance(at, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]  the caller may not be typed
        raise _invalid("at", "a datetime with an offset", found(at))
    if at.utcoffset() is None:
        raise _invalid("at", "a datetime with an offset, such as datetime.now(UTC)", f"{at.isoformat()} without one")


def _invalid(field: str, expected: str, got: str) -> EventError:
    return EventError(Rejection("invalid", field, expected, got))
