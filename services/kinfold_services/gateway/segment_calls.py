"""Segment's calls as kinfold's events.

| Segment | kinfold |
|---|---|
| `identify` with a `userId`, or an `email` among the traits | VisitorIdentified |
| `identify` with an `anonymousId` alone | MetadataSet for the visitor |
| `track`, `page`, `screen` with an `anonymousId` | VisitorSeen, with the page as its context |
| the same with a `userId` too | VisitorIdentified before it: the call names both |
| the same with a `userId` alone | VisitorIdentified |
| `alias`, `group` | nothing |

`userId` → `externalId`, `anonymousId` → `visitorId`, `messageId` → `id`, `timestamp` → `at`, `sentAt` → `sentAt`; of the
traits `email`, `name` (or `firstName` and `lastName`), `avatar` → `image`, the other ones → `metadata` where they are
primitive and within the limits. A time without an offset is UTC. Traits stand in `traits`, or (RudderStack) in
`context.traits`.
"""

import math
import re
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, cast

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.events import MAX_INTEGER, MAX_KEY_CHARS, MAX_METADATA_KEYS, MAX_VALUE_BYTES
from kinfold_schemas.rejections import Rejection, found

Call = dict[str, Any]

TYPES: Final = ("identify", "track", "page", "screen", "alias", "group")
_NOTHING: Final = frozenset({"alias", "group"})
_PAGE_FIELDS: Final = ("url", "referrer", "title", "path", "search")
_CONTEXT_FIELDS: Final = ("userAgent", "ip", "locale", "timezone")
_HALF: Final = re.compile("[\ud800-\udfff]")


class Translated(NamedTuple):
    """What a call comes to: events, an identification first where there is one; and what is left out, by its kind."""

    events: list[dict[str, Any]]
    ignored: list[str]


def translate(call: Call, shared_context: Call, sent_at: object) -> Translated | Rejection:
    """The events of one call. `shared_context` and `sent_at` are the batch's."""
    kind = call.get("type")
    if kind not in TYPES:
        return Rejection("unknown-type", f"type: found {found(kind)}, allowed is one of {', '.join(TYPES)}")
    if kind in _NOTHING:
        return Translated([], [str(kind)])
    context = {**shared_context, **_object(call.get("context"))}
    ignored: list[str] = []
    common = _common(call, sent_at, ignored)
    visitor_id, external_id = _identifier(call.get("anonymousId")), _identifier(call.get("userId"))
    if kind == "identify":
        traits = _object(call.get("traits")) or _object(context.get("traits"))
        event = _identify(visitor_id, external_id, traits, ignored)
        if event is None:
            return Rejection("no-identifier", "userId, anonymousId, traits.email: found none of them, allowed is at least one")
        return Translated([{**event, **common, **_signatures(context)}], ignored)
    if visitor_id is None and external_id is None:
        return Rejection("no-identifier", "userId, anonymousId: found neither, allowed is at least one")
    events: list[dict[str, Any]] = []
    if external_id is not None:
        identified = {"type": "VisitorIdentified", "externalId": external_id, **common, **_signatures(context)}
        if visitor_id is not None:
            identified["visitorId"] = visitor_id
            if "id" in common:
                identified["id"] = f"{common['id']}:user"  # two events need two ids
        events.append(identified)
    if visitor_id is not None:
        events.append({"type": "VisitorSeen", "visitorId": visitor_id, "context": _page(call, context), **common})
    return Translated(events, ignored)


def _identify(visitor_id: str | None, external_id: str | None, traits: Call, ignored: list[str]) -> dict[str, Any] | None:
    traits = dict(traits)
    email = _text(traits, "email")
    if external_id is None and email is None:
        if visitor_id is None:
            return None
        return {"type": "MetadataSet", "visitorId": visitor_id, "metadata": _metadata(traits, ignored)}
    event: dict[str, Any] = {"type": "VisitorIdentified"}
    name, image = _text(traits, "name"), _text(traits, "avatar")
    if name is None:
        parts = [part for field in ("firstName", "lastName") if (part := _text(traits, field)) is not None]
        name = " ".join(parts) or None
    metadata = _metadata(traits, ignored)
    fields = {"externalId": external_id, "email": email, "visitorId": visitor_id, "name": name, "image": image}
    event |= {field: value for field, value in fields.items() if value is not None}
    return {**event, "metadata": metadata} if metadata else event


def _metadata(traits: Call, ignored: list[str]) -> dict[str, Primitive]:
    metadata = {name: value for name, value in traits.items() if _fits(name, value)}
    for name in list(metadata)[MAX_METADATA_KEYS:]:
        del metadata[name]
    ignored.extend(["trait"] * (len(traits) - len(metadata)))
    return metadata


def _fits(name: str, value: object) -> bool:
    if not 0 < len(name) <= MAX_KEY_CHARS or not _is_text(name):
        return False
    match value:
        case None | bool():
            return True
        case int():
            return abs(value) <= MAX_INTEGER
        case float():
            return math.isfinite(value)
        case str():
            return _is_text(value) and len(value.encode()) <= MAX_VALUE_BYTES
        case _:
            return False


def _page(call: Call, context: Call) -> dict[str, Primitive]:
    page = _object(context.get("page"))
    if call["type"] != "track":  # a page call tells its page in its properties as well
        page = {**_object(call.get("properties")), **page}
    fields = {name: page.get(name) for name in _PAGE_FIELDS} | {name: context.get(name) for name in _CONTEXT_FIELDS}
    if call["type"] != "track":
        fields[call["type"]] = call.get("name")
    return {name: value for name, value in fields.items() if value is not None and _fits(name, value)}


def _common(call: Call, sent_at: object, ignored: list[str]) -> dict[str, Any]:
    common: dict[str, Any] = {}
    message_id = call.get("messageId")
    if isinstance(message_id, str) and message_id:
        common["id"] = message_id
    for field, value in (("at", call.get("timestamp")), ("sentAt", call.get("sentAt") or sent_at)):
        if value is None:
            continue
        if (moment := _moment(value)) is not None:
            common[field] = moment
        else:
            ignored.append("time")
    return common


def _moment(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).isoformat()


def _signatures(context: Call) -> dict[str, Any]:
    return {name: context[name] for name in ("signature", "emailSignature") if isinstance(context.get(name), str)}


def _identifier(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value) if str(value).strip() else None


def _text(traits: Call, name: str) -> str | None:
    """Takes a trait out, if it is a text that says something."""
    value = traits.get(name)
    if not isinstance(value, str) or not value.strip() or not _is_text(value):
        return None
    del traits[name]
    return value


def _is_text(value: str) -> bool:
    """Without a NUL, and without half of a character: an SDK that cuts a text cuts emoji in two."""
    return "\0" not in value and not _HALF.search(value)


def _object(value: object) -> Call:
    return cast("Call", value) if isinstance(value, dict) else {}
