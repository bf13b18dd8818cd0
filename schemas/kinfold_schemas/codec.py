"""Bytes to events, with errors that name the field, what was found and what is allowed (contract sections 2 and 7).

The good path is one msgspec call and a few comparisons. Only an event that is refused is looked at again, slowly, to say why.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NoReturn, cast

import msgspec

from kinfold_schemas.canonical import Primitive, metadata_hash
from kinfold_schemas.events import (
    EVENT_TYPES,
    MAX_EVENT_BYTES,
    MAX_INTEGER,
    MAX_KEY_CHARS,
    MAX_METADATA_KEYS,
    MAX_VALUE_BYTES,
    Event,
    EventsExcluded,
    MetadataSet,
    VisitorSeen,
)
from kinfold_schemas.identifiers import CONTRACT_RULES, IdentifierRules
from kinfold_schemas.names import named_by
from kinfold_schemas.rejections import EventError, Rejection, found

MAX_DEPTH: Final = 256
"""How deep an event may nest. Its own fields need three levels; the rest is room for fields of newer producers."""

_BACKSLASH: Final = ord("\\")
"""As a number: `in` looks for bytes in bytes only after it has raised and swallowed a TypeError."""

encode_event: Final = msgspec.json.Encoder().encode
"""The JSON of an event, as it goes into the log's field `event`."""

_decode: Final[Callable[[bytes], Event]] = msgspec.json.Decoder(Event).decode


def decode_event(data: bytes) -> Event | Rejection:
    """The event in `data`, its numbers normalised (`1.0` is `1`), or why it is none.

    Identifiers are as they were written: whether one is good depends on the workspace (`IdentifierRules`).
    """
    if len(data) > MAX_DEPTH and (rejection := _check_size(data)):
        return rejection
    try:
        if not data.isascii():
            data.decode()  # msgspec does not look into fields that it skips
        event = _decode(data)
    except ValueError as error:  # what msgspec and the UTF-8 codec raise
        return _explain(data, error)
    if _BACKSLASH in data and b"\\u0000" in data and (rejection := _find_nul(data)):
        return rejection
    if values := _values(event):
        _normalise(values)
    refusal = None
    if type(event) is MetadataSet and event.hash is not None:
        refusal = _check_hash(event)
    if len(data) > MAX_VALUE_BYTES:
        refusal = refusal or _check_texts(event)
    return refusal or event


def check_event(event: Event, rules: IdentifierRules = CONTRACT_RULES) -> Event:
    """What the fold will say of `event`, said at once: for producers, so that the mistake shows where it is made.

    Returns the event, normalised. Raises EventError for what would be rejected whatever the state is.
    """
    checked = decode_event(encode_event(event))
    if isinstance(checked, Rejection):
        raise EventError(checked)
    if isinstance(names := named_by(checked, rules), Rejection):
        raise EventError(names)
    return checked


# --- what msgspec cannot check -------------------------------------------------------------------------------------


def _values(event: Event) -> dict[str, Primitive] | None:
    """The object of primitives that an event has, if it has one."""
    if type(event) is VisitorSeen:
        return event.context
    return event.metadata if type(event) is not EventsExcluded else None


def _normalise(values: dict[str, Primitive]) -> None:
    """Writes the numbers of an object in their one form, in place."""
    for name, value in values.items():
        if type(value) is float and value.is_integer() and -MAX_INTEGER <= value <= MAX_INTEGER:
            values[name] = int(value)  # replaces a value, adds no key: safe while iterating


def _check_hash(event: MetadataSet) -> Rejection | None:
    expected = metadata_hash(event.metadata or {})
    if event.hash == expected:
        return None
    allowed = f"the SHA-256 of the canonical metadata (RFC 8785), {expected}"
    return Rejection("hash-mismatch", f"hash: found {found(event.hash)}, allowed is {allowed}")


def _check_texts(event: Event) -> Rejection | None:
    # msgspec counts characters, and the contract bytes: only in a long event can that make a difference.
    return _check_values("context" if type(event) is VisitorSeen else "metadata", _values(event) or {})


def _check_size(data: bytes) -> Rejection | None:
    if len(data) > MAX_EVENT_BYTES:
        return Rejection("too-large", f"event: found {len(data)} bytes, allowed are {MAX_EVENT_BYTES}")
    return _check_depth(data)


def _check_depth(data: bytes) -> Rejection | None:
    # Counted before parsing, since how deep a parser may recurse depends on who called it, and a fold must not.
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return None
    depth = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', data, re.DOTALL):  # never back: one pass
        if token[0] in b"[{":
            depth += 1
        elif token[0] in b"]}":
            depth -= 1
        if depth > MAX_DEPTH:
            return Rejection("invalid", f"event: found more than {MAX_DEPTH} levels of nesting, allowed are {MAX_DEPTH}")
    return None


