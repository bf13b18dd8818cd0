"""Fold a log with the fold and with the model: the first difference, and the smallest log that still shows it."""

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from kinfold_projections import fold
from kinfold_projections.entries import read_entries
from kinfold_projections.outcomes import Outcome
from kinfold_projections.records import encode_record
from kinfold_projections.state import State
from kinfold_schemas.canonical import metadata_hash
from kinfold_schemas.changes import decode_change, encode_change
from kinfold_schemas.contacts import Visitor
from tests.model.contract import Model, ms
from tests.model.limits import limited
from tests.model.logs import WORKSPACE, Event, Log, LoggedEvent

Values = dict[str, Any]
_ms: Final = cache(ms)


class Difference(NamedTuple):
    """Where the fold and the model differ, and the value of each."""

    where: str
    fold: object
    model: object


def of_fold(log: Log) -> Values:
    """The result of the fold in the model's form: folded in batches, with the last written form of each record."""
    state = State(WORKSPACE)
    outcomes: list[Outcome] = []
    contacts: dict[str, bytes] = {}
    visitors: dict[str, bytes] = {}
    entries = read_entries([(entry.encode(), {b"event": json.dumps(event).encode()}) for entry, event in log.entries])
    size = 1 + len(entries) % 7
    with limited(log.limits):
        for first in range(0, len(entries), size):
            outcomes += fold.fold(state, entries[first : first + size])
            changes = state.take_changes()
            contacts |= changes.contacts
            visitors |= {each: encode_record(visitor) for each, visitor in changes.visitors.items()}
    feed = [msgspec.to_builtins(decode_change(encode_change(change))) for outcome in outcomes for change in outcome.changes]
    return {
        "contacts": {each: _contact(state, json.loads(data)) for each, data in contacts.items()},
        "visitors": {each: _visitor(state, msgspec.json.decode(data, type=Visitor)) for each, data in visitors.items()},
        "externalIds": {each: state.find(contact_id) for each, contact_id in state.external_ids.items() if contact_id},
        "emails": {each: state.find(contact_id) for each, contact_id in state.emails.items() if contact_id},
        "feed": [{**change, "at": _ms(change["at"]), "contact": _in_ms(change["contact"])} for change in feed],
        "rejects": [
            (entry, outcome.rejection.reason)
            for (entry, _), outcome in zip(log.entries, outcomes, strict=True)
            if outcome.rejection is not None
        ],
        "blocked": sum(outcome.blocked for outcome in outcomes),
        "duplicates": sum(outcome.kind == "duplicate" for outcome in outcomes),
        "ids_reused": sum(outcome.id_reused for outcome in outcomes),
        "untrusted": sum(outcome.untrusted for outcome in outcomes),
    }


def _contact(state: State, contact: Values) -> Values:
    return {**contact, "mergedInto": state.find(contact["id"])} if "mergedInto" in contact else _in_ms(contact)


def _visitor(state: State, visitor: Visitor) -> Values:
    return {
        "contactId": state.find(visitor.contact_id) if visitor.contact_id else None,
        "links": [(link.contact_id and state.find(link.contact_id), _ms(link.since)) for link in visitor.links],
        "name": visitor.name,
        "image": visitor.image,
        "metadata": metadata_hash(visitor.metadata),
        "context": metadata_hash(visitor.context),
        "firstSeenAt": _ms(visitor.first_seen_at),
        "lastSeenAt": _ms(visitor.last_seen_at),
    }


def of_model(log: Log) -> Values:
    """The result of the model."""
    model = Model(WORKSPACE, log.limits, log.originals)
    for entry, event in log.entries:
        model.apply(entry, event)
    return model.whole()


def difference(log: Log) -> Difference | None:
    """The first difference. Differences that cause others come first."""
    got, want = of_fold(log), of_model(log)
    if got == want:
        return _feed_alone(got)
    return next(_differences(got, want))


def _differences(got: Values, want: Values) -> Iterator[Difference]:
    yield from _unequal(got, want, "rejects", "duplicates", "ids_reused", "blocked", "untrusted")
    for part in ("contacts", "visitors"):
        if got[part].keys() != want[part].keys():
            yield Difference(part, sorted(got[part].keys() - want[part].keys()), sorted(want[part].keys() - got[part].keys()))
        for each, expected in want[part].items():
            shown: Values = got[part].get(each, {})
            for name, value in expected.items():
                if shown.get(name) != value:
                    yield Difference(f"{part}.{name}", shown.get(name), value)
    yield from _unequal(got, want, "externalIds", "emails")
    for one, other in zip(got["feed"], want["feed"], strict=False):
        for name in sorted({**other, **one}):
            if one.get(name) != other.get(name):
                yield Difference(f"feed.{name}", one, other)
    yield Difference("feed.length", [each["type"] for each in got["feed"]], [each["type"] for each in want["feed"]])


def _unequal(got: Values, want: Values, *parts: str) -> Iterator[Difference]:
    return (Difference(part, got[part], want[part]) for part in parts if got[part] != want[part])


def _feed_alone(got: Values) -> Difference | None:
    """Section 6: a reader that only applies the feed in order holds every field of the contacts; versions count up."""
    held: Values = {}
    versions: Counter[str] = Counter()
    for change in got["feed"]:
        contact_id = change["contactId"]
        versions[contact_id] += change["type"] != "ContactSeen"
        if not change["version"] == versions[contact_id] == change["contact"]["version"]:
            return Difference("feed alone.version", change["version"], versions[contact_id])
        held[contact_id] = change["contact"]
        if change["type"] == "ContactsMerged":
            held[change["mergedContactId"]] = {"mergedInto": contact_id}
    for contact_id, contact in got["contacts"].items():
        if contact.get("mergedInto") == contact_id:  # erased: the feed tells of the erasure, and not of the entry
            continue
        shown = held.get(contact_id, {})
        if ("mergedInto" not in shown) if "mergedInto" in contact else shown != contact:
            return Difference("feed alone.contact", shown, contact)
    return None


def smallest(log: Log, found: Difference) -> Log:
    """The log without everything that the difference does not need."""

    def differs(entries: list[LoggedEvent]) -> bool:
        now = difference(log._replace(entries=entries)) if entries else None
        return now is not None and now.where == found.where

    entries = _fewest(copy.deepcopy(log.entries), differs)
    changed = True
    while changed:
        changed = False
        for index, (entry, event) in enumerate(entries):
            for smaller in _smaller(event):
                trial = [*entries[:index], (entry, smaller), *entries[index + 1 :]]
                if differs(trial):
                    entries, changed = trial, True
                    break
    return log._replace(entries=entries)


def _fewest(entries: list[LoggedEvent], differs: Callable[[list[LoggedEvent]], bool]) -> list[LoggedEvent]:
    size = max(1, len(entries) // 2)
    while size:
        index = 0
        while index < len(entries):
            trial = entries[:index] + entries[index + size :]
            if differs(trial):
                entries = trial
            else:
                index += size
        size //= 2
    return entries


def _smaller(event: Event) -> Iterator[Event]:
    if event.get("type") == "Erased":  # its hashes stand for the whole event that was there
        return
    for name in event:
        if name != "type":
            yield {key: value for key, value in event.items() if key != name}
    for name, items in event.items():
        for item in list(items)[:60] if name in {"metadata", "unset"} and items else ():
            without = (
                {key: items[key] for key in items if key != item} if name == "metadata" else [e for e in items if e != item]
            )
            yield {**event, name: without}


def _in_ms(contact: Values) -> Values:
    return {name: _ms(value) if name.endswith("At") else value for name, value in contact.items()}
