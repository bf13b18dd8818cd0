"""The forms of corrections: what they show of a contact, and the event that they make."""

import json
import uuid
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.codec import decode_event, encode_event
from kinfold_schemas.contacts import Contact
from kinfold_schemas.events import IdentityCorrected
from kinfold_schemas.rejections import Rejection
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.screen.listing import suggestion

MAX_KEYS: Final = 100
"""How many metadata keys a form has."""
MAX_VALUE_CHARS: Final = 500
NEW_KEYS: Final = 3
"""How many empty lines for new keys a form has."""
MAX_FIELDS: Final = 2 * MAX_KEYS + 40
MAX_REASON_CHARS: Final = 500

_TEXTS: Final = (("name", "name"), ("email", "email"), ("external_id", "external_id"), ("image", "image"))
"""The fields of a form and of the event."""


class Pair(NamedTuple):
    """A metadata key of a form, with the value as somebody edits it."""

    key: str
    value: str
    is_removed: bool = False


class Form(NamedTuple):
    """What the fields of a form hold."""

    name: str
    email: str
    external_id: str
    pairs: list[Pair]
    new: list[tuple[str, str]]
    """New metadata keys and their values, some of them empty."""
    reason: str
    left_out: int
    """How many metadata keys of the contact the form leaves out."""


def filled(contact: Contact, typed: Mapping[str, str]) -> Form:
    """The form of a contact, with what somebody has typed into it already."""
    pairs, left_out = editable(contact)
    return Form(
        typed.get("name", contact.name or ""),
        typed.get("email", contact.email or ""),
        typed.get("external_id", contact.external_id or ""),
        [Pair(each.key, typed.get(f"value {each.key}", each.value), f"remove {each.key}" in typed) for each in pairs],
        [(typed.get(f"new key {number}", ""), typed.get(f"new value {number}", "")) for number in range(NEW_KEYS)],
        typed.get("reason", ""),
        left_out,
    )


def typed_of(event: IdentityCorrected, contact: Contact) -> dict[str, str]:
    """What somebody has typed into the form of a contact to make an event."""
    typed = {field: value or "" for field, name in _TEXTS if (value := getattr(event, name)) is not msgspec.UNSET}
    shown = {each.key for each in editable(contact)[0]}
    patch = event.metadata or {}
    typed |= {f"value {name}": suggestion(value) for name, value in patch.items() if name in shown}
    for number, name in enumerate(name for name in patch if name not in shown):
        typed |= {f"new key {number}": name, f"new value {number}": suggestion(patch[name])}
    typed |= {f"remove {name}": "1" for name in event.unset or ()}
    return {**typed, "reason": event.reason or ""}


def editable(contact: Contact) -> tuple[list[Pair], int]:
    """The metadata that a form shows, and how many keys it leaves out: those with long values, and of many keys the last."""
    pairs = [Pair(name, suggestion(value)) for name, value in sorted(contact.metadata.items())]
    shown = [each for each in pairs if _fits(each.value)][:MAX_KEYS]
    return shown, len(pairs) - len(shown)


def event_of(fields: Mapping[str, str], contact: Contact, by: str) -> IdentityCorrected:
    """The correction that somebody asked for. Raises Problem (400) if it asks for nothing, or for something unknown."""
    correction: dict[str, Any]
    match fields.get("action"):
        case "set":
            correction = _changes(fields, contact)
        case "merge":
            correction = {"merge_contact_id": fields.get("other", "")}
        case "unlink":
            correction = {"unlink_visitor_id": fields.get("visitor", "")}
        case "move":
            correction = {"email": fields.get("email", ""), "take": True}
        case "dismiss":
            correction = {"dismiss_conflict": fields.get("email", "")}
        case other:
            raise Problem(400, f"action: expected set, merge, unlink, move or dismiss, got {other!r}")
    if not correction:
        raise Problem(400, "Nothing was changed in the form, so there is nothing to correct.")
    if fields.get("take"):
        correction["take"] = True
    reason = fields.get("reason", "").strip()[:MAX_REASON_CHARS] or None
    event = IdentityCorrected(id=uuid.uuid4().hex, by=by, contact_id=contact.id, reason=reason, **correction)
    return checked(encode_event(event), by)


def checked(data: bytes, by: str) -> IdentityCorrected:
    """The correction in an event that a form carries, made by the person of this session. Raises Problem (400)."""
    event = decode_event(data)
    if isinstance(event, Rejection):
        raise Problem(400, event.detail)
    if not isinstance(event, IdentityCorrected):
        raise Problem(400, "event: expected an IdentityCorrected, got another event")
    return msgspec.structs.replace(event, by=by, source=None, at=None, sent_at=None)


def _changes(fields: Mapping[str, str], contact: Contact) -> dict[str, Any]:
    """What differs from the contact, as fields of the event."""
    changes: dict[str, Any] = {}
    for field, name in _TEXTS:
        text = fields.get(field, "").strip()
        if field in fields and text != (getattr(contact, name) or ""):
            changes[name] = text or None
    shown, _ = editable(contact)
    removed = [each.key for each in shown if fields.get(f"remove {each.key}")]
    patch = {
        each.key: value_of(given)
        for each in shown
        if (given := fields.get(f"value {each.key}")) is not None and given.strip() != each.value and each.key not in removed
    }
    for number in range(NEW_KEYS):
        if new_key := fields.get(f"new key {number}", "").strip():
            patch[new_key] = value_of(fields.get(f"new value {number}", ""))
    if patch:
        changes["metadata"] = patch
    if removed:
        changes["unset"] = removed
    return changes


def value_of(text: str) -> Primitive:
    """A value that somebody typed: a number, `true`, `false` or `null`, a string in quotes, or else the text."""
    text = text.strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if value is None or isinstance(value, str | int | float) else text


def _fits(value: str) -> bool:
    """Whether a line of a form can hold a value without changing it."""
    return len(value) <= MAX_VALUE_CHARS and value.isprintable() and value == value.strip()
