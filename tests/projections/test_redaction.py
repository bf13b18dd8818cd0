"""What an erasure leaves of a log: everybody else's contacts, and nothing of the erased person (contract section 10)."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold_projections import duplicates
from kinfold_projections.entries import BadEntry, read_entry
from kinfold_projections.fold import fold
from kinfold_projections.ownership import Belongings, Ownership
from kinfold_projections.redaction import Redactor
from kinfold_projections.state import State
from kinfold_schemas.changes import encode_change
from kinfold_schemas.contacts import ERASED, MergedContact
from kinfold_schemas.identifiers import email_key, id_key
from tests.support.folding import LOG_START_MS
from tests.support.strategies import Log, crowded_logs, logs, marked_logs, read

SALT = "0123456789abcdef"


def erased(log: Log, belongings: Belongings, ownership: Ownership) -> Log:
    """The log as an erasure rewrites it."""
    redactor = Redactor("default", belongings, SALT)
    kinds: dict[str, Any] = dict.fromkeys(ownership.idle, "idle")
    kinds |= dict.fromkeys(ownership.unfolded, "unfolded") | dict.fromkeys(ownership.duplicates, "duplicate")
    rewritten: Log = []
    for raw in log:
        entry = read_entry(*raw)
        event = redactor.redacted(entry, kinds.get(entry.id, "folded"), raw)
        rewritten.append(raw if event is None else (raw[0], {b"event": event}))
    return rewritten


def folded(log: Log) -> State:
    """The state that the fold makes of a log."""
    state = State("default")
    fold(state, read(log))
    return state


def owned(log: Log) -> Ownership:
    """Whose the entries of a log are."""
    ownership = Ownership("default")
    ownership.fold(read(log))
    return ownership


@st.composite
def erasures(draw: st.DrawFn, source: st.SearchStrategy[Log]) -> tuple[Log, list[str]]:
    """A log, in which some events come from pages, and the people to erase one after the other."""
    log = draw(source)
    pages = draw(st.sets(st.integers(0, len(log)), max_size=4))
    log = [(each, _from_page(fields) if number in pages else fields) for number, (each, fields) in enumerate(log)]
    living = sorted(each.id for each in folded(log).living_contacts())
    return log, draw(st.lists(st.sampled_from(living), max_size=3, unique=True)) if living else []


def _from_page(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {b"event": fields[b"event"].replace(b'{"type"', b'{"source":"browser","type"', 1)}


@given(erasures(st.one_of(logs(), marked_logs(), crowded_logs())))
def test_everybody_elses_contacts_stay_byte_for_byte(case: tuple[Log, list[str]]) -> None:
    log, people = case
    for contact_id in people:
        before, ownership = folded(log), owned(log)
        belongings = ownership.belongings({contact_id})

        log = erased(log, belongings, ownership)

        after = folded(log)
        for contact in before.living_contacts():
            if contact.id not in belongings.contacts:
                assert msgspec.json.encode(after.contacts[contact.id]) == msgspec.json.encode(contact)
        for each in belongings.contacts:
            assert after.contacts[each] == MergedContact(each, ERASED)
        assert {each.id for each in after.living_contacts()} == {
            each.id for each in before.living_contacts() if each.id not in belongings.contacts
        }
        others = before.contacts.keys() - belongings.contacts
        assert {each: after.contacts.get(each) for each in others} == {each: before.contacts[each] for each in others}


@given(erasures(st.one_of(logs(), crowded_logs())))
def test_no_entry_names_the_person_any_more(case: tuple[Log, list[str]]) -> None:
    log, people = case
    if not people:
        return
    ownership = owned(log)
    belongings = ownership.belongings(set(people))

    rewritten = erased(log, belongings, ownership)

    visitors = belongings.visitors - belongings.shared_visitors
    emails = belongings.emails - belongings.shared_emails
    for entry_id, fields in rewritten:
        said = _said(fields[b"event"])
        assert said.get("externalId") is None or id_key(said["externalId"]) not in belongings.external_ids
        assert said.get("email") is None or email_key(said["email"]) not in emails
        for field in ("visitorId", "unlinkVisitorId"):
            assert said.get(field) is None or id_key(said[field]) not in visitors
        assert said.get("dismissConflict") is None or email_key(said["dismissConflict"]) not in emails
        if entry_id.decode() in belongings.entries:
            assert not {"name", "image", "metadata", "context", "externalId", "email"} & said.keys()
    assert not visitors & folded(rewritten).visitors.keys()


@given(erasures(marked_logs()))
def test_no_byte_of_the_person_is_left_in_the_log_the_state_or_the_feed(case: tuple[Log, list[str]]) -> None:
    """Each text of a log is told from all others. People are erased one after the other."""
    log, people = case
    gone = set[bytes]()
    for contact_id in people:
        ownership = owned(log)
        belongings = ownership.belongings({contact_id})
        gone |= texts_of(log, belongings, ownership)

        log = erased(log, belongings, ownership)

        state = State("default")
        outcomes = fold(state, read(log))
        feed = b"".join(encode_change(change) for outcome in outcomes for change in outcome.changes)
        parts = (state.contacts, state.contact_stamps, state.visitors, state.visitor_stamps, state.external_ids, state.emails)
        for data in (b"".join(fields[b"event"] for _, fields in log), feed, msgspec.json.encode(parts)):
            assert [text for text in gone if text in data] == []


def texts_of(log: Log, belongings: Belongings, ownership: Ownership) -> set[bytes]:
    """The texts of a log that nobody but these people has: free texts as they are, and identifiers in each spelling."""
    ids = {
        text
        for _, fields in log
        for text in _IDENTIFIER.findall(fields[b"event"])
        if id_key(text.decode()) in belongings.external_ids - belongings.shared_external_ids
        or id_key(text.decode()) in belongings.visitors - belongings.shared_visitors
        or email_key(text.decode()) in belongings.emails - belongings.shared_emails
    }
    own, others = set[bytes](), set[bytes]()
    did_nothing = {*ownership.unfolded, *ownership.idle}
    for entry_id, fields in log:
        entry, event = entry_id.decode(), fields[b"event"]
        is_own = entry in belongings.entries or (entry in did_nothing and any(each in event for each in ids))
        (own if is_own else others).update(_FREE_TEXT.findall(event))
    return ids | (own - others)


_IDENTIFIER = re.compile(rb"<[a-zA-Z]+-[0-9]>(?:@example\.org)?")
_FREE_TEXT = re.compile(rb"\$[0-9]+-[a-z]+")


@given(erasures(logs(own_ids=True)))
def test_late_resend_within_the_window_does_not_bring_anybody_back(case: tuple[Log, list[str]]) -> None:
    log, people = case
    ownership = owned(log)
    belongings = ownership.belongings(set(people))
    rewritten = erased(log, belongings, ownership)
    end = LOG_START_MS + 100_000_000
    resent = [
        (f"{end + number}-0".encode(), fields)
        for number, (_, fields) in enumerate(log)
        if b'"id"' in fields[b"event"] and not isinstance(read_entry(b"1-0", fields), BadEntry)
    ]

    state = State("default")
    fold(state, read(rewritten))
    before = msgspec.json.encode(state.contacts)
    outcomes = fold(state, read(resent))

    assert {each.kind for each in outcomes} <= {"duplicate"}
    assert msgspec.json.encode(state.contacts) == before


def test_late_resend_outside_the_window_is_a_new_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another contact id. Within the window it is a duplicate."""
    monkeypatch.setattr(duplicates, "WINDOW_ENTRIES", 4)
    sent = {"id": "e-1", "type": "VisitorIdentified", "externalId": "ada", "email": "ada@example.org"}
    log = _log(sent, {"type": "VisitorIdentified", "externalId": "ben"})
    ownership = owned(log)
    ada = _id_of(ownership, "ada")
    left = erased(log, ownership.belongings({ada}), ownership)

    within = folded(_log(*_events(left), sent))
    outside = folded(_log(*_events(left), *({"type": "VisitorSeen", "visitorId": "v"} for _ in range(8)), sent))

    assert "ada" not in within.external_ids
    again = outside.external_ids["ada"]
    assert again is not None
    assert again != ada
    assert outside.contacts[ada] == MergedContact(ada, ERASED)
    assert [each.external_id for each in outside.living_contacts()] == ["ben", "ada"]


