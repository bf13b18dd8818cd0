"""What an erasure writes in place of the entries of some people (contract section 10).

- An entry of theirs becomes `Erased`: hashes of its id and content remain, so that a late resend of it is a duplicate.
- Where it created a contact, `contactId` says so, and the fold puts a tombstone there.
- Where it linked a visitor that others share, that link remains, without any identifier of the person. So everybody else's
  history of the visitor stays as it was.
- Where another person's entry names one of them, the rest of that entry remains (`kept`), and so does the conflict.

Everybody else's contacts come out of the fold byte for byte as before.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple, cast

import msgspec
from msgspec import UNSET

from kinfold_projections.batches import RawEntry
from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.duplicates import erased_content, erased_id
from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.ownership import Belongings, Mention, Takes
from kinfold_schemas.codec import encode_event
from kinfold_schemas.events import BROWSER, Erased, ErasedConflict, IdentityCorrected, VisitorIdentified
from kinfold_schemas.identifiers import email_key, id_key

_SHORT_CHARS: Final = 4
"""Shorter identifiers are not searched for in bytes that are not JSON, where they would match by chance."""
_KEYS: Final[dict[str, Callable[[str], str]]] = {
    "externalId": id_key,
    "email": email_key,
    "visitorId": id_key,
    "contactId": id_key,
}
"""By kind of identifier: the form in which it is compared."""


Kind = Literal["folded", "duplicate", "idle", "unfolded"]
"""How the fold treated an entry.

