"""From changes of the feed to rows of the directory's tables.

`fold_changes` takes some entries of the feed, and the contacts that they name as they were before. It returns `Rows`: what the
entries, one after the other, do to the tables. For contacts, metadata and counts that is the difference between before and
after all of them. Identifiers and conflicts have steps, to be done in order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from kinfold_projections.directory import Row, folded_strings, index_text, index_value, is_sampled, search_text
from kinfold_projections.directory_feed import ERASED, ERASURE, REPLAY, VISITORS, FeedChange, FeedEntry
from kinfold_projections.directory_timeline import TimelineRow, timeline_row
from kinfold_schemas.contacts import Contact, Link
from kinfold_schemas.identifiers import email_key

# --- what the rows are ----------------------------------------------------------------------------------------------------


class Living(msgspec.Struct, gc=False):
    """A living contact and its JSON."""

    contact: Contact
    record: str


Value = tuple[str, int, float, str]
"""A metadata key and the `IndexValue` under it."""


class AddIdentifier(msgspec.Struct, gc=False):
    """A contact had an identifier until now."""

    row: Row


class Merge(msgspec.Struct, gc=False):
    """What `merged` had is `into`'s from now on: former identifiers, and conflicts."""

    merged: str
    into: str


class Unmerge(msgspec.Struct, gc=False):
    """A replay undid the merge of a contact: it is living again, or merged into another one."""

    contact_id: str


class AddConflict(msgspec.Struct, gc=False):
    """A conflict was reported. If the same conflict is open, nothing is added."""

    row: Row


class Settle(msgspec.Struct, gc=False):
    """The contact's address changed, so conflicts about its former address are settled.

    `email_key`: the address that it holds, if any. With `is_gone`, it is in no conflict any more.
    """

    contact_id: str
    email_key: str | None
    at: str
    is_gone: bool = False


class Dismiss(msgspec.Struct, gc=False):
    """A correction settled the conflict of a contact about an address, which the other contact keeps."""

    contact_id: str
    email_key: str
    held_by: str
    at: str


class Erase(msgspec.Struct, frozen=True, gc=False):
    """The contact was erased: every row about it goes, and what other rows say about it."""

    contact_id: str
    known: Contact | None
    """The contact before, if it was living."""


Step = AddIdentifier | Merge | Unmerge | AddConflict | Settle | Dismiss | Erase


class Rows(msgspec.Struct):
    """What some entries of the feed do to the tables."""

    before: Mapping[str, Living]
    contacts: dict[str, Living | None] = {}
    """The contacts that changed, as they are after the entries. None: not living any more."""
    timeline: list[TimelineRow] = []
    visitors: list[Row] = []
    """Links. A link ends the visitor's link before it; `until` is None if no later link is known here."""
    steps: list[Step] = []

    def metadata(self) -> "MetadataRows":
        """How the metadata of the contacts differs."""
        rows = MetadataRows([], [], {})
        for contact_id, now in self.contacts.items():
            rows.compare(contact_id, self.before.get(contact_id), now)
        return rows


class MetadataRows(msgspec.Struct):
    """Metadata values that contacts lost and got, each with the contact's id, and how the counts change."""

    removed: list[tuple[str, Value]]
    added: list[tuple[str, Value]]
    counts: dict[Value, int]

    def compare(self, contact_id: str, old: Living | None, new: Living | None) -> None:
        """Add the difference between two states of a contact."""
        if old is not None and new is not None and old.contact.metadata_hash == new.contact.metadata_hash:
            return
        had = _values(old.contact) if old is not None else _NONE
        has = _values(new.contact) if new is not None else _NONE
        counts = self.counts
        for value in had:
            if value not in has:
                self.removed.append((contact_id, value))
                counts[value] = counts.get(value, 0) - 1
        for value in has:
            if value not in had:
                self.added.append((contact_id, value))
                counts[value] = counts.get(value, 0) + 1


_NONE: Final[dict[Value, None]] = {}


def _values(contact: Contact) -> dict[Value, None]:
    return dict.fromkeys([(key, *index_value(value)) for key, value in contact.metadata.items()])


CONTACT_COLUMNS: Final = (
    *("id", "external_id", "email", "email_key", "name", "name_key", "image", "metadata", "visitor_count"),
    *("first_seen_at", "last_seen_at", "created_at", "updated_at", "version", "record", "search_text", "folded", "sampled"),
)


