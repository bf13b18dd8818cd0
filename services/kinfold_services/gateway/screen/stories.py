"""What happened to a person, in plain words: the timeline, and where each value of the metadata comes from."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from kinfold_projections.directory_feed import ERASURE
from kinfold_schemas.directory import TimelineEntry
from kinfold_schemas.events import BROWSER
from kinfold_services.gateway.log_watch import Said
from kinfold_services.gateway.screen.listing import LABELS
from kinfold_services.gateway.screen.words import short

_METADATA: Final = "metadata."
_CALLED: Final = {"name": 0, "email": 1, "externalId": 2}
"""What a person is called by, the best first."""
_FIRST: Final = frozenset({"merge", "alert", "plus"})
"""The symbols of what an event is about; what it changed besides comes after."""
_UNSAID: Final = frozenset({"visitorIds", "visitorCount", "metadataHash", "firstSeenAt", "lastSeenAt", "updatedAt", "version"})
"""Fields whose change goes with another one, or with every visit."""


class Difference(NamedTuple):
    """A field before and after. `None` is a field that was not known, or is not any more."""

    label: str
    before: Any
    after: Any


class Told(NamedTuple):
    """One change: a symbol, a sentence, the differences, and another person whom it is about."""

    icon: str
    sentence: str
    differences: list[Difference]
    person: str | None = None
    rule: str = ""
    position: str = ""


class Event(NamedTuple):
    """What one log entry changed, with its time and its place in the log."""

    at: str
    cause: str
    changes: list[Told]


class Source(NamedTuple):
    """Since when a value holds, the log entry that set it, and who sent that."""

    at: str
    cause: str
    origin: str = ""


def told(entries: Iterable[TimelineEntry], contact_id: str) -> list[Event]:
    """The entries of a contact, and of those who were merged into it, in words. Those of one log entry are one event."""
    entries = list(entries)
    names = _names(entries)
    events: list[Event] = []
    for entry in entries:
        change = _told(entry, names, contact_id)
        if events and events[-1].cause == entry.cause and events[-1].at == entry.at:
            events[-1].changes.append(change)
        else:
            events.append(Event(entry.at, entry.cause, [change]))
    for event in events:
        event.changes.reverse()  # newest first among events, but in order within one
        event.changes.sort(key=lambda change: change.icon not in _FIRST)
    return events


def sources(entries: Iterable[TimelineEntry], contact_id: str) -> dict[str, Source]:
    """For each field of a contact, the newest of its own changes: `metadata.plan` to its source.

    `device v-1` is the link of a device, also to somebody who was merged into the contact later. Their other changes do not
    count, since it was the merge that gave the contact their values.
    """
    found: dict[str, Source] = {}
    for entry in entries:
        if entry.contact_id == contact_id:
            for changed in entry.details.get("changed", ()):
                found.setdefault(changed["field"], Source(entry.at, entry.cause))
        if entry.type == "VisitorLinked":
            found.setdefault(f"device {entry.details['visitorId']}", Source(entry.at, entry.cause))
    return found


def origin(said: Said) -> str:
    """Who sent an event, in words."""
    if isinstance(said.by, str):
        return f"{said.by[:80]}, by hand"
    return "a page" if said.source == BROWSER else "backend"


def _names(entries: list[TimelineEntry]) -> dict[str, str]:
    """What each person of the entries, the newest first, was called last: the name, else the address or the external id."""
    names: dict[str, tuple[int, str]] = {}
    for entry in reversed(entries):
        for changed in entry.details.get("changed", ()):
            given, rank = changed.get("after"), _CALLED.get(changed["field"])
            if rank is not None and isinstance(given, str) and names.get(entry.contact_id, (rank, ""))[0] >= rank:
                names[entry.contact_id] = rank, given
    return {contact_id: name for contact_id, (_, name) in names.items()}


def _told(entry: TimelineEntry, names: dict[str, str], contact_id: str) -> Told:  # noqa: C901, PLR0911  one for each type of change
    details, differences = entry.details, _differences(entry.details.get("changed", ()))
    rest: dict[str, Any] = {"rule": entry.rule, "position": entry.position}
    match entry.type:
        case "ContactCreated":
            is_other = entry.contact_id != contact_id
            known = f"{names.get(entry.contact_id) or short(entry.contact_id)} became known" if is_other else "Became known"
            return Told("plus", known, differences, **rest)
        case "ContactUpdated" if differences:
            return Told("edit", f"{_listed([each.label for each in differences])} changed", differences, **rest)
        case "ContactUpdated" if entry.cause == ERASURE:
            return Told("edit", "Something changed that was erased since with another person", [], **rest)
        case "ContactUpdated":
            is_order = any(each["field"] == "visitorIds" for each in details.get("changed", ()))
            said = (
                ("desktop", "The order of the devices changed") if is_order else ("retry", "Built again by a replay of the log")
            )
            return Told(*said, [], **rest)
        case "VisitorLinked":
            before = details.get("previousContactId")
            came = f", and came from {short(before)}" if before else ""
            return Told("link", f"Device {details['visitorId']} was linked{came}", differences, before, **rest)
        case "VisitorUnlinked" if "nextContactId" not in details:
            return Told("link", f"Device {details['visitorId']} was unlinked", differences, **rest)
        case "VisitorUnlinked":
            next_id = details["nextContactId"]
            return Told("link", f"Device {details['visitorId']} moved on to {short(next_id)}", differences, next_id, **rest)
        case "ContactsMerged":
            merged = details["mergedContactId"]
            other = names.get(merged) or short(merged)
            return Told("merge", f"Turned out to be the same person as {other}; both are one now", differences, **rest)
        case "IdentityConflict":
            holder = details["heldBy"]
            why = "too many people were merged into this one already" if details.get("reason") else "another person has it"
            return Told("alert", f"Did not get the address {details['email']}: {why}", differences, holder, **rest)
        case "ConflictDismissed":
            return Told("alert", f"Conflict about {details['email']} was dismissed", differences, details["heldBy"], **rest)
        case "ContactGone":
            return Told("alert", "Disappeared in a replay of the log", differences, **rest)
        case _:
            return Told("edit", entry.type, differences, **rest)


def _differences(changed: Iterable[dict[str, Any]]) -> list[Difference]:
    return [
        Difference(_label(each["field"]), _side(each, "before"), _side(each, "after"))
        for each in changed
        if each["field"] not in _UNSAID
    ]


def _side(changed: dict[str, Any], side: str) -> Any:
    """A value of a change. None if there was none: the null of the metadata is a value."""
    return None if side not in changed else "null" if changed[side] is None else changed[side]


def _label(name: str) -> str:
    return name.removeprefix(_METADATA) if name.startswith(_METADATA) else LABELS.get(name, name)


def _listed(labels: list[str]) -> str:
    if len(labels) > 3:  # noqa: PLR2004  more do not read as a sentence
        return f"{labels[0]}, {labels[1]} and {len(labels) - 2} more"
    return " and ".join([*([", ".join(labels[:-1])] if labels[1:] else []), labels[-1]])
