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

So the result is the state at the last page's entry. Only the times when contacts were seen may be older, since the feed does
not have all of them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from importlib.resources import files
from typing import Final, cast

import msgspec

import kinfold_services.gateway.changes
from kinfold_schemas.changes import ContactCreated, ContactGone, ContactsMerged, decode_change, encode_change
from kinfold_schemas.contacts import Contact
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.gateway.changes.messages import PARTIAL_SNAPSHOT, Message

CAUSE: Final = "snapshot"

_PAGE: Final = 500
_CHANGES: Final = 1000

_SCRIPT: Final = files(kinfold_services.gateway.changes).joinpath("snapshot.lua").read_text()
_decode_contact: Final = msgspec.json.Decoder(Contact).decode


class Snapshot(msgspec.Struct, frozen=True):
    """All contacts as of the feed entry `position`, sorted by id, each as a message."""

    position: str
    contacts: list[Message]


class FeedOverran(RuntimeError):
    """The feed was trimmed while the contacts were read: it keeps too few entries for this many changes."""


async def take_snapshot(client: Client, workspace: str) -> Snapshot:
    """Read a workspace's contacts as of one entry of the feed. Raises RedisError and FeedOverran."""
    pages = await _read_pages(client, workspace)
    await pages.catch_up(client, workspace)
    contacts = [Message(PARTIAL_SNAPSHOT, data, contact_id=contact_id) for contact_id, data in sorted(pages.contacts.items())]
    return Snapshot(pages.positions[-1], contacts)


class _Pages:
    def __init__(self) -> None:
        self.contacts: Final[dict[str, bytes]] = {}
        self.bounds: Final[list[str]] = []
        """The last id of each page except the last page, which covers all ids after these."""
        self.positions: Final[list[str]] = []
        self._orders: list[tuple[int, int]] = []

    def shows(self, contact_id: str, order: tuple[int, int]) -> bool:
        """Whether the contact's page was read after this entry of the feed was written."""
        return order <= self._orders[bisect_left(self.bounds, contact_id)]

    async def catch_up(self, client: Client, workspace: str) -> None:
        """Apply the changes between the first page and the last."""
        self._orders = [position_key(each) for each in self.positions]
        after, last = self.positions[0], self.positions[-1]
        while position_key(after) < position_key(last):
            reply = await client.xrange(key(workspace, "changes"), min=f"({after}", max=last, count=_CHANGES)
            entries = cast("Sequence[tuple[bytes, dict[bytes, bytes]]]", reply)
            if not entries:
                raise FeedOverran(f"workspace {workspace}: the feed dropped entries before {last} while the contacts were read")
            for entry, fields in entries:
                if (message := Message.change(entry.decode(), fields)).data is not None:
                    self._apply(message.order, message.data)
            after = entries[-1][0].decode()

    def _apply(self, order: tuple[int, int], data: bytes) -> None:
        change = decode_change(data)
        if isinstance(change, ContactsMerged) and not self.shows(change.merged_contact_id, order):
            self.contacts.pop(change.merged_contact_id, None)
        if self.shows(change.contact_id, order):
            return
        if isinstance(change, ContactGone):
            self.contacts.pop(change.contact_id, None)
        else:
            self.contacts[change.contact_id] = _as_change(change.contact)


async def _read_pages(client: Client, workspace: str) -> _Pages:
    script = client.register_script(_SCRIPT)
    keys = [key(workspace, "created"), key(workspace, "contacts"), key(workspace, "changes")]
    pages = _Pages()
    behind = ""
    while True:
        position, ids, contacts = await script(keys=keys, args=[behind, _PAGE])
        pages.positions.append(position.decode())
        for contact_id, data in zip(ids, contacts, strict=True):
            pages.contacts[contact_id.decode()] = _as_change(_decode_contact(data))
        if len(ids) < _PAGE:
            return pages
        behind = ids[-1].decode()
        pages.bounds.append(behind)


def _as_change(contact: Contact) -> bytes:
    return encode_change(
        ContactCreated(contact_id=contact.id, version=contact.version, at=contact.updated_at, cause=CAUSE, contact=contact)
    )
