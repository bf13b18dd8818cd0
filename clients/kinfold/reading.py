"""What a reader of the feed sees, wherever it reads from: changes, where a snapshot begins and ends, and pauses.

A source reads one connection long; `Reader` goes on with another one where that ended, right behind the last change.
"""

import logging
import random
import threading
from collections.abc import Generator, Iterator
from typing import Final, NamedTuple, Protocol, cast

import msgspec

from kinfold.errors import Unreachable
from kinfold_schemas.changes import Change, ContactCreated, decode_change
from kinfold_schemas.contacts import Contact

log = logging.getLogger("kinfold")

_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 2.0
_TOLD_AT: Final = 2

SNAPSHOT: Final = "snapshot"
"""`cause` of the changes of a snapshot."""
REPLAY: Final = "replay"
"""`cause` of the changes that tell how a replay's contacts differ."""


class Told(NamedTuple):
    """A change, and its entry in the feed; None where it is part of a snapshot."""

    position: str | None
    change: Change


class At(NamedTuple):
    """Everything up to `position` has been told; `is_snapshot_end`: and a snapshot with it."""

    position: str
    is_snapshot_end: bool = False


class SnapshotBegins(NamedTuple):
    """Forget what you hold: every contact follows."""


class Pause(NamedTuple):
    """Nothing more just now."""


Item = Told | At | SnapshotBegins | Pause


class Source(Protocol):
    """A way to read the feed."""

    def read(self, since: str | None, *, snapshot: bool) -> Iterator[Item]:
        """Reads behind `since` (None: from now on), or a snapshot where there is no `since` or it is no longer kept.

        Raises Unreachable, Refused, or FeedTruncated: `since` is no longer kept, and no snapshot was asked for.
        """
        ...

    def stop(self) -> None:
        """Ends a `read` that waits in another thread, soon."""


class Reader:
    """Reads a source for ever. `stop` may be called from any thread."""

    def __init__(self, source: Source, since: str | None, *, snapshot: bool) -> None:
        self._source: Final = source
        self._since = since
        self._snapshot: Final = snapshot
        self._stopped: Final = threading.Event()

    def stop(self) -> None:
        """Ends the reading, soon."""
        self._stopped.set()
        self._source.stop()

    def items(self) -> Generator[Item, None, None]:
        """Everything, in order. Raises FeedTruncated or Refused."""
        delay_s, failures = 0.0, 0
        while not self._stopped.is_set():
            try:
                for item in self._source.read(self._since, snapshot=self._snapshot):
                    delay_s, failures = 0.0, 0
                    yield item
                    self._note(item)
                    if self._stopped.is_set():
                        return
            except Unreachable as error:
                if self._stopped.is_set():
                    return
                failures += 1
                delay_s = min(max(delay_s * 2, _FIRST_RETRY_S), _LAST_RETRY_S)
                # One end of a stream is everyday's; two in a row may be a wrong address, and nothing else would tell.
                level = logging.WARNING if failures == _TOLD_AT else logging.INFO
                log.log(level, "the feed cannot be read and will be again, in %.1f s: %s", delay_s, error)
                yield Pause()
                self._stopped.wait(max(delay_s * random.uniform(0.5, 1.0), error.retry_after_s or 0.0))  # noqa: S311  no secret

    def _note(self, item: Item) -> None:
        if isinstance(item, SnapshotBegins):
            self._since = None  # half a snapshot is none
        elif isinstance(item, (Told, At)) and item.position is not None:
            self._since = item.position


def read_change(data: bytes) -> Change | None:
    """A change; None for a type that this version does not know. Raises Unreachable for what is none."""
    try:
        return cast("Change", decode_change(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if str(error).startswith("Invalid value"):  # of the tag `type`
            log.warning("a change of an unknown type was left out; is kinfold too old? %s", data[:100])
            return None
        raise Unreachable(f"feed: found {data[:100]!r}, allowed is a change: {error}") from error


def as_created(contact: Contact) -> ContactCreated:
    """A contact of a snapshot, as a change."""
    return ContactCreated(
        contact_id=contact.id, version=contact.version, at=contact.updated_at, cause=SNAPSHOT, contact=contact
    )
