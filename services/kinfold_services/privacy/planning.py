"""What an erasure will do: whom it removes, which entries become what, and which texts are then nowhere any more."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Final, NamedTuple

from kinfold_projections.entries import EVENT_FIELD, Entry, read_entries
from kinfold_projections.ownership import Belongings
from kinfold_projections.redaction import Kind, Redactor
from kinfold_schemas.codec import encode_event
from kinfold_schemas.events import Erased, IdentityCorrected, MetadataSet, SubjectErased, VisitorIdentified, VisitorSeen
from kinfold_schemas.identifiers import email_key, id_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.erased_entries import erased_entries
from kinfold_services.privacy.person import FoldedLog, own_entries
from kinfold_services.privacy.records import Receipt, Removed, hashed, in_order
from kinfold_services.rejects.stored import stored_rejects

_ENTRIES_AN_EVENT: Final = 500
_IDENTIFIERS: Final = ("externalId", "email", "visitorId")


class Plan(NamedTuple):
    """What is redacted, and what is searched for afterwards."""

    belongings: Belongings
    redacted: dict[str, bytes]
    """Entry id → the event that takes its place."""
    texts: frozenset[str]
    """The identifiers, as they were written and as they are compared, that nobody else has."""
    removed: Removed
    token: Callable[[str], str]
    """What stands for an address of theirs in somebody else's conflict."""


async def make_plan(client: Client, workspace: str, log: FoldedLog, belongings: Belongings, salt: str) -> Plan:
    """Read the entries that may have to be redacted, and redact them in memory."""
    redactor = Redactor(workspace, belongings, salt)
    kind_of = kinds(log)
    redacted = dict[str, bytes]()
    texts = {each for field in _IDENTIFIERS for each in redactor.identifiers[field]}
    wanted = belongings.entries | redactor.mentioned | belongings.erased_takes | kind_of.keys()
    async with aclosing(own_entries(client, workspace, wanted)) as pages:
        async for page in pages:
            for raw, entry in zip(page, read_entries(page, log.rules), strict=True):
                event = redactor.redacted(entry, kind_of.get(entry.id, "folded"), raw)
                if event is None:
                    continue
                redacted[entry.id] = event
                if isinstance(entry, Entry):
                    texts.update(_said_texts(entry, redactor.identifiers))
    redacted |= await _redacted_elsewhere(client, workspace, log, redactor)
    removed = Removed(
        contacts=len(belongings.contacts),
        visitors=len(belongings.visitors - belongings.shared_visitors),
        external_ids=len(belongings.external_ids),
        emails=len(belongings.emails - belongings.shared_emails),
        entries=len(redacted.keys() - redactor.mentioned),
        redacted_entries=len(redactor.mentioned),
        shared_visitors=len(belongings.shared_visitors),
        shared_emails=len(belongings.shared_emails),
    )
    return Plan(belongings, redacted, frozenset(texts), removed, redactor.token)


async def _redacted_elsewhere(client: Client, workspace: str, log: FoldedLog, redactor: Redactor) -> dict[str, bytes]:
    """What takes the place of entries that the log has lost: rejects hold them, and what earlier erasures kept of them."""
    raws = dict[str, RawEntry]()
    async with aclosing(stored_rejects(client, workspace)) as rejects:
        async for reject in rejects:
            _note(raws, redactor, (reject.entry.encode(), dict(reject.fields)))
    for entry_id, kept in (await erased_entries(client, workspace)).items():
        _note(raws, redactor, (entry_id, {EVENT_FIELD: kept}))
    async with aclosing(own_entries(client, workspace, list(raws))) as pages:
        async for page in pages:
            for entry_id, _ in page:
                del raws[entry_id.decode()]
    found = dict[str, bytes]()
    for raw, entry in zip(raws.values(), read_entries(list(raws.values()), log.rules), strict=True):
        if (event := redactor.redacted(entry, "unfolded", raw)) is not None:
            found[entry.id] = event
    return found


def _note(raws: dict[str, RawEntry], redactor: Redactor, raw: RawEntry) -> None:
    if redactor.names_them(raw):
        raws[raw[0].decode()] = raw


def kinds(log: FoldedLog) -> dict[str, Kind]:
    """By entry id: how the fold treated each entry that it did not simply fold."""
    owned = log.ownership
    found: dict[str, Kind] = dict.fromkeys(owned.idle, "idle")
    found |= dict.fromkeys(owned.duplicates, "duplicate")
    found |= dict.fromkeys((*owned.unfolded, *log.excluded), "unfolded")
    return found


def hashes_of(belongings: Belongings, secret: bytes) -> list[str]:
    """Keyed hashes of the identifiers that nobody else has."""
    kinds = (
        ("externalId", belongings.external_ids),
        ("email", belongings.emails - belongings.shared_emails),
        ("visitorId", belongings.visitors - belongings.shared_visitors),
    )
    return sorted(hashed(secret, kind, each) for kind, identifiers in kinds for each in identifiers)


def recording_events(receipt: Receipt, plan: Plan) -> Iterator[bytes]:
    """The events that record an erasure in the log, none of them too large."""
    entries, contacts, identifiers = in_order(set(plan.redacted)), receipt.contact_ids, receipt.identifiers
    for first in range(0, max(len(entries), len(contacts), len(identifiers)), _ENTRIES_AN_EVENT):
        some = slice(first, first + _ENTRIES_AN_EVENT)
        yield encode_event(
            SubjectErased(
                erasure=receipt.erasure,
                contacts=contacts[some],
                entries=entries[some],
                identifiers=identifiers[some],
                by=receipt.by,
                reason=receipt.reason,
            )
        )


def _said_texts(entry: Entry, identifiers: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """The identifiers of these people as an entry writes them."""
    event = entry.event.kept if isinstance(entry.event, Erased) else entry.event
    if isinstance(event, VisitorIdentified | MetadataSet | IdentityCorrected):
        if isinstance(event.external_id, str) and id_key(event.external_id) in identifiers["externalId"]:
            yield event.external_id.strip()
        if isinstance(event.email, str) and email_key(event.email) in identifiers["email"]:
            yield event.email.strip()
    visitor_id = None
    if isinstance(event, VisitorIdentified | MetadataSet | VisitorSeen):
        visitor_id = event.visitor_id
    elif isinstance(event, IdentityCorrected):
        visitor_id = event.unlink_visitor_id
    if visitor_id is not None and id_key(visitor_id) in identifiers["visitorId"]:
        yield visitor_id.strip()
