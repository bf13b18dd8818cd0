"""The change feed (contract section 6)."""

import msgspec

from kinfold_schemas.changes import ContactSeen, decode_change, encode_change
from kinfold_schemas.contacts import Contact
from tests.support.feed_reader import FeedReader, contacts_of
from tests.support.folding import Event, Story, given, identified, log_at, metadata_set, moment, seen

ADA = "ada@example.org"
EVERYTHING: list[Event] = [
    seen("v-1", at=1),
    identified("u-1", ADA, "v-1", name="Ada", at=2),
    identified("u-2", None, "v-2", metadata={"plan": "pro"}, at=3),
    identified(None, "ben@example.org", "v-3", at=4),
    identified("u-3", visitor_id="v-4", at=5),
    identified("u-2", "ben@example.org", "v-4", unset=["plan"], at=6),
    identified("u-2", ADA, "v-1", at=7),
    metadata_set(email=ADA, metadata={"plan": "free"}, at=8),
    seen("v-1", at=9),
]


def test_changes_of_one_entry_come_in_the_order_of_the_contract() -> None:
    """Created, updated, linked, unlinked, merged, conflict."""
    given(*EVERYTHING[:5]).when(EVERYTHING[5]).then("ContactUpdated", "VisitorLinked", "VisitorUnlinked", "ContactsMerged")
    given(*EVERYTHING[:6]).when(EVERYTHING[6]).then("VisitorLinked", "VisitorUnlinked", "IdentityConflict")
    given(EVERYTHING[1]).when(identified("u-9", ADA, "v-1", at=9)).then(
        "ContactCreated", "VisitorLinked", "VisitorUnlinked", "IdentityConflict"
    )


def test_versions_begin_at_1_and_grow_by_1() -> None:
    """Each change of the contact counts, so one entry may add several."""
    story = given(identified("u-1", ADA, "v-1", at=1))
    one = story.contact(external_id="u-1")
    assert one.version == 2
    story.when(identified("u-2", visitor_id="v-1", at=2)).then(
        {"type": "ContactCreated", "version": 1},
        {"type": "VisitorLinked", "version": 2},
        {"type": "VisitorUnlinked", "version": 3, "contactId": one.id},
    )


def test_change_has_its_time_cause_and_contact() -> None:
    """`at` is the effective time, `cause` the id of the log entry, and `contact` the contact with `contactId`."""
    story = given(*EVERYTHING[:5])
    for change in story.when(EVERYTHING[5], "1767229299999-7").changes:
        fields = msgspec.to_builtins(change)
        assert (fields["at"], fields["cause"]) == (moment(6), "1767229299999-7")
        assert (fields["contact"]["id"], fields["contact"]["version"]) == (fields["contactId"], fields["version"])


def test_change_contains_the_whole_contact_after_the_entry() -> None:
    """So a dashboard needs no further query. Several changes of one entry differ only in the version."""
    story = given(EVERYTHING[0])
    created, linked = story.when(EVERYTHING[1]).changes
    contact = story.contact(external_id="u-1")
    assert msgspec.to_builtins(linked)["contact"] == msgspec.to_builtins(contact)
    assert msgspec.to_builtins(created)["contact"] == {**msgspec.to_builtins(contact), "version": 1}


def test_change_is_not_affected_by_later_entries() -> None:
    """They change the state, but not the changes that were emitted before."""
    story = given(EVERYTHING[0])
    changes = story.when(EVERYTHING[1]).changes
    before = [encode_change(change) for change in changes]
    story.given(*EVERYTHING[2:])
    assert [encode_change(change) for change in changes] == before


def test_contact_on_the_wire_has_the_fields_of_the_contract() -> None:
    """It has no others: the private fields of the fold are left out."""
    (change, _) = given(EVERYTHING[0]).when(EVERYTHING[1]).changes
    fields = msgspec.json.decode(encode_change(change))["contact"]
    assert list(fields) == [
        "id",
        "externalId",
        "email",
        "name",
        "image",
        "metadata",
        "metadataHash",
        "visitorCount",
        "visitorIds",
        "firstSeenAt",
        "lastSeenAt",
        "createdAt",
        "updatedAt",
        "version",
    ]
    assert tuple(Contact.__struct_encode_fields__) == tuple(fields)


def test_changed_lists_the_changed_fields() -> None:
    """Fields first, then metadata keys by name."""
    story = given(identified("u-1", metadata={"b": 1, "gone": 1}, at=1))
    event = identified("u-1", ADA, name="Ada", image="/a.png", metadata={"b": 2, "a": 1}, unset=["gone"], at=2)
    story.when(event).then(
        {"type": "ContactUpdated", "changed": ["email", "name", "image", "metadata.a", "metadata.b", "metadata.gone"]}
    )