def contact_row(living: Living) -> Row:
    """The columns of a contact, in the order of `CONTACT_COLUMNS`."""
    contact = living.contact
    return {
        "id": contact.id,
        "external_id": contact.external_id,
        "email": contact.email,
        "email_key": None if contact.email is None else email_key(contact.email),
        "name": contact.name,
        "name_key": None if contact.name is None else index_text(contact.name),
        "image": contact.image,
        "metadata": contact.metadata,
        "visitor_count": contact.visitor_count,
        "first_seen_at": contact.first_seen_at,
        "last_seen_at": contact.last_seen_at,
        "created_at": contact.created_at,
        "updated_at": contact.updated_at,
        "version": contact.version,
        "record": living.record,
        "search_text": search_text(contact),
        "folded": folded_strings(contact),
        "sampled": is_sampled(contact.id),
    }


_COLUMNS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("external_id", ("external_id", "search_text", "folded")),
    ("email", ("email", "email_key", "search_text", "folded")),
    ("name", ("name", "name_key", "search_text", "folded")),
    ("image", ("image", "folded")),
    ("metadata_hash", ("metadata", "folded")),
    ("visitor_count", ("visitor_count",)),
    ("first_seen_at", ("first_seen_at",)),
    ("last_seen_at", ("last_seen_at",)),
    ("created_at", ("created_at",)),
    ("updated_at", ("updated_at",)),
    ("version", ("version",)),
)


def changed_columns(old: Contact, new: Contact) -> tuple[str, ...]:
    """The columns of a contact's row that differ: an update of others would only write their indexes again."""
    columns = {"record": None}
    for field, stored in _COLUMNS:
        if getattr(old, field) != getattr(new, field):
            columns.update(dict.fromkeys(stored))
    return tuple(columns)


NO_CONTACT: Final = ""
"""The contact in the row of a link to none: a correction unlinked the visitor."""


def link_rows(visitor_id: str, links: Sequence[Link]) -> Iterator[Row]:
    """The whole history of a visitor."""
    for number, link in enumerate(links):
        until = links[number + 1].since if number + 1 < len(links) else None
        yield {"visitor_id": visitor_id, "contact_id": link.contact_id or NO_CONTACT, "since": link.since, "until": until}


# --- from changes to rows -------------------------------------------------------------------------------------------------


def named_contacts(entries: Iterable[FeedEntry]) -> set[str]:
    """The ids of the contacts that `fold_changes` has to know as they were before."""
    ids = set[str]()
    created = set[str]()
    for entry in entries:
        change = entry.change
        if change.type == "ContactCreated" and change.cause != REPLAY and change.contact_id not in ids:
            created.add(change.contact_id)
        ids.add(change.contact_id)
        if change.merged_contact_id is not None:
            ids.add(change.merged_contact_id)
    return ids - created


def may_relink(entry: FeedEntry) -> bool:
    """Whether visitors of the contact may have other links now, without a change that says so.

    A replay reports only contacts, and an erasure empties some changes. An event that came late may change the order of a
    contact's visitors.
    """
    return entry.change.cause in {REPLAY, ERASURE} or VISITORS in entry.change.changed


def relinked_visitors(entries: Iterable[FeedEntry], before: Mapping[str, Living]) -> set[str]:
    """The visitors whose links have to be read from the state, because the feed does not have them."""
    found = set[str]()
    for entry in entries:
        change = entry.change
        if not may_relink(entry):
            continue
        known = [each.contact for name in (change.contact_id, change.merged_contact_id) if (each := before.get(name or ""))]
        for contact in (*known, entry.contact):
            if contact is not None:
                found.update(contact.visitor_ids)
    return found


def fold_changes(entries: Iterable[FeedEntry], before: Mapping[str, Living]) -> Rows:
    """What the entries do, in their order, to the tables. `before`: the living ones of `named_contacts`."""
    rows = Rows(before)
    last_links: dict[str, Row] = {}
    for entry in entries:
        change = entry.change
        known = _known(rows, change.contact_id)
        if change.type == ERASED:
            rows.steps.append(Erase(change.contact_id, known))
        elif change.type != "ContactSeen":
            rows.timeline.append(timeline_row(entry, known))
            _tell_identifiers(rows, entry, known)
            if change.type == "VisitorLinked":
                _link(rows, change, change.contact_id, last_links)
            elif change.type == "VisitorUnlinked" and change.next_contact_id is None:
                _link(rows, change, NO_CONTACT, last_links)
            elif change.type == "ContactsMerged" and change.merged_contact_id is not None:
                _merge(rows, entry, change.merged_contact_id)
            elif change.type == "IdentityConflict" and change.email is not None:
                rows.steps.append(AddConflict(_conflict_row(entry, change.email)))
            elif change.type == "ConflictDismissed" and change.email is not None:
                rows.steps.append(Dismiss(change.contact_id, email_key(change.email), change.held_by or "", change.at))
        contact = entry.contact
        rows.contacts[change.contact_id] = None if contact is None else Living(contact, bytes(change.contact).decode())
    return rows


