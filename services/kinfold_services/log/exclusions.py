"""Excluded entries: a fold leaves them out because an `EventsExcluded` names them (contract section 2)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from kinfold_projections.entries import EVENT_FIELD
from kinfold_schemas.codec import decode_event, encode_event
from kinfold_schemas.events import EventsExcluded
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.log.baseline import LogCut, read_baseline
from kinfold_services.log.pages import read_pages

_AT_ONCE: Final = 1000


def excludes(fields: Mapping[bytes, bytes]) -> EventsExcluded | None:
    """The `EventsExcluded` in an entry; None for any other entry."""
    data = fields.get(EVENT_FIELD)
    if data is None or not data.partition(b"EventsExcluded")[1]:  # `in` takes ten times as long (kinfold_schemas.codec)
        return None
    event = decode_event(data)
    return event if isinstance(event, EventsExcluded) else None


class Exclusions(NamedTuple):
    """The entries that a fold leaves out, and the id of the last `EventsExcluded` that was read ('' for none)."""

    entries: frozenset[str] = frozenset()
    last: str = ""
    too_late: frozenset[str] = frozenset()
    """Entries that the baseline contains already: nothing can leave them out any more."""


async def excluded_entries(client: Client, workspace: str, upto: str, also: frozenset[str] = frozenset()) -> Exclusions:
    """The entries that a fold of the log up to `upto` leaves out: those that `EventsExcluded` events name, and `also`.

    An exclusion does not count if a later one excludes it, so exclusions can be revoked. The baseline has those that were cut.
    """
    while True:
        baseline = await read_baseline(client, workspace)
        try:
            found = await exclusions_after(client, workspace, baseline.position if baseline is not None else "", upto)
        except LogCut:
            continue
        break
    cut_ones = frozenset(baseline.excluded) if baseline is not None else frozenset[str]()
    cut = position_key(baseline.position if baseline is not None else "")
    excluded = counting(found, also | cut_ones)
    too_late = frozenset(each for each in excluded - cut_ones if is_cut(each, cut))
    return Exclusions(frozenset(excluded), found[-1][0] if found else "", too_late)


def is_cut(entry_id: str, cut: tuple[int, int]) -> bool:
    """Whether an `EventsExcluded` names an entry up to this position; text that is not an id names no entry."""
    try:
        return (0, 0) <= position_key(entry_id) <= cut
    except ValueError:
        return False


async def exclusions_after(client: Client, workspace: str, after: str, upto: str) -> list[tuple[str, EventsExcluded]]:
    """The `EventsExcluded` of the log between two positions, with their ids. Raises LogCut."""
    return [
        (entry_id.decode(), event)
        async for page in read_pages(client, workspace, after, upto)
        for entry_id, fields in page
        if (event := excludes(fields)) is not None
    ]


def counting(found: Sequence[tuple[str, EventsExcluded]], also: frozenset[str]) -> set[str]:
    """What the exclusions that count name, and `also`."""
    excluded = set(also)
    for entry_id, event in reversed(found):
        if entry_id not in excluded:
            excluded.update(event.entries)
    return excluded


async def record_exclusions(
    client: Client, workspace: str, entries: Sequence[str], reason: str | None, by: str | None = None
) -> str | None:
    """Record in the log that every later replay leaves these entries out. Returns the last record's id; None for no entries."""
    recorded: str | None = None
    for first in range(0, len(entries), _AT_ONCE):
        event = EventsExcluded(entries=list(entries[first : first + _AT_ONCE]), reason=reason, by=by)
        reply: Any = await client.xadd(key(workspace, "events"), {"event": encode_event(event)})
        recorded = cast("bytes", reply).decode()
    return recorded