def _said(event: bytes) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(event)
    except msgspec.DecodeError:
        return {}
    if not isinstance(said, dict):
        return {}
    return {**said, **said.get("kept", {})}


def test_conflict_over_an_erased_address_stays_a_conflict_of_the_other() -> None:
    log = _log(
        {"type": "VisitorIdentified", "externalId": "ada", "email": "ada@example.org"},
        {"type": "VisitorIdentified", "externalId": "ben"},
        {
            "id": "e-1",
            "type": "VisitorIdentified",
            "externalId": "ben",
            "email": "Ada@example.org",
            "metadata": {"plan": "pro"},
        },
        {"type": "VisitorIdentified", "externalId": "ben", "email": "ADA@example.org"},
    )
    ownership = owned(log)
    ada, ben = (_id_of(ownership, each) for each in ("ada", "ben"))

    rewritten = erased(log, ownership.belongings({ada}), ownership)

    kept = msgspec.json.decode(rewritten[2][1][b"event"])
    assert kept["kept"] == {"type": "VisitorIdentified", "externalId": "ben", "metadata": {"plan": "pro"}}
    assert kept["conflict"] == {"email": "1@erased.invalid", "heldBy": ada}
    assert folded(rewritten).contacts[ben] == folded(log).contacts[ben]
    assert b"example.org" not in b"".join(fields[b"event"] for _, fields in rewritten)


