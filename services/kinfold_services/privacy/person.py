"""Who a person is, and every entry of the log that belongs to them (contract section 10).

`fold_ownership` folds the log once in memory and notes whose each entry is. `find_people` then answers for any identifiers,
for an erasure, `kinfold subject` and retention. `own_entries` reads the entries themselves.

Memory: the whole state, and about 110 bytes for each entry.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

import msgspec

from kinfold_projections.batches import read_batch
from kinfold_projections.counts import Counts
from kinfold_projections.ownership import Belongings, Ownership
from kinfold_projections.records import ContactRecord
from kinfold_projections.refolding import Folding, Parts
from kinfold_schemas.identifiers import REMEMBERED_IDENTIFIERS, IdentifierRules, email_key, id_key
from kinfold_schemas.keys import key
from kinfold_schemas.positions import is_entry_id, position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.exclusions import excluded_entries, excludes
from kinfold_services.log.pages import log_extent, read_pages
from kinfold_services.log.streams import as_entries
from kinfold_services.settings import Settings
from kinfold_services.state.baseline import restore
from kinfold_services.state.queries import Identifier

_AT_ONCE: Final = 500
"""How many entries are read at once. The server takes 0.1 ms for them, and events wait for it."""
_FORGOTTEN_AFTER: Final = 100_000


class FoldedLog(msgspec.Struct):
    """A log, folded up to and with `upto`."""

    ownership: Ownership
    folding: Folding
    """What the fold gave, besides. Its state is that of `ownership`."""
    parts: Parts
    begins: str
    """The position of the baseline at which the fold began; '' is the log's beginning."""
    upto: str
    rules: IdentifierRules
    excluded: frozenset[str]
    """The entries that the log excludes. They are not folded, and belong to nobody."""
    last: RawEntry | None = None
    """The last entry that was read."""


class People(msgspec.Struct):
    """The people whom some identifiers name, and what is theirs."""

    found: dict[Identifier, str]
    """For each identifier that names somebody: the living contact's id, or the visitor's if nobody identified it."""
    missing: list[Identifier]
    """The identifiers that name nobody."""
    belongings: Belongings


async def fold_ownership(
    client: Client, settings: Settings, rules: IdentifierRules, progress: Callable[[int], None] = lambda _: None
) -> FoldedLog:
    """Fold the log up to its present end, and note whose each entry is. Raises NoLog."""
    extent = await log_extent(client, settings.workspace)
    remembering = IdentifierRules(rules.blocked, remembered=REMEMBERED_IDENTIFIERS)
    excluded = frozenset(extent.baseline.excluded if extent.baseline is not None else ())
    while True:
        ownership = Ownership(settings.workspace)
        if extent.baseline is not None:
            ownership = Ownership(settings.workspace, (await restore(client, settings.workspace, extent.baseline)).state)
        folding = Folding(ownership.state, counts=Counts(lost=extent.lost))
        log = FoldedLog(ownership, folding, Parts(), extent.begins, extent.last, remembering, excluded)
        if await _fold(client, settings.workspace, extent.begins, log, progress):
            return log
        # The log excludes entries that are folded already: begin again without them.
        excluded = (await excluded_entries(client, settings.workspace, extent.last)).entries


async def _fold(client: Client, workspace: str, begins: str, log: FoldedLog, progress: Callable[[int], None]) -> bool:
    """Fold the log; False where it excludes entries that are not left out."""
    ownership, folding, folded = log.ownership, log.folding, 0
    async with aclosing(read_pages(client, workspace, begins, log.upto, page_entries=_AT_ONCE)) as pages:
        async for page in pages:
            if any(_excludes_more(raw, log.excluded) for raw in page):
                return False
            batch = read_batch(page, log.rules, log.excluded)
            log.parts.note(batch.entries)
            folding.note(batch.entries, ownership.fold(batch.entries), batch.excluded)
            log.last = page[-1]
            folded += len(page)
            if folded >= _FORGOTTEN_AFTER:
                folding.take_changes()
                folded = 0
            progress(len(page))
    folding.take_changes()
    return True


def _excludes_more(raw: RawEntry, excluded: frozenset[str]) -> bool:
    """Whether the entry excludes entries that are not left out. An exclusion that is excluded itself does not count."""
    event = excludes(raw[1])
    return event is not None and raw[0].decode() not in excluded and not excluded.issuperset(event.entries)


def find_people(log: FoldedLog, identifiers: Iterable[Identifier]) -> People:
    """The people whom the identifiers name. Two identifiers may name one person.

    A visitor names the contact that holds it now; one that nobody identified is a person of its own.
    """
    found, missing = dict[Identifier, str](), list[Identifier]()
    contacts, visitors = set[str](), set[str]()
    for identifier in identifiers:
        contact_id = _contact_id(log.ownership, identifier)
        visitor_id = id_key(identifier.visitor) if identifier.visitor is not None else None
        if contact_id is not None:
            found[identifier] = contact_id
            contacts.add(contact_id)
        elif visitor_id is not None and visitor_id in log.ownership.anonymous:
            found[identifier] = visitor_id
            visitors.add(visitor_id)
        else:
            missing.append(identifier)
    return People(found, missing, log.ownership.belongings(contacts, visitors))


async def own_entries(client: Client, workspace: str, entries: Iterable[str]) -> AsyncGenerator[Sequence[RawEntry]]:
    """The entries with these ids, in the log's order, some at a time. Those that the log does not hold are left out.

    An id may be any text, because an `EventsExcluded` may name any.

    Changes `client` as `read_pages` does.
    """
    client.set_response_callback("XRANGE", cast("Any", as_entries))
    log = key(workspace, "events")
    ordered = sorted(filter(is_entry_id, entries), key=position_key)
    for first in range(0, len(ordered), _AT_ONCE):
        pipeline = client.pipeline(transaction=False)
        for entry_id in ordered[first : first + _AT_ONCE]:
            pipeline.xrange(log, entry_id, entry_id)
        yield [raw for found in await pipeline.execute() for raw in found]


def _contact_id(ownership: Ownership, identifier: Identifier) -> str | None:
    """The id of the living contact that an identifier names."""
    state = ownership.state
    contact: ContactRecord | None = None
    if identifier.visitor is not None:
        visitor = state.visitors.get(id_key(identifier.visitor))
        if visitor is not None and visitor.contact_id is not None:
            contact = state.holder(visitor.contact_id)
    elif identifier.external_id is not None:
        contact = state.by_external_id(id_key(identifier.external_id))
    elif identifier.email is not None:
        contact = state.by_email(email_key(identifier.email))
    elif identifier.contact in state.contacts:
        contact = state.holder(identifier.contact or "")
    return None if contact is None else contact.id
