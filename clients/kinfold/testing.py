"""A test kit: a producer that sends nothing, and shows what would have become of it.

A bulk load is tested by giving it a `Recorder` in place of the `Producer`; see `Recorder` for an example.

It folds with `kinfold_projections`, the fold that the service runs, which is pure and part of every installation.
"""

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from kinfold.calls import Calls
from kinfold.counters import Counters
from kinfold.drafts import Draft
from kinfold.encoding import encode_drafts, stamped
from kinfold.suppression import Suppression
from kinfold_projections.entries import read_entry
from kinfold_projections.fold import evolve
from kinfold_projections.state import State
from kinfold_schemas.changes import Change
from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.identifiers import id_key
from kinfold_schemas.keys import DEFAULT_WORKSPACE
from kinfold_schemas.rejections import EventError
from kinfold_schemas.times import from_text

_decode_visitor: Final[Callable[[bytes], Visitor]] = msgspec.json.Decoder(Visitor).decode


class Recorder(Calls[None]):
    """Stands in for a `Producer` in an application's own tests: the same methods, no server, no thread.

    `suppress=False` records also what says nothing new, which a producer would not send. Typed code that is given either takes
    `kinfold.calls.Calls[None]`, which both of them are.

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

    A bulk load, which in production runs as `with kinfold.Producer(url) as users: load(rows, users)`. Loaded twice, every user
    is there once:

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
        """What would be sent, as it is on the wire."""
        self.changes: Final[list[Change]] = []
        """What the change feed would tell."""
        self._state: Final = State(workspace)
        self._suppression: Final = Suppression(1_000_000 if suppress else 0, float("inf"))
        self._suppressed = 0
        self._entry = (0, 0)

    def flush(self, timeout_s: float = 0.0) -> str | None:  # noqa: ARG002  the producer's signature
        """Does nothing; the position of the last event.

        >>> from kinfold.testing import Recorder
        >>> Recorder().flush() is None
        True
        """
        return f"{self._entry[0]}-{self._entry[1]}" if self.events else None

    def close(self, timeout_s: float = 0.0) -> None:
        """Does nothing.

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
        """The one contact. Raises LookupError where there is nobody, TypeError unless exactly one identifier is given.

        >>> from kinfold.testing import Recorder
        >>> try:
        ...     Recorder().contact(external_id="u-1")
        ... except LookupError as error:
        ...     print(error)
        external_id: found nobody with 'u-1', allowed is the external id of a contact
        """
        given = {"external_id": external_id, "email": email, "visitor_id": visitor_id, "contact_id": contact_id}
        names = {name: value for name, value in given.items() if value is not None}
        if len(names) != 1:
            raise TypeError(f"contact: found {', '.join(names) or 'nothing'}, allowed is one of {', '.join(given)}")
        name, value = next(iter(names.items()))
        match name:
            case "external_id":
                found = self._state.by_external_id(id_key(value))
            case "email":
                found = self._state.by_email(value)
            case "visitor_id":
                visitor = self._state.visitors.get(id_key(value))
                found = self._state.contact(visitor.contact_id) if visitor and visitor.contact_id else None
            case _:
                found = self._state.contact(value) if value in self._state.contacts else None
        if found is None:
            raise LookupError(f"{name}: found nobody with {value!r}, allowed is the {name.replace('_', ' ')} of a contact")
        return found.public()

    def visitor(self, visitor_id: str) -> Visitor:
        """The visitor. Raises LookupError where nothing named it.

        >>> from kinfold.testing import Recorder
        >>> recorder = Recorder()
        >>> recorder.seen("v-1")
        >>> recorder.visitor("v-1").contact_id is None
        True
        """
        found = self._state.visitors.get(id_key(visitor_id))
        if found is None:
            known = ", ".join(self._state.visitors) or "none"
            raise LookupError(f"visitor_id: found no visitor {visitor_id!r}, known are: {known}")
        return _decode_visitor(msgspec.json.encode(found))

    @property
    def contacts(self) -> list[Contact]:
        """Every contact, by id.

        >>> from kinfold.testing import Recorder
        >>> Recorder().contacts
        []
        """
        return sorted((contact.public() for contact in self._state.living_contacts()), key=lambda contact: contact.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _record(self, draft: Draft) -> None:
        if not self._suppression.is_news(draft):
            self._suppressed += 1
            return
        (data,) = stamped(encode_drafts([draft]))
        event: dict[str, Any] = msgspec.json.decode(data)
        outcome = evolve(self._state, read_entry(self._next_entry(event["sentAt"]), {b"event": data}))
        if outcome.rejection is not None:  # what depends on the state: an unknown contact, too many keys once set
            self._suppression.forget()  # it counts as said no more
            raise EventError(outcome.rejection)
        self.events.append(event)
        self.changes.extend(outcome.changes)

    def _next_entry(self, sent_at: str) -> bytes:
        ms, seq = self._entry
        now_ms = from_text(sent_at)
        self._entry = (now_ms, 0) if now_ms > ms else (ms, seq + 1)
        return f"{self._entry[0]}-{self._entry[1]}".encode()


class AsyncRecorder(Calls[Coroutine[Any, Any, None]]):
    """The same in place of an `AsyncProducer`; what it recorded is in `recorder`.

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
        self.recorder._record(draft)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the same thing in two colours

    async def flush(self, timeout_s: float = 0.0) -> str | None:
        """As `AsyncProducer.flush`."""
        return self.recorder.flush(timeout_s)

    async def close(self, timeout_s: float = 0.0) -> None:
        """Does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