def test_page_that_named_the_visitor_of_an_erased_person_no_longer_does() -> None:
    log = _log(
        {"type": "VisitorIdentified", "externalId": "ada", "visitorId": "laptop"},
        {"type": "VisitorIdentified", "externalId": "ben", "visitorId": "laptop", "source": "browser", "name": "Ben"},
    )
    ownership = owned(log)
    ada, ben = (_id_of(ownership, each) for each in ("ada", "ben"))

    rewritten = erased(log, ownership.belongings({ada}), ownership)

    assert b"laptop" not in b"".join(fields[b"event"] for _, fields in rewritten)
    assert folded(rewritten).contacts[ben] == folded(log).contacts[ben]


def test_rejected_entries_and_duplicates_go_with_the_person() -> None:
    log = _log(
        {"id": "e-1", "type": "VisitorIdentified", "externalId": "ada", "email": "ada@example.org"},
        {"id": "e-1", "type": "VisitorIdentified", "externalId": "ada", "email": "ada@example.org"},
        {"type": "MetadataSet", "email": "ADA@example.org", "metadata": {"a": {}}},
        {"type": "MetadataSet", "email": "ben@example.org", "metadata": {"a": {}}},
    )
    log.append((f"{LOG_START_MS + 50_000}-0".encode(), {b"event": b"broken ada@example.org"}))
    ownership = owned(log)

    rewritten = erased(log, ownership.belongings({_id_of(ownership, "ada")}), ownership)

    events = [fields[b"event"] for _, fields in rewritten]
    assert [b"ada@" in each.lower() for each in events] == [False] * 5
    assert events[3] == log[3][1][b"event"]
    outcomes = fold(State("default"), read(rewritten))
    assert [each.kind for each in outcomes] == ["no-op", "no-op", "no-op", "rejected", "no-op"]


def test_nothing_that_did_nothing_names_the_person_any_more() -> None:
    """Events of other people that name hers: rejected ones, their duplicates, and unlinks of a visitor that is not theirs."""
    log = _log(
        {"type": "VisitorIdentified", "externalId": "ada", "email": "ada@example.org", "visitorId": "laptop"},
        {"type": "VisitorIdentified", "externalId": "ben"},
    )
    ada, ben = (_id_of(owned(log), each) for each in ("ada", "ben"))
    full = {f"key-{number}": "x" for number in range(10_000)}
    correction = {"type": "IdentityCorrected", "by": "Grace"}
    log = _log(
        *_events(log),
        {**correction, "contactId": ben, "unlinkVisitorId": "laptop"},
        {**correction, "contactId": "ct_nobody", "unlinkVisitorId": "laptop"},
        {**correction, "contactId": "ct_nobody", "dismissConflict": "ADA@example.org"},
        {**correction, "contactId": "ct_nobody", "mergeContactId": ada},
        {**correction, "contactId": ben, "externalId": "ada"},
        {"id": "e-1", "type": "VisitorIdentified", "externalId": "ben", "email": "ada@example.org", "metadata": full},
        {"id": "e-1", "type": "VisitorIdentified", "externalId": "ben", "email": "ada@example.org", "metadata": full},
        {"type": "VisitorIdentified", "externalId": "ben", "visitorId": "laptop", "metadata": full},
        {"id": "e-2", **correction, "contactId": "ct_nobody", "email": "ada@example.org"},
        {"id": "e-2", **correction, "contactId": "ct_nobody", "email": "ada@example.org"},
    )
    ownership = owned(log)

    rewritten = erased(log, ownership.belongings({ada}), ownership)

    events = [fields[b"event"] for _, fields in rewritten]
    assert [each for each in events[2:] if b"ada" in each or b"laptop" in each or ada.encode() in each] == []
    assert folded(rewritten).contacts[ben] == folded(log).contacts[ben]