def _find_nul(data: bytes) -> Rejection | None:
    def walk(value: object, path: str) -> str | None:
        if isinstance(value, str):
            return path if "\0" in value else None
        if isinstance(value, Mapping):
            for name, item in cast("Mapping[str, object]", value).items():
                if "\0" in name:
                    return f"{path}.{name}".lstrip(".")
                if hit := walk(item, f"{path}.{name}".lstrip(".")):
                    return hit
        if isinstance(value, list):
            items = cast("list[object]", value)
            return next((hit for index, item in enumerate(items) if (hit := walk(item, f"{path}[{index}]"))), None)
        return None

    field = walk(_loads(data), "")
    return Rejection("invalid", f"{field!a}: found a NUL character, allowed is text without any") if field else None


# --- why msgspec refused -------------------------------------------------------------------------------------------

_MAX_INT_DIGITS: Final = 400  # a float holds no more than 309
_PATH: Final = re.compile(r"`\$\.(\w+)")  # msgspec ends with "- at `$.metadata[...]`" or "- at `key` in `$.metadata`"

_ALLOWED: Final[Mapping[str, str]] = {
    "type": "one of " + ", ".join(EVENT_TYPES),
    "id": "a string",
    "at": "an RFC 3339 time with an offset",
    "sentAt": "an RFC 3339 time with an offset",
    "visitorId": "a string of 1 to 255 characters",
    "externalId": "a string of 1 to 255 characters",
    "email": "a string of 3 to 320 characters with one @",
    "contactId": "a string, the id of a contact",
    "name": "a string",
    "image": "a string",
    "hash": "a string, 64 hex digits",
    "metadata": "an object of strings, finite numbers, booleans and nulls, not nested",
    "context": "an object of strings, finite numbers, booleans and nulls, not nested",
    "unset": "an array of metadata keys",
    "entries": "an array of log entry ids",
    "reason": "a string",
}


def _explain(data: bytes, error: ValueError) -> Rejection:
    if isinstance(error, UnicodeDecodeError):
        return Rejection("not-json", f"event: found bytes that are not UTF-8 ({error.reason}), allowed is JSON in UTF-8")
    try:
        value = _loads(data)
    except ValueError as reason:
        return Rejection("not-json", f"event: found text that is not JSON ({reason}), allowed is one JSON object")
    if not isinstance(value, dict):
        return Rejection("invalid", f"event: found {found(value)}, allowed is one JSON object")
    event = cast("dict[str, object]", value)
    kind = event.get("type")
    if isinstance(kind, str) and kind not in EVENT_TYPES:
        return Rejection("unknown-type", f"type: found {found(kind)}, allowed is {_ALLOWED['type']}")
    if isinstance(error, msgspec.ValidationError):
        return _explain_field(event, str(error))
    # JSON by its grammar, yet msgspec cannot read it: a lone surrogate is all that is left.
    return Rejection("invalid", "event: found a lone UTF-16 surrogate, allowed is text that Unicode can encode")


def _explain_field(event: dict[str, object], error: str) -> Rejection:
    if missing := re.search(r"missing required field `(\w+)`", error):
        field = missing[1]
        return Rejection("invalid", f"{field}: found nothing, allowed is {_ALLOWED.get(field, 'a value')}")
    path = _PATH.search(error)
    field = path[1] if path else "event"
    value = event.get(field)
    if isinstance(value, dict) and (rejection := _check_values(field, cast("dict[str, object]", value))):
        return rejection
    if isinstance(value, list) and (rejection := _check_keys(field, cast("list[object]", value))):
        return rejection
    return Rejection("invalid", f"{field}: found {found(event.get(field))}, allowed is {_ALLOWED.get(field, error)}")


def _check_values(field: str, values: Mapping[str, object]) -> Rejection | None:
    """What is wrong with an object of primitives."""
    if len(values) > MAX_METADATA_KEYS:
        return Rejection("invalid", f"{field}: found {len(values)} keys, allowed are {MAX_METADATA_KEYS}")
    for name, value in values.items():
        if rejection := _check_keys(field, (name,)):
            return rejection
        if _is_no_primitive(value):
            return Rejection("invalid", f"{field}.{name}: found {found(value)}, allowed is {_ALLOWED[field]}")
        if isinstance(value, str) and len(value.encode(errors="replace")) > MAX_VALUE_BYTES:
            return Rejection("invalid", f"{field}.{name}: found {len(value.encode())} bytes, allowed are {MAX_VALUE_BYTES}")
        if isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
            return Rejection("invalid", f"{field}.{name}: found {value}, allowed are integers within ±(2^53-1)")
    return None


def _is_no_primitive(value: object) -> bool:
    return isinstance(value, (dict, list)) or value in {float("inf"), float("-inf")}


def _check_keys(field: str, keys: Iterable[object]) -> Rejection | None:
    for key in keys:
        if isinstance(key, str) and not 0 < len(key) <= MAX_KEY_CHARS:
            return Rejection("invalid", f"{field}: found a key of {len(key)} characters, allowed are 1 to {MAX_KEY_CHARS}")
    return None


def _loads(data: bytes) -> object:
    """Plain JSON by RFC 8259, for looking at what msgspec refused. Raises ValueError."""
    # As text, for json guesses at UTF-16 where it is given bytes.
    return json.loads(data.decode(), parse_constant=_no_constant, parse_int=_parse_int)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _parse_int(digits: str) -> int | float:
    # Python refuses to read an int of more than 4,300 digits, and JSON allows any number: infinity is too large as well.
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else float(digits)
