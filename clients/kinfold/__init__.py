"""The client of kinfold: producers of events, the change feed, lookups. Its parts are loaded when they are first named."""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kinfold.calls import Page
    from kinfold.contacts import AsyncContacts, Contacts
    from kinfold.counters import Counters
    from kinfold.errors import BufferFull, FeedTruncated, KinfoldError, NotFolded, NotSent, Refused, Unreachable
    from kinfold.feed import Feed, Follow
    from kinfold.live import LiveContacts
    from kinfold.options import Failure, ProducerOptions
    from kinfold.positions import FilePosition
    from kinfold.producer import AsyncProducer, Producer
    from kinfold_schemas.contacts import Contact
    from kinfold_schemas.rejections import EventError

_HOME: Final = {
    "AsyncContacts": "kinfold.contacts",
    "AsyncProducer": "kinfold.producer",
    "BufferFull": "kinfold.errors",
    "Contact": "kinfold_schemas.contacts",
    "Contacts": "kinfold.contacts",
    "Counters": "kinfold.counters",
    "EventError": "kinfold_schemas.rejections",
    "Failure": "kinfold.options",
    "Feed": "kinfold.feed",
    "FeedTruncated": "kinfold.errors",
    "FilePosition": "kinfold.positions",
    "Follow": "kinfold.feed",
    "KinfoldError": "kinfold.errors",
    "LiveContacts": "kinfold.live",
    "NotFolded": "kinfold.errors",
    "NotSent": "kinfold.errors",
    "Page": "kinfold.calls",
    "Producer": "kinfold.producer",
    "ProducerOptions": "kinfold.options",
    "Refused": "kinfold.errors",
    "Unreachable": "kinfold.errors",
}

__all__ = [
    "AsyncContacts",
    "AsyncProducer",
    "BufferFull",
    "Contact",
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
    "Unreachable",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