def test_event_that_did_nothing_does_not_name_an_address_of_another_time() -> None:
    """A former address, and one that she gets later: no contact holds it when the other person's event names it."""
    full = {f"key-{number}": "x" for number in range(10_000)}
    people = _log(
        {"type": "VisitorIdentified", "externalId": "ada", "email": "former@ada.example"},
        {"type": "VisitorIdentified", "externalId": "ada", "email": "ada@example.org"},
        {"type": "VisitorIdentified", "externalId": "ben"},
    )
    ben = _id_of(owned(people), "ben")
    correction = {"type": "IdentityCorrected", "by": "Grace", "contactId": ben}
    log = _log(
        *_events(people),
        {**correction, "dismissConflict": "Former@ada.example"},
        {**correction, "externalId": "ada", "email": "later@ada.example"},
        {"type": "VisitorIdentified", "externalId": "ben", "email": "later@ada.example", "metadata": full},
        {"type": "VisitorIdentified", "externalId": "ada", "email": "later@ada.example"},
    )
    ownership = owned(log)

    rewritten = erased(log, ownership.belongings({_id_of(ownership, "ada")}), ownership)

    assert b"ada.example" not in b"".join(fields[b"event"] for _, fields in rewritten)
    assert folded(rewritten).contacts[ben] == folded(log).contacts[ben]


def test_entry_that_was_never_an_event_goes_where_it_holds_an_identifier_at_any_depth() -> None:
    """Also as a number, as a key, and as another spelling in bytes that are not JSON."""
    person = {"type": "VisitorIdentified", "externalId": "1815", "email": "ada@example.org"}
    log = _log(
        person,
        {"type": "identify", "userId": "u", "traits": {"email": "ADA@example.org"}},
        {"type": "VisitorIdentified", "externalId": 1815},
        {"type": "MetadataSet", "visitorId": "v", "metadata": {"ada@example.org": {}}},
        {"type": "identify", "userId": "ben", "traits": {"email": "ben@example.org"}},
    )
    log.append((f"{LOG_START_MS + 50_000}-0".encode(), {b"event": b"broken ADA@Example.org"}))
    log.append((f"{LOG_START_MS + 60_000}-0".encode(), {b"payload": b'{"to":["ada@example.org"]}'}))
    ownership = owned(log)

    rewritten = erased(log, ownership.belongings({_id_of(ownership, "1815")}), ownership)

    assert [each.get("occurred") for each in _events(rewritten)[1:]] == [False, False, False, None, False, False]
    assert rewritten[4] == log[4]


def test_what_a_correction_took_from_a_person_goes_when_that_person_is_erased_later() -> None:
    log = _log(
        {"type": "VisitorIdentified", "externalId": "ada"},
        {"type": "VisitorIdentified", "externalId": "ben", "email": "ben@example.org"},
    )
    ada, ben = (_id_of(owned(log), each) for each in ("ada", "ben"))
    took = {"type": "IdentityCorrected", "by": "Grace", "contactId": ada, "email": "ben@example.org", "take": True}
    log = _log(*_events(log), took)
    ownership = owned(log)
    log = erased(log, ownership.belongings({ada}), ownership)
    assert _events(log)[2]["takenEmail"] == "ben@example.org"
    ownership = owned(log)

    rewritten = erased(log, ownership.belongings({ben}), ownership)

    assert b"ben" not in b"".join(fields[b"event"] for _, fields in rewritten)


