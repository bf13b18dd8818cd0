"""What an entry writes: a contact's record only with a change on the feed, and the stamps that changed (contract section 6)."""

import msgspec
import pytest

from kinfold_projections.records import encode_record
from kinfold_projections.state import StateChanges
from kinfold_schemas.contacts import Visitor
from tests.support.folding import Event, Story, given, identified, metadata_set, moment, seen

ADA = "ada@example.org"
KNOWN = identified("u-1", ADA, "v-1", name="Ada", metadata={"plan": "pro"}, at=1)


def written(story: Story, event: Event) -> set[str]:
    """The parts of the state that folding the event writes, except counts."""
    story.state.take_changes()
    story.when(event)
    changes = story.state.take_changes()
    return {part for part in StateChanges.__struct_fields__ if isinstance(value := getattr(changes, part), dict) and value}


@pytest.mark.parametrize(
    "again",
    [
        identified("u-1", ADA, "v-1", name="Ada", metadata={"plan": "pro"}, at=9),
        identified("u-1", at=9),
        identified("u-1", ADA, at=9),
        identified("u-1", name="Ada", at=0.5),
        metadata_set(externalId="u-1", metadata={"plan": "pro"}, at=9),
        metadata_set(externalId="u-1", name="Ada", at=9),
        metadata_set(visitorId="v-1", metadata={"plan": "free"}, at=0.5),
    ],
)
def test_event_without_a_change_does_not_write_the_contact(again: Event) -> None:
    """No-ops and late events."""
    story = given(KNOWN)
    before = encode_record(story.contact(external_id="u-1"))
    assert "contacts" not in written(story, again)
    assert encode_record(story.contact(external_id="u-1")) == before


def test_no_op_writes_the_visitor_and_the_stamps_that_changed() -> None:
    """The events repeat its link and its metadata."""
    story = given(KNOWN)
    assert written(story, identified("u-1", visitor_id="v-1", at=9)) == {"visitors", "visitor_stamps"}
    assert written(story, metadata_set(externalId="u-1", metadata={"plan": "pro"}, at=9)) == {"contact_stamps"}
    assert written(story, metadata_set(visitorId="v-1", metadata={"plan": "pro"}, at=10)) == {"visitors", "contact_stamps"}


def test_no_op_writes_no_stamps_if_none_changed() -> None:
    """The same link at the same time, and an identification that only names the contact."""
    story = given(KNOWN)
    assert written(story, identified("u-1", visitor_id="v-1", at=1)) == {"visitors"}
    story.given(identified("u-1", visitor_id="v-1", at=9))
    assert written(story, identified("u-1", visitor_id="v-1", at=9)) == {"visitors"}
    assert written(story, identified("u-1", at=9)) == set()


def test_page_view_within_a_minute_only_writes_the_visitor() -> None:
    """Presence is emitted once a minute, and a contact is only written with a change on the feed."""
    story = given(KNOWN, seen("v-1", at=10))
    assert written(story, seen("v-1", at=69)) == {"visitors"}
    assert story.visitor().last_seen_at == moment(69)
    assert written(story, seen("v-1", at=70)) == {"visitors", "contacts", "contact_stamps"}


def test_page_view_of_an_anonymous_visitor_writes_the_visitor() -> None:
    """There is no contact yet."""
    assert written(Story(), seen("v-1")) == {"visitors"}
    assert written(given(seen("v-1", at=1)), seen("v-1", at=900)) == {"visitors"}


def test_contact_that_a_late_link_interrupts_is_not_written() -> None:
    """It keeps its visitor, its list and its seen times."""
    story = given(KNOWN, identified("u-2", at=1), identified("u-1", visitor_id="v-1", at=30))
    story.state.take_changes()
    story.when(identified("u-2", visitor_id="v-1", at=20)).then_nothing("folded")
    assert not story.state.take_changes().contacts


def test_contact_that_a_visitor_leaves_is_written_but_not_seen() -> None:
    """Its list of visitors changes, which is on the feed. The event is not about this contact."""
    story = given(KNOWN, identified("u-2", visitor_id="v-1", at=20))
    contact = story.contact(external_id="u-1")
    assert (contact.visitor_ids, contact.last_seen_at, contact.updated_at) == ([], moment(1), moment(20))


def test_visitor_is_stored_without_its_id_and_its_defaults() -> None:
    """Readers supply them."""
    story = given(seen("v-1", at=1))
    stored = encode_record(story.visitor())
    assert msgspec.json.decode(stored) == {"firstSeenAt": moment(1), "lastSeenAt": moment(1)}
    assert msgspec.json.decode(stored, type=Visitor) == Visitor(first_seen_at=moment(1), last_seen_at=moment(1))
