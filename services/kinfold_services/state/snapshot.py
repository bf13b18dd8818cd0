"""Every living contact as of one entry of the feed. The changes after that entry follow without a gap or a repeat.

The contacts are read page by page, while changes go on. The result is exact all the same:

1. A page and the feed's last entry are read in one atomic step (`snapshot.lua`), and a batch writes contacts and feed in one
   atomic step, too. So a page has its contacts exactly as they are after its entry of the feed.
2. The pages are ranges of ids, and together cover all ids, even those of contacts that do not exist yet. So each id belongs to
   one page, and so to one entry of the feed.
3. Then the changes from the first page's entry to the last page's entry are read. A change is applied if it comes after the
   entry of its contact's page. Otherwise the page already includes it.
4. A merge changes two contacts. The survivor is treated like any contact. The merged one is removed if its page was read before
   the merge. If its page was read later, the contact is not on it, or a replay has undone the merge.

So the result is the state at the last page's entry.
"""

from bisect import bisect_left
from collections.abc import AsyncGenerator, Iterator, Mapping
from importlib.resources import files
from typing import Final

import structlog

import kinfold_services.state
from kinfold_projections.directory_feed import FeedEntry, read_entry
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.log.feed import read_feed_page

Stored = tuple[str, bytes | None]
"""A contact's id and its JSON; None: it is not living any more."""

_PAGE: Final = 500
_CHANGES: Final = 1000

_SCRIPT: Final = files(kinfold_services.state).joinpath("snapshot.lua").read_text()


class FeedOverran(RuntimeError):
    """The feed was trimmed while the contacts were read: it keeps too few entries for this many changes."""


class SnapshotReader:
    """Reads a snapshot: first all `pages`, then the `corrections`. Later values of a contact replace earlier ones.

    Both raise RedisError.
    """

    def __init__(self, client: Client, workspace: str) -> None:
        self._client: Final = client
        self._workspace: Final = workspace
        self._bounds: Final[list[str]] = []
        """The last id of each page except the last page, which covers all ids after these."""
        self._positions: Final[list[str]] = []
        self._orders: list[tuple[int, int]] = []

    @property
    def position(self) -> str:
        """The entry of the feed that the snapshot is of; `0-0` if the feed is empty. Known when all pages were read."""
        return self._positions[-1]

    async def pages(self) -> AsyncGenerator[list[Stored]]:
        """The contacts by id."""
        script = self._client.register_script(_SCRIPT)
        keys = [key(self._workspace, "created"), key(self._workspace, "contacts"), key(self._workspace, "changes")]
        after = ""
        while True:
            position, ids, contacts = await script(keys=keys, args=[after, _PAGE])
            self._positions.append(position.decode())
            yield [(contact_id.decode(), data) for contact_id, data in zip(ids, contacts, strict=True)]
            if len(ids) < _PAGE:
                self._orders = [position_key(each) for each in self._positions]
                return
            after = ids[-1].decode()
            self._bounds.append(after)

    async def corrections(self) -> AsyncGenerator[list[Stored]]:
        """What changed between the first page and the last, in the feed's order. Raises FeedOverran."""
        feed = key(self._workspace, "changes")
        after, last = self._positions[0], self._positions[-1]
        while position_key(after) < position_key(last):
            page = await read_feed_page(self._client, feed, after, _CHANGES)
            if not page.goes_on:
                raise FeedOverran(
                    f"workspace {self._workspace}: the feed dropped entries after {after} while the contacts were read"
                )
            entries = [each for each in page.entries if position_key(each[0].decode()) <= position_key(last)]
            if not entries:
                return
            yield [each for entry, fields in entries for each in self._corrected(entry.decode(), fields)]
            after = entries[-1][0].decode()

    def _corrected(self, entry_id: str, fields: Mapping[bytes, bytes]) -> Iterator[Stored]:
        entry = entry_of(entry_id, fields)
        if entry is None:
            return
        change = entry.change
        if change.merged_contact_id is not None and not self._shows(change.merged_contact_id, entry.position):
            yield change.merged_contact_id, None
        if not self._shows(change.contact_id, entry.position):
            yield change.contact_id, bytes(change.contact) or None

    def _shows(self, contact_id: str, order: tuple[int, int]) -> bool:
        """Whether the contact's page was read after this entry of the feed was written."""
        return order <= self._orders[bisect_left(self._bounds, contact_id)]


def entry_of(entry_id: str, fields: Mapping[bytes, bytes]) -> FeedEntry | None:
    """An entry of the feed; None for an entry that is not a change, which is ignored with a line in the log."""
    try:
        return read_entry(entry_id, fields.get(b"change", b""))
    except ValueError as error:
        structlog.get_logger().warning("feed entry ignored: not a change", entry=entry_id, error=str(error))
        return None
