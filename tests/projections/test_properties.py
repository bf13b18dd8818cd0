"""Properties that hold for every log, tested with random logs of Hypothesis (contract sections 3, 4, 6 and 8)."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinfold_projections import members
from kinfold_projections.entries import read_entry
from kinfold_projections.fold import fold
from kinfold_projections.outcomes import Outcome
from kinfold_projections.records import encode_record
from kinfold_projections.state import State
from kinfold_schemas.changes import encode_change
from kinfold_schemas.identifiers import email_key
from tests.support.feed_reader import FeedReader, contacts_of, shown_by
from tests.support.lengths import short_or_long
from tests.support.store import Store
from tests.support.strategies import Log, crowded_logs, log_of, logs, one_to_one_histories, read

FEW = settings(max_examples=short_or_long(50, 150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
MANY = settings(max_examples=short_or_long(100, 800), deadline=None, suppress_health_check=[HealthCheck.too_slow])
any_logs = st.one_of(logs(), crowded_logs(), crowded_logs())


def folded(log: Log) -> tuple[State, list[Outcome]]:
    """Fold a whole log into a new state."""
    state = State("default")
    return state, fold(state, read(log))


def stored(log: Log) -> tuple[Store, list[Outcome]]:
    """Fold the whole log with one state; returns what is stored, and the outcome of each entry."""
    state, outcomes = folded(log)
    store = Store()
    store.write(state.take_changes())
    return store, outcomes


def in_batches(log: Log, sizes: list[int]) -> tuple[Store, list[Outcome]]:
    """The same in batches of these sizes, each by a projector that only knows the stored data."""
    store, entries = Store(), read(log)
    outcomes: list[Outcome] = []
    sizes = [*sizes, len(entries)]
    while entries:
        size = sizes.pop(0)
        outcomes += store.fold_batch(entries[:size])
        entries = entries[size:]
    return store, outcomes


def check_batching(log: Log, sizes: list[int], listed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "LISTED_VISITORS", listed)
        whole, batched = stored(log), in_batches(log, sizes)
    assert batched[1] == whole[1]
    assert batched[0].content() == whole[0].content()
    for contact_id in whole[0].contacts:
        list(whole[0].memberships(contact_id))  # also checks the order of the sorted set


def check_feed(log: Log) -> None:
    state, outcomes = folded(log)
    reader = FeedReader()
    reader.read(outcomes)
    assert reader.contacts == contacts_of(state)
    for merged_id, contact_id in reader.merged.items():
        assert state.find(merged_id) == state.find(contact_id)


def check_order(history: list[dict[str, Any]], arrival: list[int]) -> None:
    """Fold the history in order, and in the order of arrival."""
    as_told, as_arrived = ([msgspec.json.encode(history[at]) for at in order] for order in (range(len(history)), arrival))
    gaps = [1000] * len(history)
    assert _people(folded(log_of(as_arrived, gaps))[0]) == _people(folded(log_of(as_told, gaps))[0])


@FEW
@given(logs())
def test_same_log_gives_the_same_bytes(log: Log) -> None:
    """Folding a log again gives the same records and changes, byte for byte."""
    (one, one_told), (other, other_told) = stored(log), stored(log)
    assert one.content() == other.content()
    assert _told(one_told) == _told(other_told)


@FEW
@given(logs(own_ids=True), st.data())
def test_repeated_entries_change_nothing(log: Log, data: st.DataObject) -> None:
    """With any entries appended again at any later place, the contacts are those of the log without them."""
    again = list(log)
    for copy in data.draw(st.lists(st.integers(0, max(0, len(log) - 1)), max_size=8 if log else 0)):
        first = again.index(log[copy])
        place = data.draw(st.integers(first + 1, len(again)))
        ms, seq = _id(again[place - 1])
        after = _id(again[place]) if place < len(again) else (ms + 2, 0)
        if (ms, seq + 1) < after:
            again.insert(place, (f"{ms}-{seq + 1}".encode(), log[copy][1]))
    assert stored(again)[0].content() == stored(log)[0].content()


@FEW
@given(one_to_one_histories(), st.data())
def test_order_of_arrival_does_not_change_people(history: list[dict[str, Any]], data: st.DataObject) -> None:
    """If all people have one external id, one address and their own devices, late events have the same effect as early ones."""
    check_order(history, data.draw(st.permutations(range(len(history)))))


@FEW
@given(any_logs, st.lists(st.integers(1, 8), max_size=10), st.sampled_from([1, 2, 3, 100]))
def test_batches_of_any_sizes_store_what_one_fold_stores(log: Log, sizes: list[int], listed: int) -> None:
    """A batch that loads only the keys it names stores, byte for byte, what one fold over everything stores.

    This includes contacts with more visitors than they list: the limit is lowered to reach it.
    """
    check_batching(log, sizes, listed)


@FEW
@given(any_logs)
def test_reader_of_the_feed_has_the_contacts(log: Log) -> None:
    """A dashboard that only reads the feed has the projector's contacts with every field."""
    check_feed(log)


