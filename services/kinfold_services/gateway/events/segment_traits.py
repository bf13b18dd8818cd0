"""Translates the traits of Segment's `identify` to fields of kinfold's events. Reports traits that it has to ignore.

| trait | becomes |
|---|---|
| `email` | `email`, if it is an address |
| `name`, `avatar` | `name`, `image` |
| `firstName`, `lastName` | metadata; both together are also `name`, if `name` is missing |
| any other string, finite number or boolean | metadata |
| any other null | removed from the metadata |
"""

import math
import re
from typing import Any, Final, NamedTuple, cast

import msgspec

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.events import (
    MAX_IMAGE_BYTES,
    MAX_INTEGER,
    MAX_KEY_CHARS,
    MAX_METADATA_KEYS,
    MAX_NAME_BYTES,
    MAX_VALUE_BYTES,
)
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.rejections import Rejection, found, json_type
from kinfold_services.gateway.events.listing import Ignored, Listed

Object = dict[str, Any]

_HALF: Final = re.compile("[\ud800-\udfff]")
_FIELD_CHARS: Final = 60
_encode: Final = msgspec.json.Encoder().encode
_PROFILE: Final = {"name": "name", "avatar": "image"}
"""Traits that are fields of an event, with the names of the fields."""
_MOST_BYTES: Final = {"name": MAX_NAME_BYTES, "avatar": MAX_IMAGE_BYTES}
_PARTS: Final = ("firstName", "lastName")


class Notes:
    """Collects the ignored parts of one call in a list that all calls of a request share."""

    def __init__(self, index: int, ignored: Listed[Ignored]) -> None:
        self.index: Final = index
        self._ignored: Final = ignored
        self.bad_identifier: Rejection | None = None
        """The first unusable identifier of a person or a device."""

    def leave_out(self, field: str, reason: str, detail: str) -> None:
        """Note that a field of the call is ignored."""
        name = field[:_FIELD_CHARS].encode(errors="replace").decode()
        self._ignored.add(Ignored(self.index, name, reason, f"{name}: {detail}"))

    def leave_out_rejected(self, reason: str, rejection: Rejection) -> None:
        """Note that a field of the call is ignored, because it was rejected."""
        self.leave_out(rejection.field, reason, f"expected {rejection.expected}, got {rejection.got}")

    def object_of(self, holder: Object, field: str, reason: str) -> Object:
        """The object in a field, or an empty one. Notes a value of another type."""
        value = holder.get(field)
        if isinstance(value, dict):
            return cast("Object", value)
        if value is not None:
            self.leave_out(field, reason, f"expected an object, got {got(value)}")
        return {}


class Profile(NamedTuple):
    """Traits as fields of an event. `bad_email` says why the trait `email` is not an address."""

    email: str | None
    fields: Object
    metadata: dict[str, Primitive]
    unset: list[str]
    bad_email: Rejection | None


def read_traits(traits: Object, rules: IdentifierRules, notes: Notes) -> Profile:
    """Read the traits of a call."""
    traits = dict(traits)
    email = _email(traits.pop("email", None), rules, notes) if "email" in traits else None
    bad_email = email if isinstance(email, Rejection) else None
    address = email if isinstance(email, str) else None
    fields: Object = {}
    name = _full_name(traits)
    for trait, field in _PROFILE.items():
        if trait in traits and (text := _text(trait, traits.pop(trait), notes)) is not None:
            fields[field] = text
    if name is not None and len(_encode(name)) <= MAX_NAME_BYTES:
        fields.setdefault("name", name)
    return Profile(address, fields, *_patch(traits, notes), bad_email)


def _email(value: object, rules: IdentifierRules, notes: Notes) -> str | Rejection | None:
    if isinstance(value, str) and is_text(value):
        judged = rules.email(value)
        if isinstance(judged, str):
            return value
        notes.leave_out_rejected("trait", msgspec.structs.replace(judged, field="traits.email"))
        return judged
    rejection = Rejection("invalid", "traits.email", "an email address", got(value))
    notes.leave_out_rejected("trait", rejection)
    return None if value is None else rejection


def _text(trait: str, value: object, notes: Notes) -> str | None:
    if isinstance(value, str) and value.strip() and is_text(value):
        size, most = len(_encode(value)), _MOST_BYTES[trait]
        if size <= most:
            return value
        notes.leave_out(f"traits.{trait}", "trait", f"expected at most {most} bytes as JSON, got {size} bytes")
        return None
    notes.leave_out(f"traits.{trait}", "trait", f"expected a string, got {got(value)}")
    return None


def _full_name(traits: Object) -> str | None:
    """The name from both of its parts. Null means that a part is empty; a missing part gives no name."""
    if any(part not in traits for part in _PARTS):
        return None
    parts = [traits[part] for part in _PARTS]
    if not all(part is None or (isinstance(part, str) and is_text(part)) for part in parts):
        return None
    return " ".join(part.strip() for part in parts if part and part.strip()) or None


def _patch(traits: Object, notes: Notes) -> tuple[dict[str, Primitive], list[str]]:
    """The metadata to set, and the keys to remove."""
    metadata: dict[str, Primitive] = {}
    unset: list[str] = []
    for name, value in traits.items():
        why = why_not(name, value)
        if why is None and len(unset if value is None else metadata) == MAX_METADATA_KEYS:
            why = f"expected at most {MAX_METADATA_KEYS} traits in a call, got {len(traits)}"
        if why is not None:
            notes.leave_out(f"traits.{name}", "trait", why)
        elif value is None:
            unset.append(name)
        else:
            metadata[name] = value
    return metadata, unset


def why_not(name: str, value: object) -> str | None:
    """Why a value cannot be metadata or context, or None if it can (contract section 2, Limits)."""
    if not 0 < len(name) <= MAX_KEY_CHARS:
        return f"expected a name of 1 to {MAX_KEY_CHARS} characters, got {len(name)}"
    if not is_text(name):
        return "expected a name of whole characters without NUL, got another name"
    match value:
        case None | bool():
            return None
        case int():
            fits = abs(value) <= MAX_INTEGER
        case float():
            fits = math.isfinite(value)
        case str():
            if len(value) * 4 > MAX_VALUE_BYTES and (size := len(value.encode(errors="replace"))) > MAX_VALUE_BYTES:
                return f"expected at most {MAX_VALUE_BYTES} bytes, got {size}"
            fits = is_text(value)
        case _:
            fits = False
    expected = "a string of whole characters without NUL, a finite number within ±(2^53-1), a boolean or null"
    return None if fits else f"expected {expected}, got {got(value)}"


def is_text(value: str) -> bool:
    """Whether a string has neither a NUL nor half of a surrogate pair, which SDKs leave when they cut an emoji."""
    return "\0" not in value and not _HALF.search(value)


def got(value: object) -> str:
    """A value for an error message. Objects and arrays are shown by type only: they can be as long and deep as a request."""
    return json_type(cast("object", value)) if isinstance(value, (dict, list)) else found(value)
