"""Fields of encoded events that their type does not have: which they are, and what they probably mean (contract section 2).

The fold ignores such a field. A person who sent it needs to know of it, above all if the event was rejected for it.
"""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Final, get_args

import msgspec

from kinfold_schemas.events import MAX_EVENT_BYTES, MAX_KEY_CHARS, Event

decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""Decode an encoded event to its fields, each as raw JSON."""

EVENT_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    kind.__name__: frozenset(["type", *(field.encode_name for field in msgspec.structs.fields(kind))])
    for kind in get_args(Event)
}
"""The fields of each event type."""

_OTHER_NAMES: Final[Mapping[str, Sequence[str]]] = {
    "userId": ["externalId"],
    "user_id": ["externalId"],
    "anonymousId": ["visitorId"],
    "anonymous_id": ["visitorId"],
    "distinct_id": ["externalId", "visitorId"],
    "distinctId": ["externalId", "visitorId"],
    "traits": ["metadata"],
    "properties": ["metadata", "context"],
    "$set": ["metadata"],
    "timestamp": ["at"],
    "messageId": ["id"],
}
"""The names of fields in events of Segment and PostHog, and the fields that hold the same here: the first that a type has."""

_MAX_HINTS: Final = 3
"""How many unknown fields of a rejected event are explained."""
_HINT_CHARS: Final = 60


def unknown_fields(data: bytes, event_type: str) -> list[str]:
    """The fields of a valid encoded event that its type does not have: the fold ignores them (contract section 2)."""
    known = EVENT_FIELDS[event_type]
    return [name for name in decode_members(data) if name not in known]


def nearest_field(name: str, event_type: str) -> str | None:
    """The field of an event type that `name` is probably a misspelling of, or that Segment or PostHog call `name`."""
    known = EVENT_FIELDS[event_type]
    nearest = [each for each in _OTHER_NAMES.get(name, ()) if each in known] or get_close_matches(
        name[:MAX_KEY_CHARS], known, n=1
    )
    return nearest[0] if nearest else None


def unknown_in_rejected(data: bytes, known: Collection[str] = ()) -> str:
    """What a person needs to know of the unknown fields of a rejected encoded event, to put behind the reason.

    Empty if there are none, or if the type of the event cannot be read. Slow. `known`: other fields that the caller takes.
    """
    if len(data) > MAX_EVENT_BYTES:
        return ""
    try:
        members = decode_members(data)
        event_type = msgspec.json.decode(members["type"], type=str)
        fields = EVENT_FIELDS[event_type]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return ""
    unknown = [name for name in members if name not in fields and name not in known]
    hints = [f"; {_hint(name, event_type)}" for name in unknown[:_MAX_HINTS]]
    if len(unknown) > _MAX_HINTS:
        hints.append(f"; and {len(unknown) - _MAX_HINTS} more unknown fields")
    return "".join(hints)


def _hint(name: str, event_type: str) -> str:
    nearest = nearest_field(name, event_type)
    hint = f" (did you mean `{nearest}`?)" if nearest else ""
    return f"`{name[:_HINT_CHARS]}` is not a field of {event_type}{hint}"