def test_updated_at_is_the_greatest_effective_time_of_the_changes() -> None:
    """A late change does not move it back, and a no-op does not move it forward."""
    story = given(identified("u-1", name="Ada", at=5))
    story.when(metadata_set(externalId="u-1", metadata={"a": 1}, at=3)).then(
        {"type": "ContactUpdated", "at": moment(3), "version": 2}
    )
    story.given(identified("u-1", at=9))
    assert story.contact(external_id="u-1").updated_at == moment(5)


def test_presence_is_emitted_at_most_once_a_minute() -> None:
    """The minute is of effective time and per contact, across all its visitors."""
    story = given(identified("u-1", visitor_id="v-1", at=0), identified("u-1", visitor_id="v-2", at=0))
    version = story.contact(external_id="u-1").version
    story.when(seen("v-1", at=10)).then({"type": "ContactSeen", "version": version, "at": moment(10)})
    story.when(seen("v-2", at=20)).then_nothing("folded")
    story.when(seen("v-1", at=69.999)).then_nothing("folded")
    story.when(seen("v-2", at=70)).then({"type": "ContactSeen", "version": version})
    assert story.contact(external_id="u-1").last_seen_at == moment(70)


def test_late_presence_is_not_emitted() -> None:
    """A page view between the seen times on the feed says nothing new."""
    story = given(seen("v-1", at=500), identified("u-1", visitor_id="v-1", at=1000), seen("v-1", at=1001))
    story.when(seen("v-1", at=700)).then_nothing("folded")


def test_presence_before_the_first_seen_time_is_emitted() -> None:
    """At most once a minute, like any presence, because the record changes only with a change on the feed."""
    story = given(identified("u-1", visitor_id="v-1", at=1000), seen("v-1", at=1001))
    story.when(seen("v-1", at=941)).then_nothing("folded")
    story.when(seen("v-1", at=940)).then("ContactSeen")
    assert story.contact(external_id="u-1").first_seen_at == moment(940)
    assert story.contact(external_id="u-1").last_seen_at == moment(1001)


def test_first_page_view_of_a_contact_is_emitted_at_once() -> None:
    """Whether it was shortly before or after the identification."""
    for at in (1000, 1001, 970):
        given(identified("u-1", visitor_id="v-1", at=1000)).when(seen("v-1", at=at)).then("ContactSeen")


def test_late_presence_does_not_move_the_minute_back() -> None:
    """Presence in the past says nothing about the present."""
    story = given(identified("u-1", visitor_id="v-1", at=1000), seen("v-1", at=1000), seen("v-1", at=900))
    story.when(seen("v-1", at=1059)).then_nothing("folded")
    story.when(seen("v-1", at=840.001)).then_nothing("folded")
    story.when(seen("v-1", at=840)).then("ContactSeen")
    story.when(seen("v-1", at=1060)).then("ContactSeen")


def test_emitted_presence_is_stored() -> None:
    """Even if it changes no seen time. Otherwise a restarted projector would emit it again."""
    story = given(identified("u-1", visitor_id="v-1", at=1), identified("u-1", at=1000))
    story.state.take_changes()
    story.when(seen("v-1", at=500)).then("ContactSeen")
    assert story.state.take_changes().contacts.keys() == {contact.id for contact in story.contacts}


def test_anonymous_visitor_is_not_on_the_feed() -> None:
    """The feed is about contacts."""
    story = Story()
    for event in (seen("v-1"), metadata_set(visitorId="v-1", metadata={"a": 1})):
        assert story.when(event).changes == ()


def test_reader_of_the_feed_has_the_contacts() -> None:
    """Through creation, links, merges and conflicts; `test_properties` tests this for all logs."""
    story, reader = Story(), FeedReader()
    reader.read([story.when(event).outcome for event in EVERYTHING])
    assert {contact.external_id for contact in reader.contacts.values()} == {"u-1", "u-2", "u-3"}
    assert reader.contacts == contacts_of(story.state)


def test_changes_survive_a_round_trip() -> None:
    """Every change decodes to an equal one."""
    story = Story()
    changes = [change for event in EVERYTHING for change in story.when(event).changes]
    assert [decode_change(encode_change(change)) for change in changes] == changes
    assert any(isinstance(change, ContactSeen) for change in changes)


def test_event_without_a_time_has_that_of_its_entry() -> None:
    """On the feed, too."""
    given().when(identified("u-1")).then({"type": "ContactCreated", "at": log_at(0)})
