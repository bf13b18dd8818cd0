"""Specifications of the fold: `Story().given(…).when(…).then(…)`.

Events are plain dictionaries, as producers write them. Entry n of a story's log arrives n seconds after `LOG_START_MS`
(`log_at(n)`). An event with `at=moment(3)` happened in the hour before, at its third second, so events can arrive in another
order than they happened.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Self

import msgspec

from kinfold_projections.entries import BadEntry, Entry, read_entry
from kinfold_projections.fold import fold
from kinfold_projections.outcomes import Outcome
from kinfold_projections.records import ContactRecord, ContactStamps, VisitorRecord
from kinfold_projections.state import State
from kinfold_schemas.changes import Change, decode_change, encode_change
from kinfold_schemas.identifiers import CONTRACT_RULES, IdentifierRules, email_key
from kinfold_schemas.times import to_text

Event = Mapping[str, Any]
"""One event in its wire format."""

STORY_START_MS: Final = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""
LOG_START_MS: Final = STORY_START_MS + 3_600_000


def moment(second: float) -> str:
    """A second of the story as an RFC 3339 string."""
    return to_text(STORY_START_MS + round(second * 1000))


def log_at(entry: int) -> str:
    """The arrival of entry `entry`, counted from 0, as an RFC 3339 string."""
    return to_text(LOG_START_MS + entry * 1000)


def seen(visitor_id: str = "v-1", *, at: float | None = None, **fields: Any) -> Event:
    """A VisitorSeen at a second of the story."""
    return _event("VisitorSeen", at, {"visitorId": visitor_id, **fields})


def identified(
    external_id: str | None = None,
    email: str | None = None,
    visitor_id: str | None = None,
    *,
    at: float | None = None,
    **fields: Any,
) -> Event:
    """A VisitorIdentified at a second of the story."""
    names = {"externalId": external_id, "email": email, "visitorId": visitor_id}
    return _event("VisitorIdentified", at, {**{key: value for key, value in names.items() if value}, **fields})


def metadata_set(*, at: float | None = None, **fields: Any) -> Event:
    """A MetadataSet at a second of the story."""
    return _event("MetadataSet", at, fields)


def entry_of(entry_id: str, event: Event | bytes, rules: IdentifierRules = CONTRACT_RULES) -> Entry | BadEntry:
    """A log entry with the event, read as the projector reads it."""
    return read_entry(entry_id.encode(), {b"event": wire(event)}, rules)


def wire(event: Event | bytes) -> bytes:
    """Encode an event as JSON."""
    return event if isinstance(event, bytes) else json.dumps(event).encode()


class Result:
    """The result of folding one entry."""

    def __init__(self, story: "Story", outcome: Outcome) -> None:
        self.story = story
        self.outcome = outcome

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes that go to the feed, as readers decode them."""
        return tuple(decode_change(encode_change(change)) for change in self.outcome.changes)

    def then(self, *expected: str | Mapping[str, Any]) -> Self:
        """Assert the changes, each given by its type or by some of its fields in their wire format."""
        assert self.outcome.rejection is None, self.outcome.rejection
        wanted = [{"type": change} if isinstance(change, str) else change for change in expected]
        actual = [msgspec.to_builtins(change) for change in self.changes]
        assert [change["type"] for change in actual] == [change["type"] for change in wanted]
        for number, fields in enumerate(wanted):
            assert {key: actual[number].get(key) for key in fields} == dict(fields)
        return self

    def then_nothing(self, kind: str = "no-op") -> Self:
        """Assert that there are no changes, and the kind of the outcome."""
        self.then()
        assert self.outcome.kind == kind
        return self

    def then_rejected(self, reason: str, *in_detail: str) -> Self:
        """Assert that the entry was rejected, the reason, and fragments of the sentence."""
        rejection = self.outcome.rejection
        assert rejection is not None, self.outcome
        assert self.outcome.kind == "rejected"
        assert rejection.reason == reason, rejection
        for part in in_detail:
            assert part in rejection.detail
        assert self.changes == ()
        return self


class Story:
    """A workspace in memory and the log that it was folded from."""

    def __init__(self, workspace: str = "default") -> None:
        self.state = State(workspace)
        self.length = 0

    def given(self, *events: Event | bytes) -> Self:
        """Fold the events that already happened."""
        for event in events:
            self.when(event)
        return self

    def when(self, event: Event | bytes, entry_id: str | None = None) -> Result:
        """Fold one more event, in the next entry of the log or in the entry with the given id."""
        entry_id = entry_id or f"{LOG_START_MS + self.length * 1000}-0"
        self.length += 1
        (outcome,) = fold(self.state, [entry_of(entry_id, event)])
        return Result(self, outcome)

    def contact(
        self, *, external_id: str | None = None, email: str | None = None, visitor_id: str | None = None
    ) -> ContactRecord:
        """The living contact with an external id, an address or a visitor."""
        if visitor_id is not None:
            contact_id = self.visitor(visitor_id).contact_id
            assert contact_id is not None, f"{visitor_id} is anonymous"
            return self.state.contact(contact_id)
        found = (
            self.state.by_external_id(external_id) if external_id is not None else self.state.by_email(email_key(email or ""))
        )
        assert found is not None, f"no contact has {external_id or email}"
        return found

    def visitor(self, visitor_id: str = "v-1") -> VisitorRecord:
        """The record of a visitor."""
        return self.state.visitors[visitor_id]

    def stamps(self, contact: ContactRecord) -> ContactStamps:
        """The data of a contact that only the fold uses."""
        return self.state.contact_stamps[contact.id]

    @property
    def emails(self) -> dict[str, str]:
        """The addresses that contacts hold: by key, the id of the contact."""
        return {email_key: contact_id for email_key, contact_id in self.state.emails.items() if contact_id is not None}

    @property
    def contacts(self) -> list[ContactRecord]:
        """All living contacts, sorted by id."""
        return sorted(self.state.living_contacts(), key=lambda contact: contact.id)

    def holders(self, visitor_id: str = "v-1") -> list[tuple[str | None, str]]:
        """A visitor's link history: the external id of each contact, and the start of the link."""
        links = self.visitor(visitor_id).links
        held = [(None if link.contact_id is None else self.state.contact(link.contact_id), link.since) for link in links]
        return [(None if contact is None else contact.external_id, since) for contact, since in held]


def given(*events: Event | bytes) -> Story:
    """Begin a story with these events."""
    return Story().given(*events)


def _event(kind: str, at: float | None, fields: Mapping[str, Any]) -> Event:
    when = {} if at is None else {"at": moment(at)}
    return {"type": kind, **when, **fields}
