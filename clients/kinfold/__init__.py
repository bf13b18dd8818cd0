"""The client of kinfold: producers, lookups and the change feed. Each part is loaded on first use."""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kinfold.calls import Page
    from kinfold.contacts import AsyncContacts, Contacts
    from kinfold.errors import BufferFull, FeedTruncated, KinfoldError, NotFolded, NotSent, Refused, Unreachable
    from kinfold.feed import Feed, FilePosition, Follow, LiveContacts
    from kinfold.producer import AsyncProducer, Counters, Failure, Producer, ProducerOptions
    from kinfold.signing import sign
    from kinfold_schemas.contacts import Contact
    from kinfold_schemas.directory import Conflict, ContactCount, ContactCounts, TimelineEntry, ValueCount
    from kinfold_schemas.rejections import EventError

_HOMES: Final = {
    "kinfold.calls": ("Page",),
    "kinfold.contacts": ("AsyncContacts", "Contacts"),
    "kinfold.errors": ("BufferFull", "FeedTruncated", "KinfoldError", "NotFolded", "NotSent", "Refused", "Unreachable"),
    "kinfold.feed": ("Feed", "FilePosition", "Follow", "LiveContacts"),
    "kinfold.producer": ("AsyncProducer", "Counters", "Failure", "Producer", "ProducerOptions"),
    "kinfold.signing": ("sign",),
    "kinfold_schemas.contacts": ("Contact",),
    "kinfold_schemas.directory": ("Conflict", "ContactCount", "ContactCounts", "TimelineEntry", "ValueCount"),
    "kinfold_schemas.rejections": ("EventError",),
}

__all__ = [
    "AsyncContacts",
    "AsyncProducer",
    "BufferFull",
    "Conflict",
    "Contact",
    "ContactCount",
    "ContactCounts",
    "Contacts",
    "Counters",
    "EventError",
    "Failure",
    "Feed",
    "FeedTruncated",
    "FilePosition",
    "Follow",
    "KinfoldError",
    "LiveContacts",
    "NotFolded",
    "NotSent",
    "Page",
    "Producer",
    "ProducerOptions",
    "Refused",
    "TimelineEntry",
    "Unreachable",
    "ValueCount",
    "sign",
]


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
