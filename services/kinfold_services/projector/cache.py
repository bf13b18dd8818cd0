"""What a projector knows of the stored state, and what of it is not stored yet.

Everything is kept as it is stored: a record's JSON is one piece of memory, and of 50,000 records as objects every access is a
dozen misses of the processor's caches and work for the garbage collector. Reading the JSON again costs less than either.
"""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any, Final

import msgspec

from kinfold_projections.records import encode_record
from kinfold_projections.state import StateChanges
from kinfold_schemas.contacts import MergedContact
from kinfold_schemas.times import minute_ms

_EMAILS: Final = 3
_LINKS: Final = 4


class Unwritten(msgspec.Struct):
    """What is to be written, each thing once, in its last form."""

    visitors: dict[str, str] = {}
    contacts: dict[str, str] = {}
    external_ids: dict[str, str] = {}
    emails: dict[str, str | None] = {}
    members: dict[str, bool] = {}
    seen_ms: dict[str, int] = {}
    """Of living contacts, the minute in which each was seen last, where that is another one."""
    created: list[str] = []
    merged: list[str] = []

    @property
    def records(self) -> int:
        """How many records that is."""
        return len(self.visitors) + len(self.contacts)

    def sections(self) -> tuple[list[Any], ...]:
        """As `commit.lua` takes it: flat lists."""
        emails = self.emails.items()
        return (
            flat(self.visitors.items()),
            flat(self.contacts.items()),
            flat(self.external_ids.items()),
            flat(item for item in emails if item[1] is not None),
            [address for address, contact_id in emails if contact_id is None],
            flat((0, member) for member, there in self.members.items() if there),
            [member for member, there in self.members.items() if not there],
            flat((seen_ms, contact_id) for contact_id, seen_ms in self.seen_ms.items()),
            flat((0, contact_id) for contact_id in self.created),
            self.merged,
        )


class StateCache:
    """Of each kind of thing what was read or written last, up to a number; it may be forgotten at any time between batches."""

    def __init__(self) -> None:
        self.visitors: Final[dict[str, str]] = {}
        self.contacts: Final[dict[str, str]] = {}
        self.external_ids: Final[dict[str, str]] = {}
        self.emails: Final[dict[str, str | None]] = {}
        """None where an address is nobody's."""
        self.is_whole = False
        """Whether nothing is stored that is not here."""
        self.unwritten = Unwritten()
        self.grown = [0] * 5
        """By how much the stored hashes have grown since `take_grown`: visitors, contacts, external ids, emails; and links."""

    @property
    def held(self) -> int:
        """How many things are known, of the kind of which there are most."""
        return max(len(self.visitors), len(self.contacts), len(self.external_ids), len(self.emails))

    def take(self, changes: StateChanges) -> None:
        """Knows what a fold changed, which is to be written."""
        unwritten, grown = self.unwritten, self.grown
        visitors = {visitor.id: encode_record(visitor).decode() for visitor in changes.visitors}
        contacts = {contact.id: encode_record(contact).decode() for contact in changes.contacts}
        for number, (known, kept, new) in enumerate(
            (
                (self.visitors, unwritten.visitors, visitors),
                (self.contacts, unwritten.contacts, contacts),
                (self.external_ids, unwritten.external_ids, changes.external_ids),
            )
        ):
            before = len(known)
            known.update(new)
            kept.update(new)
            # All that a batch changes was loaded before, if it was stored.
            grown[number] += len(known) - before
        for address, contact_id in changes.emails.items():
            # An address that no event named was a loaded contact's: it is stored.
            was_held = self.emails.get(address, address) is not None
            grown[_EMAILS] += (contact_id is not None) - was_held
        grown[_LINKS] += sum(changes.members.values())
        self.emails.update(changes.emails)
        unwritten.emails.update(changes.emails)
        unwritten.members.update(changes.members)
        unwritten.created += changes.created
        for seen in changes.seen:
            unwritten.seen_ms[seen.id] = minute_ms(seen.last_seen_at)
        for contact in changes.contacts:
            if type(contact) is MergedContact:
                unwritten.merged.append(contact.id)
                unwritten.seen_ms.pop(contact.id, None)

    def take_unwritten(self) -> Unwritten:
        """What is to be written since the last call."""
        unwritten, self.unwritten = self.unwritten, Unwritten()
        return unwritten

    def take_grown(self) -> list[int]:
        """By how much the stored hashes have grown since the last call."""
        grown, self.grown = self.grown, [0] * 5
        return grown

    def forget_all(self) -> None:
        """Knows nothing: the state may be another one."""
        self.forget(-1)
        self.unwritten = Unwritten()
        self.take_grown()

    def forget(self, keep: int) -> None:
        """Forgets what came first of each kind where there is more than `keep`. Nothing may be unwritten, or on its way."""
        for known in (self.visitors, self.contacts, self.external_ids, self.emails):
            if len(known) > keep:
                self.is_whole = False
                # Half at once: taking a few from a dictionary's front again and again would walk over the holes each time.
                for name in list(islice(known, len(known) - keep // 2)):
                    del known[name]


def flat(pairs: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The items of all the pairs, one after the other."""
    return list(chain.from_iterable(pairs))
