"""The three calls that describe a visitor. Producers and the test kit share them.

An application waits for these calls, so they do little: check the event, and hand a small tuple to a bounded buffer.
`benchmarks/client_call.py` compares them with `queue.Queue.put`.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Generic, TypedDict, TypeVar, Unpack

from kinfold.calls.drafts import Draft, draft_named, draft_seen, primitives
from kinfold_schemas.canonical import Primitive

R = TypeVar("R")
"""What a call returns: None, or an awaitable."""


class Page(TypedDict, total=False):
    """The usual fields of a page view. Pass other keys as `context=`. `user_agent` is sent as `userAgent`.

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
    """The calls of a producer, or of a test double of one. `put` takes the drafts.

    A call checks its event at once, so the traceback points at the caller's line. With asyncio, too: only what follows the
    check is awaited.

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
        """Report that a device or browser was active: VisitorSeen, contract section 2.

        `at` is an aware datetime; the default is now. Raises EventError, and BufferFull with `when_full="raise"`.

        >>> with kinfold.Producer("redis://localhost:6379/0", workspace="acme") as visitors:
        ...     visitors.seen("v-1", url="/pricing", user_agent="Mozilla/5.0", context={"utm_source": "news"})
        """
        values: Any = page  # a new dictionary for each call
        if "user_agent" in values:
            values["userAgent"] = values.pop("user_agent")
        if context is not None:
            values = {**(context if context.__class__ is dict else primitives("context", context)), **values}
        return self._put(draft_seen(visitor_id, values, at))

    def identify(
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
        """Link a visitor to a contact by an external id, an e-mail address, or both: VisitorIdentified, contract section 2.

        Without `visitor_id` it creates or updates a contact. `metadata` is a patch; `unset` removes keys.
        Raises EventError, and BufferFull with `when_full="raise"`.

        >>> with kinfold.Producer("redis://localhost:6379/0", workspace="acme") as visitors:
        ...     visitors.identify("v-1", external_id="u-1", email="ada@example.org", name="Ada", metadata={"plan": "pro"})
        ...     try:
        ...         visitors.identify("v-1", name="Ada")
        ...     except kinfold.EventError as error:
        ...         print(error.rejection.reason)
        no-identifier
        """
        is_plain = external_id is not None or email is not None
        return self._put(
            draft_named("VisitorIdentified", at, is_plain, visitor_id, external_id, email, None, name, image, metadata, unset)
        )

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
        """Set metadata of exactly one visitor or contact: MetadataSet, contract section 2.

        `metadata` is a patch: it sets its keys, and None is a value like any other. `unset` removes keys.
        Raises EventError, and BufferFull with `when_full="raise"`.

        >>> with kinfold.Producer("redis://localhost:6379/0", workspace="acme") as visitors:
        ...     visitors.set_metadata("v-1", {"mrr": 99})
        ...     visitors.set_metadata(external_id="u-1", metadata={"seats": 3}, unset=["trial"])
        """
        if visitor_id is not None:
            is_plain = external_id is None and email is None and metadata is not None
        else:
            is_plain = (external_id is None) is not (email is None) and metadata is not None
        return self._put(
            draft_named("MetadataSet", at, is_plain, visitor_id, external_id, email, contact_id, None, None, metadata, unset)
        )