def test_correction_with_nothing_left_is_not_rejected() -> None:
    """It came too late for the address, and said nothing else."""
    log = _log(
        {"type": "VisitorIdentified", "externalId": "ada", "email": "ada@example.org"},
        {"type": "VisitorIdentified", "externalId": "ben"},
    )
    ada, ben = (_id_of(owned(log), each) for each in ("ada", "ben"))
    late = {"type": "IdentityCorrected", "by": "Grace", "contactId": ben, "at": "2025-01-01T00:00:00Z", "take": True}
    log = _log(*_events(log), {**late, "email": "ada@example.org"}, {**late, "email": "ada@example.org", "name": "Ben"})
    ownership = owned(log)

    rewritten = erased(log, ownership.belongings({ada}), ownership)

    assert b"ada@" not in b"".join(fields[b"event"] for _, fields in rewritten)
    assert [each.kind for each in fold(State("default"), read(rewritten))][2:] == ["no-op", "folded"]
    assert folded(rewritten).contacts[ben] == folded(log).contacts[ben]


def test_unlinked_visitor_that_somebody_else_uses_stays() -> None:
    """A correction says that the visitor is not hers any more. The other person may be erased as well, and then it goes."""
    log = _log({"type": "VisitorIdentified", "externalId": "ada", "visitorId": "laptop"})
    ada = _id_of(owned(log), "ada")
    log = _log(
        *_events(log),
        {"type": "IdentityCorrected", "by": "Grace", "contactId": ada, "unlinkVisitorId": "laptop"},
        {"type": "VisitorSeen", "visitorId": "laptop", "context": {"url": "/after"}},
    )
    before, ownership = folded(log), owned(log)

    log = erased(log, ownership.belongings({ada}), ownership)

    after = folded(log)
    assert after.visitors["laptop"].context == {"url": "/after"}
    assert after.visitors["laptop"].links == before.visitors["laptop"].links
    ownership = owned(log)
    assert "laptop" in ownership.anonymous
    log = erased(log, ownership.belongings((), {"laptop"}), ownership)
    assert b"laptop" not in b"".join(fields[b"event"] for _, fields in log)


def test_duplicate_of_an_event_that_is_not_in_the_log_goes_where_it_names_the_person() -> None:
    """A baseline stands for the event, and its window knows the duplicate."""
    event = {"id": "e-1", "type": "VisitorIdentified", "externalId": "ada"}
    (before,) = _log(event)
    state = folded([before])
    log = [(f"{LOG_START_MS + 50_000}-0".encode(), before[1])]
    ownership = Ownership("default", state)
    ownership.fold(read(log))
    assert len(ownership.duplicates) == 1

    rewritten = erased(log, ownership.belongings({_id_of(ownership, "ada")}), ownership)

    assert b"ada" not in rewritten[0][1][b"event"]


def test_correction_that_names_an_unidentified_visitor_goes_with_it() -> None:
    log = _log(
        {"type": "VisitorIdentified", "externalId": "ben"},
        {"type": "VisitorSeen", "visitorId": "laptop"},
    )
    ben = _id_of(owned(log), "ben")
    unlink = {"type": "IdentityCorrected", "by": "Grace", "contactId": ben, "unlinkVisitorId": "laptop"}
    log = _log(*_events(log), unlink)
    ownership = owned(log)

    rewritten = erased(log, ownership.belongings((), {"laptop"}), ownership)

    assert b"laptop" not in b"".join(fields[b"event"] for _, fields in rewritten)
    assert folded(rewritten).contacts == folded(log).contacts


def _id_of(ownership: Ownership, external_id: str) -> str:
    contact_id = ownership.state.external_ids[external_id]
    assert contact_id is not None
    return contact_id


def _events(log: Log) -> list[dict[str, Any]]:
    return [msgspec.json.decode(fields[b"event"]) for _, fields in log]


def _log(*events: dict[str, Any]) -> Log:
    return [
        (f"{LOG_START_MS + number * 1000}-0".encode(), {b"event": msgspec.json.encode(event)})
        for number, event in enumerate(events)
    ]
