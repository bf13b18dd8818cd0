"""A test kit for applications: a producer that sends nothing, and shows the resulting contacts and changes.

It uses `kinfold_projections`, the fold of the service, which is pure and part of every installation. To test a bulk load,
give it a `Recorder` instead of a `Producer`; see `Recorder` for an example.
"""

from collections.abc import Coroutine
from typing import Any, Final, Self

import msgspec

from kinfold.calls import Calls
from kinfold.calls.drafts import Draft
from kinfold.calls.encoding import encode_drafts
from kinfold.producer.counters import Counters
from kinfold.producer.stamps import Stamps
from kinfold.producer.suppression import Suppression
from kinfold_projections.entries import read_entry
from kinfold_projections.fold import fold
from kinfold_projections.records import public_contact, public_visitor
from kinfold_projections.state import State
from kinfold_schemas.changes import Change, decode_change, encode_change
from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.identifiers import email_key, id_key
from kinfold_schemas.keys import DEFAULT_WORKSPACE
from kinfold_schemas.rejections import EventError
from kinfold_schemas.times import from_text


class Recorder(Calls[None]):
    """Replaces a `Producer` in an application's tests: the same methods without a server or a thread.

    `suppress=False` also records events that say nothing new, which a producer would not send. Typed code that accepts both
    takes `kinfold.calls.Calls[None]`.

    >>> from kinfold.testing import Recorder
    >>> recorder = Recorder()
    >>> recorder.seen("v-1", url="/pricing")
    >>> recorder.identify("v-1", external_id="u-1", metadata={"plan": "pro"})
    >>> recorder.contact(external_id="u-1").metadata["plan"] == "pro"
    True
    >>> [event["type"] for event in recorder.events]
    ['VisitorSeen', 'VisitorIdentified']
    >>> [type(change).__name__ for change in recorder.changes]
    ['ContactCreated', 'VisitorLinked']

    A bulk load, which in production runs as `with kinfold.Producer(url) as users: load(rows, users)`. Loading twice creates
    each user once:

    >>> def load(rows, users):
    ...     for row in rows:
    ...         users.identify(external_id=row["id"], email=row["email"], metadata={"plan": row["plan"]})
    >>> rows = [{"id": f"u-{n}", "email": f"user{n}@example.org", "plan": "pro"} for n in range(100)]
    >>> with Recorder() as recorder:
    ...     load(rows, recorder)
    ...     load(rows, recorder)
    >>> len(recorder.contacts), recorder.counters.suppressed
    (100, 100)
    """

    def __init__(self, workspace: str = DEFAULT_WORKSPACE, *, suppress: bool = True) -> None:
        super().__init__(self._record)
        self.events: Final[list[dict[str, Any]]] = []
        """The events that a producer would send, as on the wire."""
        self.changes: Final[list[Change]] = []
        """The changes that the feed would have."""
        self._state: Final = State(workspace)
        self._suppression: Final = Suppression(1_000_000 if suppress else 0, float("inf"))
        self._suppressed = 0
        self._entry = (0, 0)

    def flush(self, timeout_s: float = 0.0) -> str | None:  # noqa: ARG002  the producer's signature
        """Do nothing. Returns the position of the last event.

        >>> from kinfold.testing import Recorder
        >>> Recorder().flush() is None
        True
        """
        return f"{self._entry[0]}-{self._entry[1]}" if self.events else None

    def close(self, timeout_s: float = 0.0) -> None:
        """Do nothing.

        >>> from kinfold.testing import Recorder
        >>> Recorder().close()
        """

    @property
    def counters(self) -> Counters:
        """As `Producer.counters`.

        >>> from kinfold.testing import Recorder
        >>> Recorder().counters.accepted
        0
        """
        sent = len(self.events)
        return Counters(accepted=sent + self._suppressed, sent=sent, suppressed=self._suppressed)

    def contact(
        self,
        *,
        external_id: str | None = None,
        email: str | None = None,
        visitor_id: str | None = None,
        contact_id: str | None = None,
    ) -> Contact:
        """The contact with an identifier. Raises LookupError if there is none, TypeError unless exactly one is given.

        >>> from kinfold.testing import Recorder
        >>> try:
        ...     Recorder().contact(external_id="u-1")
        ... except LookupError as error:
        ...     print(error)
        external_id: expected the external id of a contact, got 'u-1'
        """
        given = {"external_id": external_id, "email": email, "visitor_id": visitor_id, "contact_id": contact_id}
        names = {name: value for name, value in given.items() if value is not None}
        if len(names) != 1:
            raise TypeError(f"contact: expected one of {', '.join(given)}, got {', '.join(names) or 'nothing'}")
        name, value = next(iter(names.items()))
        match name:
            case "external_id":
                found = self._state.by_external_id(id_key(value))
            case "email":
                found = self._state.by_email(email_key(value))
            case "visitor_id":
                visitor = self._state.visitors.get(id_key(value))
                found = self._state.contact(visitor.contact_id) if visitor and visitor.contact_id else None
            case _:
                found = self._state.contact(value) if value in self._state.contacts else None
        if found is None:
            raise LookupError(f"{name}: expected the {name.replace('_', ' ')} of a contact, got {value!r}")
        return public_contact(found)

    def visitor(self, visitor_id: str) -> Visitor:
        """The visitor with an id. Raises LookupError if no event named it.

        >>> from kinfold.testing import Recorder
        >>> recorder = Recorder()
        >>> recorder.seen("v-1")
        >>> recorder.visitor("v-1").contact_id is None
        True
        """
        found = self._state.visitors.get(id_key(visitor_id))
        if found is None:
            known = ", ".join(self._state.visitors) or "none"
            raise LookupError(f"visitor_id: expected the id of a visitor ({known}), got {visitor_id!r}")
        return public_visitor(id_key(visitor_id), found)

    @property
    def contacts(self) -> list[Contact]:
        """All contacts, sorted by id.

        >>> from kinfold.testing import Recorder
        >>> Recorder().contacts
        []
        """
        return sorted((public_contact(contact) for contact in self._state.living_contacts()), key=lambda contact: contact.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, draft: Draft) -> None:
        if not self._suppression.is_news(draft):
            self._suppressed += 1
            return
        (data,) = Stamps().stamp(encode_drafts([draft]))
        event: dict[str, Any] = msgspec.json.decode(data)
        (outcome,) = fold(self._state, [read_entry(self._next_entry(event["sentAt"]), {b"event": data})])
        if outcome.rejection is not None:  # it depends on the state: an unknown contact, too many keys in total
            self._suppression.forget()  # it does not count as sent
            raise EventError(outcome.rejection)
        self.events.append(event)
        self.changes.extend(decode_change(encode_change(change)) for change in outcome.changes)

    def _next_entry(self, sent_at: str) -> bytes:
        ms, seq = self._entry
        now_ms = from_text(sent_at)
        self._entry = (now_ms, 0) if now_ms > ms else (ms, seq + 1)
        return f"{self._entry[0]}-{self._entry[1]}".encode()


class AsyncRecorder(Calls[Coroutine[Any, Any, None]]):
    """Replaces an `AsyncProducer`. Its `recorder` has the recorded events.

    >>> from kinfold.testing import AsyncRecorder
    >>> visitors = AsyncRecorder()
    >>> asyncio.run(visitors.identify("v-1", external_id="u-1"))
    >>> visitors.recorder.contact(visitor_id="v-1").external_id
    'u-1'
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        super().__init__(self._record)
        self.recorder: Final = recorder or Recorder()

    async def _record(self, draft: Draft) -> None:
        self.recorder._record(draft)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the same class in two forms

    async def flush(self, timeout_s: float = 0.0) -> str | None:
        """As `AsyncProducer.flush`."""
        return self.recorder.flush(timeout_s)

    async def close(self, timeout_s: float = 0.0) -> None:
        """Do nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
