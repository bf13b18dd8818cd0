"""The feed directly from Redis.

One script reads each page together with the extent of the stream and the entry at the position, so all three are of one moment.
Entries that were trimmed between two reads, or that a failover removed, cannot go unnoticed.
"""

import logging
import threading
from collections.abc import Generator, Iterator
from typing import Any, Final, NamedTuple, cast

import msgspec

from kinfold.contacts.queries import decode_contact
from kinfold.errors import FeedTruncated, Unreachable
from kinfold.feed.reader import REPLAY, Idle, Item, Reached, Received, SnapshotStarts, as_created, read_change
from kinfold.transport.redis import REDIS_ERRORS, close, connect, redis_error
from kinfold_schemas.changes import Change, ContactErased, ContactGone, ContactsMerged
from kinfold_schemas.contacts import Contact, merged_into
from kinfold_schemas.keys import key
from kinfold_schemas.positions import Extent, goes_on_behind, position_key

log = logging.getLogger("kinfold")

_PAGE: Final = 500
_BLOCK_MS: Final = 400

_READ: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {'', '0-0', '0-0', 0, 0, {}} end
local flat, info = redis.call('XINFO', 'STREAM', KEYS[1]), {}
for i = 1, #flat, 2 do info[flat[i]] = flat[i + 1] end
local first = info['first-entry'] and info['first-entry'][1] or ''
local removed = info['entries-added'] - info['length']
local is_there, entries = 0, {}
if ARGV[1] ~= '' then
  is_there = #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
  entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
end
return {first, info['last-generated-id'], info['max-deleted-entry-id'], removed, is_there, entries}
"""


class _Page(NamedTuple):
    """The entries after a position, and the extent of the stream at that moment."""

    extent: Extent
    is_gapless: bool
    """Whether nothing is missing between the position and the entries."""
    entries: list[tuple[bytes, list[bytes]]]


class RedisSource:
    """Reads a workspace's feed; see `kinfold.feed.reader.Source`."""

    def __init__(self, url: str, workspace: str, timeout_s: float) -> None:
        self._url: Final = url
        self._timeout_s: Final = timeout_s
        self._block_ms: Final = max(1, min(_BLOCK_MS, round(timeout_s * 250)))  # notices a silent server within `timeout_s`
        self._changes: Final = key(workspace, "changes")
        self._contacts: Final = key(workspace, "contacts")
        self._stopped: Final = threading.Event()

    def stop(self) -> None:
        """End `read` within half a second."""
        self._stopped.set()

    def read(self, since: str | None, *, snapshot: bool) -> Iterator[Item]:
        """See Source."""
        client: Any = None
        try:
            client = connect(self._url, self._timeout_s)
            yield from self._read(client, since, snapshot=snapshot)
        except REDIS_ERRORS as error:
            raise redis_error(error) from error
        finally:
            if client is not None:
                close(client)

    def _read(self, client: Any, since: str | None, *, snapshot: bool) -> Iterator[Item]:
        page = self._page(client, since or "")
        if since is not None and (page.is_gapless or not snapshot):
            position = since
        elif snapshot:
            position = yield from self._snapshot(client, page.extent.last)
        else:
            position = page.extent.last
            yield Reached(position)
        while not self._stopped.is_set():
            page = self._page(client, position)
            if not page.is_gapless:
                if not snapshot:
                    raise FeedTruncated(_why_truncated(position, page.extent), position)
                position = yield from self._snapshot(client, page.extent.last)
                continue
            for entry_id, fields in page.entries:
                position = entry_id.decode()
                change = _change(position, fields)
                yield Reached(position) if change is None else Received(position, change)
            if len(page.entries) < _PAGE:
                yield Idle()
                client.execute_command("XREAD", "COUNT", 1, "BLOCK", self._block_ms, "STREAMS", self._changes, position)

    def _page(self, client: Any, position: str) -> _Page:
        """The entries after `position`; with an empty one only the extent."""
        reply = client.execute_command("EVAL", _READ, 1, self._changes, position, _PAGE)
        first, last, max_deleted, removed, is_there, entries = reply
        extent = Extent(first.decode(), last.decode(), max_deleted.decode(), removed)
        return _Page(extent, goes_on_behind(position, extent, is_there=bool(is_there)), entries)

    def _snapshot(self, client: Any, position: str) -> Generator[Item, None, str]:
        """Yield every living contact, then the changes since `position`, which some contacts may already include.

        Returns the position up to which the changes go.
        """
        yield SnapshotStarts()
        shown: dict[str, Contact] = {}
        cursor = 0
        while True:
            reply = client.execute_command("HSCAN", self._contacts, cursor, "COUNT", _PAGE)
            cursor, page = int(reply[0]), reply[1]
            # A flat list in RESP2, a mapping in RESP3.
            for data in (
                cast("dict[bytes, bytes]", page).values() if isinstance(page, dict) else cast("list[bytes]", page[1::2])
            ):
                if merged_into(data) is None:
                    contact = decode_contact(data)
                    if contact.id not in shown:
                        shown[contact.id] = contact
                        yield Received(None, as_created(contact))
            if cursor == 0:
                break
        position = yield from self._catch_up(client, position, shown)
        yield Reached(position, is_snapshot_end=True)
        return position

    def _catch_up(self, client: Any, position: str, shown: dict[str, Contact]) -> Generator[Item, None, str]:
        """Yield the changes that the projector made while the contacts were read.

        If a contact already includes a change, the change carries the contact as it was shown, so that no contact goes back in
        time. A change that removes a contact is always yielded.
        """
        until = self._page(client, "").extent.last
        while position_key(position) < position_key(until):
            page = self._page(client, position)
            if not page.is_gapless:
                raise Unreachable(f"{_why_truncated(position, page.extent)}; the snapshot starts again")
            if not page.entries:
                break
            for entry_id, fields in page.entries:
                position = entry_id.decode()
                change = _change(position, fields)
                if change is not None and (news := _after(shown, change)):
                    yield Received(None, news)
        return position


def _change(position: str, fields: list[bytes]) -> Change | None:
    """The change of an entry; None for an entry to skip: a foreign program or a newer kinfold wrote it."""
    try:
        return read_change(dict(zip(fields[::2], fields[1::2], strict=True)).get(b"change", b""))
    except Unreachable as error:  # reading it again would not help
        log.warning("skipped entry %s of the feed: %s", position, error)
        return None


def _after(shown: dict[str, Contact], change: Change) -> Change | None:
    if isinstance(change, ContactGone | ContactErased) or change.cause == REPLAY:
        shown.pop(change.contact_id, None)  # its version may be lower from here on
        return change
    known = shown.get(change.contact_id)
    if known is None or known.version <= change.version:
        return change
    if isinstance(change, ContactsMerged):
        return msgspec.structs.replace(change, contact=known, version=known.version)
    return None


def _why_truncated(position: str, extent: Extent) -> str:
    at = position_key(position)
    if at <= (0, 0) or (extent.removed and at < position_key(extent.first or extent.last)):
        why = "older entries may have been trimmed"
    else:
        why = "there never was such an entry: did a failover or a restored copy remove it?"
    return f"feed: expected a position between {extent.first or extent.last} and {extent.last}, got {position}; {why}"
