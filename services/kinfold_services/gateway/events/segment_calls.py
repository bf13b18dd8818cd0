"""Translates Segment's calls to kinfold's events.

| Segment | kinfold |
|---|---|
| `identify` with a `userId`, or an `email` among the traits | VisitorIdentified |
| `identify` with an `anonymousId` alone | MetadataSet for the visitor |
| `track`, `page`, `screen` with an `anonymousId` | VisitorSeen, with the page as its context |
| the same with a `userId` too | VisitorIdentified for both ids, then VisitorSeen |
| the same with a `userId` alone | VisitorIdentified |
| `alias`, `group` | nothing; the response says so |

`userId` → `externalId`, `anonymousId` → `visitorId`, a number as its shortest text; `messageId` → `id`; `timestamp`, or else
`originalTimestamp` (RudderStack) → `at`; `sentAt` → `sentAt` (`segment_times`). Traits (`segment_traits`) are in `traits`,
or (RudderStack) in `context.traits`.

An identity token is in `context.token`. SDKs send a call's context as it was given and keep none of it. They keep traits in the
browser's storage and send them again, long after a token has expired.

A call whose time cannot be read has an unknown time (contract section 3): it fills in missing values, but overwrites none and
changes no times. A time before 2000 comes from a clock that was never set, and counts as absent.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.events import MAX_EVENT_BYTES, MAX_INTEGER
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.rejections import Rejection
from kinfold_services.gateway.events.segment_times import read_time
from kinfold_services.gateway.events.segment_traits import Notes, Object, got, read_traits, why_not

Call = Object

TYPES: Final = ("identify", "track", "page", "screen", "alias", "group")
_USELESS: Final[Mapping[str, str]] = {
    "alias": (
        "expected a call about one person, got alias: previousId and userId were not merged and nothing was appended; "
        "to merge two ids, send an identify with userId and anonymousId, or with traits.email"
    ),
    "group": (
        "expected a call about one person, got group: kinfold has no groups and nothing was appended; "
        "to store a person's group, send an identify with the group's id as a trait"
    ),
}
_PAGE_FIELDS: Final = ("url", "referrer", "title", "path", "search")
_CONTEXT_FIELDS: Final = ("userAgent", "ip", "locale", "timezone")
_TOKEN: Final = "token"  # noqa: S105  the name of a field
_CONTEXT: Final = (*_CONTEXT_FIELDS, _TOKEN, "page", "traits")

OLDEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""The time of an event whose time is unknown. An earlier time counts as absent (contract section 3)."""

MAX_WRITTEN_BYTES: Final = MAX_EVENT_BYTES - 128
"""Leaves room for the fields that an event gets before it is appended."""

_encode: Final = msgspec.json.Encoder().encode


def shared_context(context: Object) -> Object:
    """What calls take from the context of their batch. Traits belong to one call."""
    shared = _known(context)
    shared.pop("traits", None)
    if isinstance(page := shared.get("page"), dict):
        shared["page"] = {name: page[name] for name in _PAGE_FIELDS if name in page}
    return shared


def translate(call: Call, batch: Call, rules: IdentifierRules, notes: Notes) -> list[dict[str, Any]] | Rejection:
    """Translate one call to events, with a VisitorIdentified first.

    `batch` holds the `context` (see `shared_context`) and the `sentAt` that all calls of a batch share.
    """
    kind = call.get("type")
    if kind not in TYPES:
        return Rejection("unknown-type", "type", f"one of {', '.join(TYPES)}", got(kind))
    if kind in _USELESS:
        notes.leave_out("type", kind, _USELESS[kind])
        return []
    context = {**batch["context"], **_known(notes.object_of(call, "context", "context"))}
    visitor_id, external_id = _identifier(call, "anonymousId", notes), _identifier(call, "userId", notes)
    common = _common(call, batch.get("sentAt"), notes)
    if kind == "identify":
        events = _identify(call, context, (visitor_id, external_id), rules, notes)
    else:
        events = _seen(call, context, (visitor_id, external_id), notes)
    if isinstance(events, Rejection):
        return events
    if len(events) > 1 and "id" in common:
        events[0]["id"] = f"{common['id']}:user"  # two events need two ids
    return [{**common, **event} for event in events]


def _known(context: Object) -> Object:
    """The fields of a context that are read: it may have any number of others, and a batch shares it with all its calls."""
    return {name: context[name] for name in _CONTEXT if name in context}