def _known(rows: Rows, contact_id: str) -> Contact | None:
    known = rows.contacts[contact_id] if contact_id in rows.contacts else rows.before.get(contact_id)
    return None if known is None else known.contact


def _tell_identifiers(rows: Rows, entry: FeedEntry, known: Contact | None) -> None:
    """Note the identifiers that the contact lost, and what becomes of the conflicts about its address."""
    change, contact = entry.change, entry.contact
    if change.type == "ContactCreated" and change.cause == REPLAY and known is None:
        rows.steps.append(Unmerge(change.contact_id))
    if known is None or (contact is not None and known.email == contact.email and known.external_id == contact.external_id):
        return
    rows.steps += _former(entry, known, contact, change.contact_id)
    if contact is None or known.email != contact.email:
        key = None if contact is None or contact.email is None else email_key(contact.email)
        rows.steps.append(Settle(change.contact_id, key, change.at, is_gone=contact is None))


def _former(entry: FeedEntry, known: Contact, now: Contact | None, living_id: str) -> Iterator[AddIdentifier]:
    """The identifiers that a contact had and that its present contact does not have."""
    if known.email is not None:
        key = email_key(known.email)
        if now is None or now.email is None or email_key(now.email) != key:
            yield _identifier(entry, "email", known.email, key, known.id, living_id)
    if known.external_id is not None and (now is None or now.external_id != known.external_id):
        yield _identifier(entry, "external_id", known.external_id, known.external_id, known.id, living_id)


IDENTIFIER_COLUMNS: Final = (
    *("kind", "value_key", "position_ms", "position_seq", "value", "contact_id", "held_by", "merged_into", "until", "cause"),
)


def _identifier(  # noqa: PLR0913, PLR0917  the columns of a row
    entry: FeedEntry, kind: str, value: str, key: str, held_by: str, living_id: str
) -> AddIdentifier:
    ms, seq = entry.position
    return AddIdentifier(
        {
            "kind": kind,
            "value_key": key,
            "position_ms": ms,
            "position_seq": seq,
            "value": value,
            "contact_id": living_id,
            "held_by": held_by,
            "merged_into": living_id if kind == "contact_id" else None,
            "until": entry.change.at,
            "cause": entry.change.cause,
        }
    )


def _merge(rows: Rows, entry: FeedEntry, merged_id: str) -> None:
    change, contact = entry.change, entry.contact
    merged = _known(rows, merged_id)
    if change.cause == REPLAY and merged is None:
        rows.steps.append(Unmerge(merged_id))
    if merged is not None:
        rows.steps += _former(entry, merged, contact, change.contact_id)
    rows.steps.append(Merge(merged_id, change.contact_id))
    rows.steps.append(_identifier(entry, "contact_id", merged_id, merged_id, merged_id, change.contact_id))
    key = None if contact is None or contact.email is None else email_key(contact.email)
    rows.steps.append(Settle(change.contact_id, key, change.at))
    rows.contacts[merged_id] = None


def _link(rows: Rows, change: FeedChange, contact_id: str, last_links: dict[str, Row]) -> None:
    visitor_id = change.visitor_id
    if visitor_id is None:
        return
    row: Row = {"visitor_id": visitor_id, "contact_id": contact_id, "since": change.at, "until": None}
    earlier = last_links.get(visitor_id)
    if earlier is not None and earlier["since"] == change.at:
        earlier["contact_id"] = contact_id
        return
    if earlier is not None:
        earlier["until"] = change.at
    last_links[visitor_id] = row
    rows.visitors.append(row)


def _conflict_row(entry: FeedEntry, email: str) -> Row:
    change, (ms, seq) = entry.change, entry.position
    return {
        "position_ms": ms,
        "position_seq": seq,
        "contact_id": change.contact_id,
        "email": email,
        "email_key": email_key(email),
        "held_by": change.held_by or "",
        "reason": change.reason,
        "at": change.at,
        "settled_at": None,
    }
