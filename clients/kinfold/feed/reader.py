"""What a source of the feed yields, and `Reader`, which continues with a new connection after a failure."""

import logging
import threading
from collections.abc import Generator, Iterator
from typing import Final, NamedTuple, Protocol, cast

import msgspec

from kinfold.errors import Unreachable
from kinfold.transport.backoff import Backoff
from kinfold_schemas.changes import Change, ContactCreated, decode_change
from kinfold_schemas.contacts import Contact

log = logging.getLogger("kinfold")

_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 2.0
_WARN_AT: Final = 2

SNAPSHOT: Final = "snapshot"
"""The `cause` of the changes in a snapshot."""
REPLAY: Final = "replay"
"""The `cause` of the changes that tell how the contacts differ after a replay."""


class Received(NamedTuple):
    """A change and its position in the feed; the position is None within a snapshot."""

    position: str | None
    change: Change


class Reached(NamedTuple):
    """All changes up to `position` were received, and with `is_snapshot_end` a whole snapshot."""

    position: str
    is_snapshot_end: bool = False


class SnapshotStarts(NamedTuple):
    """Every contact follows; earlier ones no longer count."""


class Idle(NamedTuple):
    """There is nothing more to read at the moment."""


Item = Received | Reached | SnapshotStarts | Idle


class Source(Protocol):
    """A way to read the feed over one connection."""

    def read(self, since: str | None, *, snapshot: bool) -> Iterator[Item]:
        """Read after `since` (None: from now on), or a snapshot if there is no `since` or it is no longer kept.

        Raises Unreachable, Refused, or FeedTruncated: `since` is no longer kept, and no snapshot was asked for.
        """
        ...

    def stop(self) -> None:
        """End a `read` that waits in another thread, soon."""


class Reader:
    """Reads a source forever. Any thread may call `stop`."""

    def __init__(self, source: Source, since: str | None, *, snapshot: bool) -> None:
        self._source: Final = source
        self._since = since
        self._snapshot: Final = snapshot
        self._stopped: Final = threading.Event()

    def stop(self) -> None:
        """End the reading, soon."""
        self._stopped.set()
        self._source.stop()

    def items(self) -> Generator[Item, None, None]:
        """Yield everything in order. Raises FeedTruncated or Refused."""
        backoff, failures = Backoff(_FIRST_RETRY_S, _LAST_RETRY_S), 0
        while not self._stopped.is_set():
            try:
                for item in self._source.read(self._since, snapshot=self._snapshot):
                    failures = 0
                    backoff.reset()
                    yield item
                    self._note(item)
                    if self._stopped.is_set():
                        return
            except Unreachable as error:
                if self._stopped.is_set():
                    return
                failures += 1
                wait_s = backoff.failed(error.retry_after_s)
                # A stream ends every now and then. Two failures in a row may be a wrong address, which nothing else reports.
                level = logging.WARNING if failures == _WARN_AT else logging.INFO
                log.log(level, "cannot read the feed, trying again in %.1f s: %s", backoff.delay_s, error)
                yield Idle()
                self._stopped.wait(wait_s)

    def _note(self, item: Item) -> None:
        if isinstance(item, SnapshotStarts):
            self._since = None  # an incomplete snapshot must start again
        elif isinstance(item, (Received, Reached)) and item.position is not None:
            self._since = item.position


def read_change(data: bytes) -> Change | None:
    """Decode a change; None for a type that this version does not know. Raises Unreachable for invalid data."""
    try:
        return cast("Change", decode_change(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if str(error).startswith("Invalid value"):  # of the tag `type`
            log.warning("skipped a change of an unknown type; is this version of kinfold too old? %s", data[:100])
            return None
        raise Unreachable(f"feed: expected a change, got {data[:100]!r}: {error}") from error


def as_created(contact: Contact) -> ContactCreated:
    """A contact of a snapshot, as a change."""
    return ContactCreated(
        contact_id=contact.id, version=contact.version, at=contact.updated_at, cause=SNAPSHOT, contact=contact
    )
