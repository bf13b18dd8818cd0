"""Decode and check events; a rejection names the field, what was expected and what it got (contract sections 2 and 7).

A good event costs one msgspec call and a few comparisons. Only a rejected event is read again, slowly, to find out why.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NoReturn, cast

import msgspec

from kinfold_schemas.canonical import Primitive, metadata_hash
from kinfold_schemas.events import (
    EVENT_TYPES,
    MAX_EVENT_BYTES,
    MAX_IMAGE_BYTES,
    MAX_INTEGER,
    MAX_KEY_CHARS,
    MAX_METADATA_KEYS,
    MAX_NAME_BYTES,
    MAX_VALUE_BYTES,
    Erased,
    Event,
    EventsExcluded,
    IdentityCorrected,
    MetadataSet,
    SubjectErased,
    VisitorIdentified,
    VisitorSeen,
)
from kinfold_schemas.identifiers import CONTRACT_RULES, IdentifierRules
from kinfold_schemas.names import Names, named_by
from kinfold_schemas.rejections import EventError, Rejection, found

MAX_DEPTH: Final = 256
"""Maximum nesting depth of an event. Known fields need three levels; the rest leaves room for fields of newer producers."""

_MAX_PATH_CHARS: Final = 200
"""A path in a message is cut after this many characters. A key may be nearly as long as the event."""

_BACKSLASH: Final = ord("\\")
"""An integer, because `in` with an integer is faster: with bytes, CPython first raises and swallows a TypeError."""

encode_event: Final = msgspec.json.Encoder().encode
"""Encode an event as JSON, for the field `event` of a log entry."""

_decode: Final[Callable[[bytes], Event]] = msgspec.json.Decoder(Event).decode


def decode_event(data: bytes) -> Event | Rejection:
    """Decode `data` and normalise numbers (`1.0` becomes `1`). Returns the event, or why it is rejected.

    Identifiers stay as written, because their rules depend on the workspace (`IdentifierRules`).
    """
    if len(data) > MAX_DEPTH and (rejection := _check_size(data)):
        return rejection
    try:
        if not data.isascii():
            data.decode()  # msgspec does not check the UTF-8 of fields that it skips
        event = _decode(data)
    except ValueError as error:  # raised by msgspec and by the UTF-8 codec
        return _explain(data, error)
    if _BACKSLASH in data and b"\\u0000" in data and (rejection := _find_nul(data)):
        return rejection
    values = event.context if type(event) is VisitorSeen else None if type(event) is EventsExcluded else event.metadata
    if values and float in map(type, values.values()):
        _normalise(values)
    if type(event) is MetadataSet and event.hash is not None and (refusal := _check_hash(event)):
        return refusal
    return event if len(data) <= MAX_NAME_BYTES else _check_texts(event, len(data)) or event


def decode_events(datas: Sequence[bytes]) -> list[Event | Rejection]:
    """Decode events as `decode_event` does. The checks that msgspec lacks run on all of them at once."""
    together, longest = b"".join(datas), max(map(len, datas), default=0)
    if (
        longest > MAX_VALUE_BYTES
        or (longest > MAX_DEPTH and any(map(_check_depth, [data for data in datas if len(data) > MAX_DEPTH])))
        or (_BACKSLASH in together and b"\\u0000" in together)
    ):
        return list(map(decode_event, datas))
    try:
        if not together.isascii():
            together.decode()
        events = list(map(_decode, datas))
    except ValueError:  # at least one of them is invalid
        return list(map(decode_event, datas))
    checked: list[Event | Rejection] = [*events]
    for index, event in enumerate(events):
        values = event.context if type(event) is VisitorSeen else None if type(event) is EventsExcluded else event.metadata
        if values:
            for value in values.values():
                if type(value) is float:
                    _normalise(values)
                    break
        if type(event) is MetadataSet and event.hash is not None and (refusal := _check_hash(event)):
            checked[index] = refusal
    if longest > MAX_NAME_BYTES:
        _check_profiles(datas, checked)
    return checked


def check_event(event: Event, rules: IdentifierRules = CONTRACT_RULES) -> Event:
    """Check `event` as the fold will, so that a producer sees a mistake where it is made.

    Returns the normalised event. Raises EventError if the fold would reject it in any state.
    """
    checked = decode_event(encode_event(event))
    if isinstance(checked, Rejection):
        raise EventError(checked)
    if isinstance(names := named_by_producer(checked, rules), Rejection):
        raise EventError(names)
    return checked


def why_rejected(data: bytes, rules: IdentifierRules = CONTRACT_RULES) -> Rejection | None:
    """Why the fold rejects the encoded event in any state, or None if some state takes it (contract section 7)."""
    event = decode_event(data)
    verdict = event if isinstance(event, Rejection) else named_by_producer(event, rules)
    return verdict if isinstance(verdict, Rejection) else None


def named_by_producer(event: Event, rules: IdentifierRules) -> Names | Rejection:
    """The identifiers in an event that a producer appends, or why it may not."""
    if type(event) is Erased or type(event) is SubjectErased:
        return Rejection("unknown-type", "type", _EXPECTED["type"], found(type(event).__name__))
    return named_by(event, rules)


# --- checks that msgspec cannot do -----------------------------------------------------------------------------------


def _values(event: Event) -> dict[str, Primitive] | None:
    """The metadata or context of an event, if it has one."""
    if type(event) is VisitorSeen:
        return event.context
    return event.metadata if type(event) is not EventsExcluded else None


def _normalise(values: dict[str, Primitive]) -> None:
    """Normalise the numbers of an object in place."""
    for name, value in values.items():
        if type(value) is float and value.is_integer() and -MAX_INTEGER <= value <= MAX_INTEGER:
            values[name] = int(value)  # safe while iterating: no key is added


def _check_hash(event: MetadataSet) -> Rejection | None:
    expected = metadata_hash(event.metadata or {})
    if event.hash == expected:
        return None
    right = f"the SHA-256 of the canonical metadata (RFC 8785), {expected}"
    return Rejection("hash-mismatch", "hash", right, found(event.hash))


def _check_texts(event: Event, size: int) -> Rejection | None:
    # msgspec counts characters and the contract counts bytes. Only in a long event can that make a difference.
    if refusal := _check_profile(event):
        return refusal
    if size <= MAX_VALUE_BYTES:
        return None
    return _check_values("context" if type(event) is VisitorSeen else "metadata", _values(event) or {})


def _check_profiles(datas: Sequence[bytes], checked: list[Event | Rejection]) -> None:
    for index, (data, event) in enumerate(zip(datas, checked, strict=True)):
        if len(data) > MAX_NAME_BYTES and type(event) is not Rejection and (refusal := _check_profile(event)):
            checked[index] = refusal


def _check_profile(event: Event) -> Rejection | None:
    # No string is longer when it is encoded again, so that a short event needs no check.
    if type(event) is VisitorIdentified or type(event) is MetadataSet or type(event) is IdentityCorrected:
        for field, text, most in (("name", event.name, MAX_NAME_BYTES), ("image", event.image, MAX_IMAGE_BYTES)):
            if isinstance(text, str) and (size := len(encode_event(text))) > most:
                return Rejection("invalid", field, f"at most {most} bytes as JSON", f"{size} bytes")
    return None


def _check_size(data: bytes) -> Rejection | None:
    if len(data) > MAX_EVENT_BYTES:
        return Rejection("too-large", "event", f"at most {MAX_EVENT_BYTES} bytes", f"{len(data)} bytes")
    return _check_depth(data)


def _check_depth(data: bytes) -> Rejection | None:
    # Counted before parsing: a parser's recursion limit depends on the caller's stack, and the fold's result must not.
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return None
    depth = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', data, re.DOTALL):  # without backtracking: linear
        if token[0] in b"[{":
            depth += 1
        elif token[0] in b"]}":
            depth -= 1
        if depth > MAX_DEPTH:
            return Rejection("invalid", "event", f"at most {MAX_DEPTH} levels of nesting", "more")
    return None


def _find_nul(data: bytes) -> Rejection | None:
    path = _path_of_nul(_loads(data))
    if path is None:
        return None
    field = ascii("".join(reversed(path)).lstrip("."))[1:-1] or "event"
    if len(field) > _MAX_PATH_CHARS:
        field = f"{field[: _MAX_PATH_CHARS - 3]}..."
    return Rejection("invalid", field, "text without NUL characters", "one")


def _path_of_nul(value: object) -> list[str] | None:
    """The steps to the first NUL, the innermost first. Built on the way back: a path for each value would be quadratic."""
    if isinstance(value, str):
        return [] if "\0" in value else None
    if isinstance(value, Mapping):
        for name, item in cast("Mapping[str, object]", value).items():
            path = [] if "\0" in name else _path_of_nul(item)
            if path is not None:
                return [*path, f".{name}"]
    if isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            if (path := _path_of_nul(item)) is not None:
                return [*path, f"[{index}]"]
    return None


# --- why msgspec rejected an event -----------------------------------------------------------------------------------

_MAX_INT_DIGITS: Final = 400  # the largest float has 309
_MISSING: Final = re.compile(r"missing required field `(\w+)`")
_PATH: Final = re.compile(r"`\$\.(\w+)")  # msgspec ends with "- at `$.metadata[...]`" or "- at `key` in `$.metadata`"

_EXPECTED: Final[Mapping[str, str]] = {
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
    "metadata": "an object of strings, finite numbers, booleans and nulls",
    "context": "an object of strings, finite numbers, booleans and nulls",
    "unset": "an array of metadata keys",
    "entries": "an array of log entry ids",
    "reason": "a string",
    "by": "a string of 1 to 255 characters",
    "mergeContactId": "a string, the id of a contact",
    "unlinkVisitorId": "a string of 1 to 255 characters",
    "dismissConflict": "a string of 3 to 320 characters with one @",
    "take": "a boolean",
}
_PRIMITIVE: Final = "a string, a finite number, a boolean or null"


def _explain(data: bytes, error: ValueError) -> Rejection:
    if isinstance(error, UnicodeDecodeError):
        return Rejection("not-json", "event", "JSON in UTF-8", f"bytes that are not UTF-8 ({error.reason})")
    try:
        value = _loads(data)
    except ValueError as reason:
        return Rejection("not-json", "event", "one JSON object", f"text that is not JSON ({reason})")
    if not isinstance(value, dict):
        return Rejection("invalid", "event", "one JSON object", found(value))
    event = cast("dict[str, object]", value)
    kind = event.get("type")
    if isinstance(kind, str) and kind not in EVENT_TYPES:
        return Rejection("unknown-type", "type", _EXPECTED["type"], found(kind))
    if isinstance(error, msgspec.ValidationError):
        return _explain_field(event, str(error))
    # Valid JSON that msgspec cannot read: the only remaining cause is a lone surrogate.
    return Rejection("invalid", "event", "text that Unicode can encode", "a lone UTF-16 surrogate")


def _explain_field(event: dict[str, object], error: str) -> Rejection:
    # msgspec's exception has no attributes, so its message is parsed, here alone.
    if missing := _MISSING.search(error):
        field = missing[1]
        return Rejection("invalid", field, _EXPECTED.get(field, "a value"), "nothing")
    path = _PATH.search(error)
    field = path[1] if path else "event"
    value = event.get(field)
    if isinstance(value, dict) and (rejection := _check_values(field, cast("dict[str, object]", value))):
        return rejection
    if isinstance(value, list) and (rejection := _check_keys(field, cast("list[object]", value))):
        return rejection
    return Rejection("invalid", field, _EXPECTED.get(field, error), found(event.get(field)))


def _check_values(field: str, values: Mapping[str, object]) -> Rejection | None:
    """Check an object of primitives: metadata or context."""
    if len(values) > MAX_METADATA_KEYS:
        return Rejection("invalid", field, f"at most {MAX_METADATA_KEYS} keys", f"{len(values)} keys")
    for name, value in values.items():
        if rejection := _check_keys(field, (name,)):
            return rejection
        if _is_no_primitive(value):
            return Rejection("invalid", f"{field}.{name}", _PRIMITIVE, found(value))
        if isinstance(value, str) and len(value.encode(errors="replace")) > MAX_VALUE_BYTES:
            size = f"{len(value.encode(errors='replace'))} bytes"
            return Rejection("invalid", f"{field}.{name}", f"at most {MAX_VALUE_BYTES} bytes", size)
        if isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
            return Rejection("invalid", f"{field}.{name}", "an integer within ±(2^53-1)", str(value))
    return None


def _is_no_primitive(value: object) -> bool:
    return isinstance(value, (dict, list)) or value in {float("inf"), float("-inf")}


def _check_keys(field: str, keys: Iterable[object]) -> Rejection | None:
    for key in keys:
        if isinstance(key, str) and not 0 < len(key) <= MAX_KEY_CHARS:
            return Rejection("invalid", field, f"keys of 1 to {MAX_KEY_CHARS} characters", f"one of {len(key)} characters")
    return None


def _loads(data: bytes) -> object:
    """Parse JSON (RFC 8259) that msgspec rejected. Raises ValueError."""
    # Decoded first, because json guesses the encoding of bytes.
    return json.loads(data.decode(), parse_constant=_no_constant, parse_int=_parse_int)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _parse_int(digits: str) -> int | float:
    # Python does not parse integers of more than 4,300 digits. As a float such a number is infinite: too large as well.
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else float(digits)