def fit(event: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """Remove the longest values of an event until it is small enough."""
    excess = len(written(event)) - MAX_WRITTEN_BYTES
    places: list[tuple[int, dict[str, Any], str, str]] = [
        (len(written(event[field])), event, field, f"traits.{trait}")
        for field, trait in (("name", "name"), ("image", "avatar"))
        if field in event
    ]
    for holder, shown in (("metadata", "traits"), ("context", "context")):
        values: dict[str, Any] = event.get(holder, {})
        places += [(len(written(value)), values, name, f"{shown}.{name}") for name, value in values.items()]
    for size, values, name, field in sorted(places, key=lambda place: place[0], reverse=True):
        if excess <= 0:
            break
        del values[name]
        excess -= size
        reason = "context" if field.startswith("context") else "trait"
        notes.leave_out(field, reason, f"expected an event of at most {MAX_EVENT_BYTES} bytes, got {size} in this alone")
    return event


def written(value: object) -> bytes:
    """An event or a value as JSON."""
    try:
        return _encode(value)
    except UnicodeEncodeError:  # half of a surrogate pair, in an id that was cut: rejected later like any bad id
        return json.dumps(value).encode()


def _identify(
    call: Call, context: Call, names: tuple[str | None, str | None], rules: IdentifierRules, notes: Notes
) -> list[dict[str, Any]] | Rejection:
    visitor_id, external_id = names
    traits = notes.object_of(call, "traits", "trait") or notes.object_of(context, "traits", "trait")
    profile = read_traits(traits, rules, notes)
    patch: dict[str, Any] = {"unset": profile.unset} if profile.unset else {}
    if external_id is None and profile.email is None:
        if visitor_id is None:
            return profile.bad_email or _no_identifier(notes, "userId, anonymousId, traits.email")
        return [{"type": "MetadataSet", "visitorId": visitor_id, **profile.fields, "metadata": profile.metadata, **patch}]
    if profile.metadata:
        patch = {"metadata": profile.metadata, **patch}
    ids = {"externalId": external_id, "email": profile.email, "visitorId": visitor_id}
    return [{"type": "VisitorIdentified", **_given(ids), **profile.fields, **patch, **_token(context)}]


def _seen(call: Call, context: Call, names: tuple[str | None, str | None], notes: Notes) -> list[dict[str, Any]] | Rejection:
    visitor_id, external_id = names
    if visitor_id is None and external_id is None:
        return _no_identifier(notes, "userId, anonymousId")
    events: list[dict[str, Any]] = []
    if external_id is not None:
        ids = {"externalId": external_id, "visitorId": visitor_id}
        events.append({"type": "VisitorIdentified", **_given(ids), **_token(context)})
    if visitor_id is not None:
        events.append({"type": "VisitorSeen", "visitorId": visitor_id, "context": _page(call, context, notes)})
    return events


def _no_identifier(notes: Notes, fields: str) -> Rejection:
    return notes.bad_identifier or Rejection("no-identifier", fields, "at least one of them", "none")


def _page(call: Call, context: Call, notes: Notes) -> dict[str, Primitive]:
    page = notes.object_of(context, "page", "context")
    if call["type"] != "track":  # a page call has its page in its properties as well
        properties = notes.object_of(call, "properties", "context")
        page = {name: page.get(name, properties.get(name)) for name in _PAGE_FIELDS}
    fields = {name: page.get(name) for name in _PAGE_FIELDS} | {name: context.get(name) for name in _CONTEXT_FIELDS}
    if call["type"] != "track":
        fields[call["type"]] = call.get("name")
    fitting: dict[str, Primitive] = {}
    for name, value in fields.items():
        if (why := why_not(name, value)) is not None:
            notes.leave_out(f"context.{name}", "context", why)
        elif value is not None:
            fitting[name] = value
    return fitting


def _common(call: Call, sent_at: object, notes: Notes) -> dict[str, Any]:
    """The fields that every event of a call has: its id and its times."""
    common: dict[str, Any] = {}
    message_id = _identifier(call, "messageId", notes)
    if message_id is not None:
        common["id"] = message_id
    at, is_known = _at(call, notes)
    if at is not None:
        common["at"] = at.isoformat()
    own = call.get("sentAt")
    if is_known and (moment := _sent_at(sent_at if own is None else own, notes)) is not None:
        common["sentAt"] = moment.isoformat()
    return common


def _at(call: Call, notes: Notes) -> tuple[datetime | None, bool]:
    """The time of a call (None if it has none), and whether it is known."""
    at: datetime | None = None
    unread: list[tuple[str, object]] = []
    for field in ("timestamp", "originalTimestamp"):
        value = call.get(field)
        if value is None:
            continue
        at = read_time(value)
        if at is None:
            unread.append((field, value))
        elif at < OLDEST:
            _leave_out_unset(field, value, notes)
            at = None
        else:
            break
    effect = "the call counts as the oldest known" if at is None else f"{field} counts"
    for field, value in unread:
        _leave_out_unread(field, value, effect, notes)
    return (OLDEST, False) if at is None and unread else (at, True)


def _sent_at(value: object, notes: Notes) -> datetime | None:
    moment = None if value is None else read_time(value)
    if value is not None and moment is None:
        _leave_out_unread("sentAt", value, "the call's own time counts as it is", notes)
    elif moment is not None and moment < OLDEST:
        _leave_out_unset("sentAt", value, notes)
        return None
    return moment


def _leave_out_unread(field: str, value: object, effect: str, notes: Notes) -> None:
    notes.leave_out(field, "time", f"expected a time as ISO 8601, RFC 1123 or a number, got {got(value)}; {effect}")


def _leave_out_unset(field: str, value: object, notes: Notes) -> None:
    notes.leave_out(field, "time", f"expected a time in 2000 or later, got {got(value)}; it counts as absent")


def _identifier(call: Call, field: str, notes: Notes) -> str | None:
    value = call.get(field)
    match value:
        case None:
            return None
        case str():
            return value if value.strip() else None
        case bool():
            pass
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return str(int(value)) if value.is_integer() and abs(value) <= MAX_INTEGER else repr(value)
        case _:
            pass
    rejection = Rejection("invalid", field, "a string or a number", got(value))
    notes.leave_out_rejected("identifier", rejection)
    if notes.bad_identifier is None and field != "messageId":
        notes.bad_identifier = rejection
    return None


def _token(context: Call) -> dict[str, Any]:
    return {_TOKEN: context[_TOKEN]} if isinstance(context.get(_TOKEN), str) else {}


def _given(fields: dict[str, str | None]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
