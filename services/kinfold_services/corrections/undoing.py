"""Takes entries of the log back: it records in the log that a replay leaves them out, and replays (contract section 9)."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final, cast

import msgspec

from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.fold import fold
from kinfold_projections.identity import decide
from kinfold_projections.state import State
from kinfold_schemas.changes import Change, ContactErased, ContactGone, ContactsMerged
from kinfold_schemas.contacts import Contact, MergedContact
from kinfold_schemas.events import IdentityCorrected, VisitorIdentified
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.corrections.preview import ContactChange
from kinfold_services.history.moments import what_was_cut
from kinfold_services.history.past import Past
from kinfold_services.log.exclusions import record_exclusions
from kinfold_services.log.pages import log_extent
from kinfold_services.replay.rebuild import Progress
from kinfold_services.replay.replay import Replay
from kinfold_services.settings import Settings
from kinfold_services.state.queries import StateQueries

_AT_ONCE: Final = 1000


class NotInLog(LookupError):
    """The log has no such entry."""


class NotMerged(LookupError):
    """No event merged the contact."""


class TakenBack(msgspec.Struct, frozen=True, rename="camel"):
    """What taking entries back changes, or changed."""

    entries: list[str]
    excluded_by: str | None
    """The last entry that records it. None for a preview, and where the log left all of them out already."""
    contacts: list[ContactChange]
    """The contacts that differ."""
    folded: int
    """How many entries were folded again."""


async def take_back(  # noqa: PLR0913  who, why and how, by name
    client: Client,
    settings: Settings,
    rules: IdentifierRules,
    entries: Sequence[str],
    *,
    by: str,
    reason: str | None = None,
    dry_run: bool = False,
    advance: Progress = lambda _: None,
) -> TakenBack:
    """Take entries of a workspace's log back: exclude them for good, and rebuild the state without them.

    The entries may be corrections, events that merged two contacts, or `EventsExcluded` that took something back. With
    `dry_run` only tell what would change. It folds the whole log, so it takes as long as a replay. If it is ended halfway, the
    next try, or the next replay, completes it. `advance` gets numbers of folded entries.

    Raises:
        NotInLog: the log does not have one of the entries.
        WouldLose: the log has lost entries, and contacts would be lost with them; nothing was recorded.
        Replaced: another replay has begun; it leaves the entries out as well, or the next one does.

    """
    for entry in entries:
        if not _is_id(entry) or not await client.xrange(key(settings.workspace, "events"), entry, entry):
            raise NotInLog(f"entry: expected the id of an entry of the log, got {entry!r}")
    job = Replay(client, settings, rules, frozenset(entries))
    try:
        await job.build(advance)
        changes, excluded_by = await job.compare(), None
        before = await _stored(client, settings.workspace, changes)
        if not dry_run:
            await job.check_loss()
            unrecorded = [each for each in entries if each not in job.rebuild.excluded_by_log]
            excluded_by = await record_exclusions(client, settings.workspace, unrecorded, reason, by)
            changes = await job.replace(allow_lost=False)
    finally:
        await job.close()
    contacts = [_contact_change(each, before) for each in changes]
    return TakenBack(list(entries), excluded_by, contacts, job.rebuild.position.counts.entries)


def _subject(change: Change) -> str:
    return change.merged_contact_id if isinstance(change, ContactsMerged) else change.contact_id


async def _stored(client: Client, workspace: str, changes: Sequence[Change]) -> dict[str, Contact]:
    """The living contacts among those that changes are about, as they are stored."""
    found: dict[str, Contact] = {}
    for first in range(0, len(changes), _AT_ONCE):
        ids = [_subject(each) for each in changes[first : first + _AT_ONCE]]
        reply: Any = await client.hmget(key(workspace, "contacts"), ids)
        living = zip(ids, cast("list[bytes | None]", reply), strict=True)
        found.update({each: contact for each, data in living if data and (contact := StateQueries.living(data))})
    return found


def _contact_change(change: Change, before: dict[str, Contact]) -> ContactChange:
    subject = _subject(change)
    if isinstance(change, ContactsMerged):
        return ContactChange(subject, before.get(subject), None, change.contact_id)
    after = None if isinstance(change, ContactGone | ContactErased) else change.contact
    return ContactChange(subject, before.get(subject), after)


async def merging_entries(client: Client, settings: Settings, rules: IdentifierRules, merged_id: str) -> list[str]:
    """The entries that merge a contact into another one. Each would do it without the ones before.

    Folds the log in memory, and leaves each out when its turn comes. Raises NotMerged.
    """
    past = Past(client, settings, rules)
    end = (await log_extent(client, settings.workspace)).last
    exclusions = await past.exclusions(end)
    state, found = await past.beginning(tells=False), list[str]()
    baseline = await past.baseline()
    if baseline is not None and type(state.contacts.get(merged_id)) is MergedContact:
        raise NotMerged(
            f"contact: {merged_id} was merged by an event that was cut, so it stays merged: {what_was_cut(baseline)}"
        )
    async with aclosing(past.entries(end, exclusions)) as entries:
        async for _, entry in entries:
            if _merges(state, entry, merged_id):
                found.append(entry.id)
            else:
                fold(state, [entry])
    if not found:
        raise NotMerged(f"contact: expected the id of a contact that was merged into another one, got {merged_id!r}")
    return found


def _merges(state: State, entry: Entry | BadEntry, merged_id: str) -> bool:
    """Whether an entry would end the contact."""
    if isinstance(entry, BadEntry):
        return False
    names = entry.names
    if isinstance(entry.event, VisitorIdentified):
        decision = decide(state, names)
        return decision.rule == "merges" and decision.other.id == merged_id
    if isinstance(entry.event, IdentityCorrected) and names.merge_contact_id in state.contacts:
        merged = state.contact(names.merge_contact_id or "")
        return merged.id == merged_id and not _is_one(state, names.contact_id, merged_id)
    return False


def _is_one(state: State, contact_id: str | None, merged_id: str) -> bool:
    contact = state.contacts.get(contact_id or "")
    living = contact.merged_into if isinstance(contact, MergedContact) else contact_id
    return contact is None or state.find(living or "") == merged_id


def _is_id(text: str) -> bool:
    try:
        return "-" in text and text == "{}-{}".format(*position_key(text))
    except ValueError:
        return False
