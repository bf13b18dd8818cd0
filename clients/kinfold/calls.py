"""What can be said of a visitor: three calls, spelled once for everybody who takes them (producers, the test kit).

They are the part of a producer that an application waits for. So what is plainly good is judged here, with as few steps as
it takes, and handed on as a tuple; everything else is for `drafts.checked`. Of the 1.2 microseconds of an `identify` in a
tight loop (a bare `queue.Queue.put` takes 0.6) a quarter is the lock and the bounded buffer, another one metadata (a copy, and
a look at each value), and the rest is keywords, three identifiers looked up, the clock and a tuple. Where every call finds a
cold cache, what the memory of the draft costs comes on top, as it does for a `put` of anything that is made for it.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Generic, TypedDict, TypeVar, Unpack

from kinfold.drafts import (
    ENVELOPE_BYTES,
    NOT_PLAIN,
    PLAIN_BYTES,
    Draft,
    LookCloser,
    checked,
    emails,
    external_ids,
    primitives,
    size_of,
    size_of_text,
    visitor_ids,
)
from kinfold_schemas.canonical import Primitive

R = TypeVar("R")
"""What a call returns: nothing, or something to be awaited."""

_now: Final = time.time


class Page(TypedDict, total=False):
    """What is usually said of a page view. Other keys go into `context=`; `user_agent` is written as `userAgent`.

    >>> page: kinfold.Page = {"url": "/pricing", "referrer": "https://example.org/"}
    >>> with kinfold.Producer("redis://localhost:6379/0", workspace="pages") as visitors:
    ...     visitors.seen("v-1", **page)
    """

    url: str
    referrer: str
    title: str
    user_agent: str
    ip: str
    locale: str
    timezone: str


class Calls(Generic[R]):
    """The calls of a producer, and of what stands in for one; `put` takes the drafts.

    Every call checks its event at once, so the traceback points at the caller's line; with asyncio, too, where only what
    comes after that is awaited.

    >>> with kinfold.Producer("redis://localhost:6379/0", workspace="acme") as visitors:
    ...     visitors.seen("v-1", url="/pricing")
    """

    def __init__(self, put: Callable[[Draft], R]) -> None:
        self._put: Final = put

    def seen(
        self,
        visitor_id: str,
        *,
        context: Mapping[str, Primitive] | None = None,
        at: datetime | None = None,
        **page: Unpack[Page],
    ) -> R:
        """A device or browser was there: contract section 2, VisitorSeen.

        `at` is when (default: now), aware. Raises EventError; BufferFull, where the settings say so.

        >>> with kinfold.Producer("redis://localhost:6379/0", workspace="acme") as visitors:
        ...     visitors.seen("v-1", url="/pricing", user_agent="Mozilla/5.0", context={"utm_source": "news"})
        """
        values: Any = page  # a dict of this call's own
        if "user_agent" in values:
            values["userAgent"] = values.pop("user_agent")
        if context is not None:
            values = {**(context if context.__class__ is dict else primitives("context", context)), **values}
        if at is None:
            try:
                size = ENVELOPE_BYTES + visitor_ids[visitor_id] + size_of(values)
            except NOT_PLAIN:
                size = PLAIN_BYTES
            if size < PLAIN_BYTES:
                return self._put(("VisitorSeen", _now(), size, visitor_id, values or None))
        return self._put(checked("VisitorSeen", at, visitor_id, values or None))

    def identify(  # noqa: C901  the event has that many fields
        self,
        visitor_id: str | None = None,
        *,
        external_id: str | None = None,
        email: str | None = None,
        name: str | None = None,
        image: str | None = None,
        metadata: Mapping[str, Primitive] | None = None,
        unset: Iterable[str] | None = None,
        at: datetime | None = None,
    ) -> R:
        """Who a visitor is: an external id, an e-mail address, or both (contract section 2, VisitorIdentified).

        Without a visitor: a contact that the backend alone knows. `metadata` is a patch, `unset` removes keys.
        Raises EventError; BufferFull, where the settings say so.

        >>> with kinfold.Producer("redis://localhost:6379/0", workspace="acme") as visitors:
        ...     visitors.identify("v-1", external_id="u-1", email="ada@example.org", name="Ada", metadata={"plan": "pro"})
        ...     visitors.identify("v-1", name="Ada")
        Traceback (most recent call last):
            ...
        kinfold_schemas.rejections.EventError: no-identifier: externalId, email: expected at least one of them, got neither
        """
        values: Any = metadata
        if values.__class__ is dict:
            values = {**values}  # a copy, for the caller goes on with its own
        if at is None and unset is None and (external_id is not None or email is not None):
            try:
                size = ENVELOPE_BYTES
                if visitor_id is not None:
                    size += visitor_ids[visitor_id]
                if external_id is not None:
                    size += external_ids[external_id]
                if email is not None:
                    size += emails[email]
                if name is not None:
                    size += size_of_text(name)
                if image is not None:
                    size += size_of_text(image)
                if values is not None:
                    size += size_of(values)
            except NOT_PLAIN:
                size = PLAIN_BYTES
            if size < PLAIN_BYTES:
                return self._put(("VisitorIdentified", _now(), size, visitor_id, external_id, email, name, image, values, None))
        return self._put(checked("VisitorIdentified", at, visitor_id, external_id, email, name, image, values, unset))

    def set_metadata(
        self,
        visitor_id: str | None = None,
        metadata: Mapping[str, Primitive] | None = None,
        *,
        external_id: str | None = None,
        email: str | None = None,
        contact_id: str | None = None,
        unset: Iterable[str] | None = None,
        at: datetime | None = None,
    ) -> R:
        """What is known about one visitor or contact: exactly one target (contract section 2, MetadataSet).

        `metadata` is a patch: its keys are set, None is a value like any other; `unset` removes keys.
        Raises EventError; BufferFull, where the settings say so.

        >>> with kinfold.Producer("redis://localhost:6379/0", workspace="acme") as visitors:
        ...     visitors.set_metadata("v-1", {"mrr": 99})
        ...     visitors.set_metadata(external_id="u-1", metadata={"seats": 3}, unset=["trial"])
        """
        values: Any = metadata
        if values.__class__ is dict:
            values = {**values}
        if at is None and unset is None and contact_id is None:
            try:
                size = ENVELOPE_BYTES + _only(visitor_id, external_id, email) + size_of(values)
            except NOT_PLAIN:
                size = PLAIN_BYTES
            if size < PLAIN_BYTES:
                return self._put(("MetadataSet", _now(), size, visitor_id, external_id, email, None, values, None))
        return self._put(checked("MetadataSet", at, visitor_id, external_id, email, contact_id, values, unset))


def _only(visitor_id: str | None, external_id: str | None, email: str | None) -> int:
    """The size of the one target there is. Raises LookCloser."""
    if visitor_id is not None:
        if external_id is None and email is None:
            return visitor_ids[visitor_id]
    elif external_id is not None:
        if email is None:
            return external_ids[external_id]
    elif email is not None:
        return emails[email]
    raise LookCloser