@FEW
@given(any_logs)
def test_record_of_a_contact_is_written_if_and_only_if_the_feed_gets_a_change(log: Log) -> None:
    """For each entry, the written contacts are those in its changes, and the tombstones of the merged ones."""
    state = State("default")
    for entry in read(log):
        (outcome,) = fold(state, [entry])
        written = {each: msgspec.json.decode(data) for each, data in state.take_changes().contacts.items()}
        assert written == shown_by(outcome)


@FEW
@given(any_logs)
def test_replay_stores_what_the_live_fold_stores(log: Log) -> None:
    """A state that emits no changes writes the same records, and counts the same."""
    telling, replaying = State("default"), State("default", tells=False)
    told, replayed = fold(telling, read(log)), fold(replaying, read(log))
    stored = replaying.take_changes()
    stored.contacts = {each: encode_record(replaying.contacts[each]) for each in stored.contacts}
    assert stored == telling.take_changes()
    assert [outcome.changes for outcome in replayed] == [()] * len(log)
    assert replayed == [msgspec.structs.replace(outcome, changes=()) for outcome in told]


@FEW
@given(logs())
def test_version_counts_the_changes(log: Log) -> None:
    """The version of a contact is the number of its changes on the feed, except presence."""
    state, outcomes = folded(log)
    told: dict[str, int] = {}
    for change in (change for outcome in outcomes for change in outcome.changes):
        if type(change).__name__ != "ContactSeen":
            told[change.contact_id] = told.get(change.contact_id, 0) + 1
            assert change.version == told[change.contact_id]
    assert {contact.id: contact.version for contact in state.living_contacts()} == {
        contact.id: told[contact.id] for contact in state.living_contacts()
    }


@FEW
@given(any_logs)
def test_every_index_names_the_contact_that_has_it(log: Log) -> None:
    """External ids, addresses and visitors point to the contacts that have them, and vice versa."""
    state, _ = folded(log)
    contacts = list(state.living_contacts())
    external_ids = {each: state.find(contact_id) for each, contact_id in state.external_ids.items() if contact_id}
    shown = {contact.external_id: contact.id for contact in contacts if contact.external_id}
    assert external_ids | shown == external_ids  # it also has those of contacts that a correction merged
    assert {each: contact_id for each, contact_id in state.emails.items() if contact_id} == {
        email_key(contact.email): contact.id for contact in contacts if contact.email
    }
    for contact in contacts:
        whose = {
            visitor_id
            for visitor_id, visitor in state.visitors.items()
            if visitor.contact_id and state.find(visitor.contact_id) == contact.id
        }
        assert set(contact.visitor_ids) == whose
        assert contact.visitor_count == len(whose)


@FEW
@given(st.lists(st.one_of(st.binary(max_size=60), st.text(max_size=30).map(str.encode)), max_size=5), logs(max_size=6))
def test_arbitrary_bytes_do_not_affect_other_entries(noise: list[bytes], log: Log) -> None:
    """The fold never raises, and an entry that it cannot fold leaves no trace in the state."""
    bad = [(f"{number + 1}-0".encode(), {b"event": data}) for number, data in enumerate(noise)]
    assert stored(bad + log)[0].content() == stored(log)[0].content()


@FEW
@given(st.dictionaries(st.binary(max_size=8), st.binary(max_size=8), max_size=3))
def test_entry_with_arbitrary_fields_is_read(fields: dict[bytes, bytes]) -> None:
    """The fields of an entry may be anything."""
    assert read_entry(b"1-0", fields) is not None


@pytest.mark.slow
@MANY
@given(
    st.one_of(logs(max_size=60), crowded_logs(max_size=80)),
    st.lists(st.integers(1, 20), max_size=10),
    st.sampled_from([1, 2, 3, 100]),
)
def test_batches_and_feed_of_long_logs(log: Log, sizes: list[int], listed: int) -> None:
    """The two heaviest properties again, on many and longer logs."""
    check_batching(log, sizes, listed)
    check_feed(log)


@pytest.mark.slow
@MANY
@given(one_to_one_histories(), st.data())
def test_order_of_arrival_does_not_change_people_in_the_long_form(history: list[dict[str, Any]], data: st.DataObject) -> None:
    """With many more orders."""
    check_order(history, data.draw(st.permutations(range(len(history)))))


def _id(entry: tuple[bytes, Any]) -> tuple[int, int]:
    ms, _, seq = entry[0].decode().partition("-")
    return int(ms), int(seq)


def _told(outcomes: list[Outcome]) -> list[bytes]:
    return [encode_change(change) for outcome in outcomes for change in outcome.changes]


def _people(state: State) -> list[tuple[object, ...]]:
    """The contacts without their ids, versions, times, and the order of their visitors.

    Seen times depend on the order of arrival by less than a minute: a page view within a minute of the last one is not emitted.
    """
    return sorted(
        (
            contact.external_id or "",
            contact.email or "",
            contact.name,
            contact.image,
            encode_record(dict(sorted(contact.metadata.items()))),
            contact.metadata_hash,
            contact.visitor_count,
            sorted(contact.visitor_ids),
        )
        for contact in state.living_contacts()
    )