idle: it did nothing to its contact. unfolded: it was rejected or excluded, so no contact took it.
"""


class _Hashes(NamedTuple):
    id: str
    salt: str
    content: str


class Redactor:
    """Redacts the entries of some people, in the log's order."""

    def __init__(self, workspace: str, belongings: Belongings, salt: str) -> None:
        self._workspace: Final = workspace
        self._belongings: Final = belongings
        self._salt: Final = salt
        self._mentions: Final[dict[str, list[Mention]]] = {}
        for mention in belongings.mentions:
            if mention.field == "email" or self._is_exclusive(mention):
                self._mentions.setdefault(mention.entry, []).append(mention)
        self._occurred: Final[set[_Hashes]] = set()
        """Hashes of the ids and contents of redacted events: their duplicates are redacted, too."""
        self._tokens: Final[dict[str, str]] = {}
        self.identifiers: Final[dict[str, frozenset[str]]] = {
            "externalId": frozenset(belongings.external_ids - belongings.shared_external_ids),
            "email": frozenset(belongings.emails - belongings.shared_emails),
            "visitorId": frozenset(belongings.visitors - belongings.shared_visitors),
            "contactId": frozenset(belongings.contacts),
        }
        """By field name: the identifiers of these people and of nobody else."""

    @property
    def mentioned(self) -> set[str]:
        """The entries of other people that are partly redacted."""
        return set(self._mentions)

    def redacted(self, entry: Entry | BadEntry, kind: Kind, raw: RawEntry) -> bytes | None:
        """The event that replaces the entry; None if the entry stays.

        An entry that did nothing is replaced if it names one of the people anywhere.
        """
        if entry.id in self._belongings.entries:
            return self._own(cast("Entry", entry))
        if mentions := self._mentions.get(entry.id):
            return self._without(cast("Entry", entry), mentions)
        if entry.id in self._belongings.erased_takes:
            return self._without_takes(cast("Entry", entry))
        return None if kind == "folded" else self._what_did_nothing(entry, kind, raw)

    def _what_did_nothing(self, entry: Entry | BadEntry, kind: Kind, raw: RawEntry) -> bytes | None:
        hashes = self._hashes(entry) if isinstance(entry, Entry) else None
        if not ((kind == "duplicate" and hashes in self._occurred) or self.names_them(raw)):
            return None
        if hashes is None:
            return encode_event(Erased(occurred=False))
        self._occurred.add(hashes)
        return encode_event(_erased(cast("Entry", entry), hashes))

    def _own(self, entry: Entry) -> bytes:
        owned = self._belongings
        hashes = self._hashes(entry)
        self._occurred.add(hashes)
        linked, visitor_id = owned.links.get(entry.id), entry.names.visitor_id
        created = make_contact_id(self._workspace, entry.id)
        if linked is not None and visitor_id in owned.shared_visitors:
            unlinks, dated = entry.id in owned.unlinks, _dated(entry, hashes)
            return encode_event(msgspec.structs.replace(dated, contact_id=linked, visitor_id=visitor_id, unlinks=unlinks))
        if (taken := owned.takes.get(entry.id)) is not None and (lost := self._lost(taken, _dated(entry, hashes))):
            return encode_event(lost)
        if (
            type(entry.event) is Erased and entry.event.contact_id is not None
        ):  # the link of a visitor that nobody shares any more
            created = entry.event.contact_id
        elif created not in owned.contacts:
            return encode_event(_erased(entry, hashes))
        return encode_event(msgspec.structs.replace(_erased(entry, hashes), contact_id=created))

    def _without_takes(self, entry: Entry) -> bytes | None:
        """An erased entry without what it took from these people; None if it took nothing of theirs."""
        event, names = cast("Erased", entry.event), entry.names
        external_id = None if names.external_id in self.identifiers["externalId"] else event.taken_external_id
        email = None if names.email_key in self.identifiers["email"] else event.taken_email
        if (external_id, email) == (event.taken_external_id, event.taken_email):
            return None
        return encode_event(msgspec.structs.replace(event, taken_external_id=external_id, taken_email=email))

    def _lost(self, taken: Takes, dated: Erased) -> Erased | None:
        """What others lost to a correction; None if all of it belonged to these people, too."""
        external_id = None if taken.external_id_of in self._belongings.contacts else taken.external_id
        email = None if taken.email_of in self._belongings.contacts else taken.email
        if external_id is None and email is None:
            return None
        return msgspec.structs.replace(dated, contact_id=taken.contact_id, taken_external_id=external_id, taken_email=email)

    def _without(self, entry: Entry, mentions: list[Mention]) -> bytes:
        """Another person's event without what it says about these people."""
        hashes = self._hashes(entry)
        self._occurred.add(hashes)
        before = entry.event
        kept, conflict = (before.kept, before.conflict) if type(before) is Erased else (before, None)
        assert isinstance(kept, VisitorIdentified | IdentityCorrected)  # noqa: S101  no other event names two people
        for mention in mentions:
            if mention.field == "all":
                return encode_event(_erased(entry, hashes))
            changed: dict[str, Any] = {}
            if mention.field == "visitorId":
                changed["visitor_id"] = None
            elif isinstance(kept, VisitorIdentified):
                conflict = ErasedConflict(self.token(mention.identifier), mention.contact_id, mention.reason)
                changed["email"] = None
            elif kept.dismiss_conflict is not None:
                conflict = ErasedConflict(self.token(mention.identifier), mention.contact_id)
                changed["dismiss_conflict"] = conflict.email
            else:
                changed["email"] = UNSET
            kept = msgspec.structs.replace(kept, **changed)
        if isinstance(kept, IdentityCorrected) and not _corrects(kept):
            return encode_event(_erased(entry, hashes))
        kept = msgspec.structs.replace(kept, id=None, at=None, sent_at=None, source=None)
        return encode_event(msgspec.structs.replace(_dated(entry, hashes), kept=kept, conflict=conflict))

    def _hashes(self, entry: Entry) -> _Hashes:
        """The hashes of an entry. An erased entry keeps those that it has."""
        if type(entry.event) is Erased:
            return _Hashes(entry.event.id or "", entry.event.salt, entry.event.content or "")
        return _Hashes(erased_id(self._salt, entry.event_id), self._salt, erased_content(self._salt, entry))

    def token(self, address: str) -> str:
        """The placeholder for an address of these people in somebody else's conflict."""
        return self._tokens.setdefault(address, f"{len(self._tokens) + 1}@erased.invalid")

    def _is_exclusive(self, mention: Mention) -> bool:
        return mention.identifier not in self._belongings.shared_visitors

    def names_them(self, raw: RawEntry) -> bool:
        """Whether an entry contains one of their identifiers: as a value or key at any depth, or in bytes that are not JSON."""
        return any(self._is_theirs(value) for value in raw[1].values())

    def _is_theirs(self, value: bytes) -> bool:
        try:
            texts = set(_texts_in(msgspec.json.decode(value)))
        except (ValueError, RecursionError):
            return self._contains_one(value.decode(errors="replace"))
        return any(key(text) in self.identifiers[kind] for text in texts for kind, key in _KEYS.items())

    def _contains_one(self, text: str) -> bool:
        folded = text.casefold()
        return any(
            len(each) >= _SHORT_CHARS and (each in text or (kind == "email" and each.casefold() in folded))
            for kind, known in self.identifiers.items()
            for each in known
        )


def _erased(entry: Entry, hashes: _Hashes) -> Erased:
    """An `Erased` event of the same source, because each source has its own window of duplicates."""
    return Erased(source=None if entry.is_trusted else BROWSER, **hashes._asdict())


def _dated(entry: Entry, hashes: _Hashes) -> Erased:
    """As `_erased`, with the effective time of the original event."""
    return msgspec.structs.replace(_erased(entry, hashes), at=entry.event.at, sent_at=entry.event.sent_at)


def _corrects(event: IdentityCorrected) -> bool:
    """Whether there is a correction left."""
    said = event.merge_contact_id, event.unlink_visitor_id, event.dismiss_conflict, event.metadata, event.unset
    set_to = event.external_id, event.email, event.name, event.image
    return any(said) or any(each is not UNSET for each in set_to)


def _texts_in(value: Any) -> Iterator[str]:
    """The strings in a decoded JSON value, its keys and numbers among them."""
    waiting: list[Any] = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            yield from cast("dict[str, Any]", each)
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, int | float) and not isinstance(each, bool):
            yield str(each)
