"""The feed, straight from Redis.

Each page is read together with the stream's extent and the entry at the position, by one script and so at one moment: entries
that were trimmed between two reads, or that a failover took away, cannot be missed without being noticed.
"""

import logging
import threading
from collections.abc import Generator, Iterator
from typing import Any, Final, NamedTuple, cast

import msgspec

from kinfold.connections import close, connect
from kinfold.contacts import decode_contact
from kinfold.errors import FeedTruncated, Unreachable
from kinfold.reading import REPLAY, At, Item, Pause, SnapshotBegins, Told, as_created, read_change
from kinfold.redis_log import REDIS_ERRORS, redis_error
from kinfold_schemas.changes import Change, ContactGone, ContactsMerged
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
    """What follows a position, and what the stream was like at that moment."""

    extent: Extent
    goes_on: bool
    """Whether nothing between the position and the entries was skipped."""
    entries: list[tuple[bytes, list[bytes]]]


class RedisFeed:
    """A source (`kinfold.reading.Source`) that reads a workspace's feed."""

    def __init__(self, url: str, workspace: str, timeout_s: float) -> None:
        self._url: Final = url
        self._timeout_s: Final = timeout_s
        self._block_ms: Final = max(1, min(_BLOCK_MS, round(timeout_s * 250)))  # a silent server is noticed in `timeout_s`
        self._feed: Final = key(workspace, "changes")
        self._contacts: Final = key(workspace, "contacts")
        self._stopped: Final = threading.Event()

    def stop(self) -> None:
        """Ends `read` within half a second."""
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
        if since is not None and (page.goes_on or not snapshot):
            position = since
        elif snapshot:
            position = yield from self._snapshot(client, page.extent.last)
        else:
            position = page.extent.last
            yield At(position)
        while not self._stopped.is_set():
            page = self._page(client, position)
            if not page.goes_on:
                if not snapshot:
                    raise FeedTruncated(_why_lost(position, page.extent), position)
                position = yield from self._snapshot(client, page.extent.last)
                continue
            entries = page.entries
            for entry_id, fields in entries:
                position = entry_id.decode()
                change = _change(position, fields)
                yield At(position) if change is None else Told(position, change)
            if len(entries) < _PAGE:
                yield Pause()
                client.execute_command("XREAD", "COUNT", 1, "BLOCK", self._block_ms, "STREAMS", self._feed, position)

    def _page(self, client: Any, position: str) -> _Page:
        """What follows `position`; empty: nothing is asked for but the extent."""
        reply = client.execute_command("EVAL", _READ, 1, self._feed, position, _PAGE)
        first, last, max_deleted, removed, is_there, entries = reply
        extent = Extent(first.decode(), last.decode(), max_deleted.decode(), removed)
        return _Page(extent, goes_on_behind(position, extent, is_there=bool(is_there)), entries)

    def _snapshot(self, client: Any, position: str) -> Generator[Item, None, str]:
        """Every living contact, then the changes since `position` that some contact may show already; up to where those go."""
        yield SnapshotBegins()
        shown: dict[str, Contact] = {}
        cursor = 0
        while True:
            reply = client.execute_command("HSCAN", self._contacts, cursor, "COUNT", _PAGE)
            cursor, page = int(reply[0]), reply[1]
            # A flat list from one version of the protocol, a mapping from the other.
            for data in (
                cast("dict[bytes, bytes]", page).values() if isinstance(page, dict) else cast("list[bytes]", page[1::2])
            ):
                if merged_into(data) is None:
                    contact = decode_contact(data)
                    if contact.id not in shown:
                        shown[contact.id] = contact
                        yield Told(None, as_created(contact))
            if cursor == 0:
                break
        position = yield from self._bring_up(client, position, shown)
        yield At(position, is_snapshot_end=True)
        return position

    def _bring_up(self, client: Any, position: str, shown: dict[str, Contact]) -> Generator[Item, None, str]:
        """What the projector did while the contacts were read.

        A change that a contact shows already is told with the contact as it was shown, so that nobody goes back in time; one
        that takes a contact away is told in any case.
        """
        until = self._page(client, "").extent.last
        while position_key(position) < position_key(until):
            page = self._page(client, position)
            if not page.goes_on:
                raise Unreachable(f"{_why_lost(position, page.extent)}; the snapshot begins again")
            if not page.entries:
                break
            for entry_id, fields in page.entries:
                position = entry_id.decode()
                change = _change(position, fields)
                if change is not None and (news := _after(shown, change)):
                    yield Told(None, news)
        return position


def _change(position: str, fields: list[bytes]) -> Change | None:
    """The change of an entry; None for what is to be left out: somebody else has put it there, or a newer kinfold."""
    try:
        return read_change(dict(zip(fields[::2], fields[1::2], strict=True)).get(b"change", b""))
    except Unreachable as error:  # asked again, it would be the same
        log.warning("feed entry %s was left out: %s", position, error)
        return None


def _after(shown: dict[str, Contact], change: Change) -> Change | None:
    if isinstance(change, ContactGone) or change.cause == REPLAY:
        shown.pop(change.contact_id, None)  # from here on its versions are others
        return change
    known = shown.get(change.contact_id)
    if known is None or known.version <= change.version:
        return change
    if isinstance(change, ContactsMerged):
        return msgspec.structs.replace(change, contact=known, version=known.version)
    return None


def _why_lost(position: str, extent: Extent) -> str:
    at = position_key(position)
    if at <= (0, 0) or (extent.removed and at < position_key(extent.first or extent.last)):
        what = "an older one may be trimmed"
    else:
        what = "this one never was there: did a failover or a restored copy take it away?"
    return f"feed: expected a position between {extent.first or extent.last} and {extent.last}, got {position}; {what}"
