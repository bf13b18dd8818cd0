"""Merging contact E into T when an event names both (contract section 5, Merging)."""

import pytest

from kinfold_schemas.contacts import MergedContact
from tests.support.folding import Event, Story, given, identified, metadata_set, moment, seen

ADA = "ada@example.org"
MERGE = identified("u-1", ADA, at=10)


def two(x: Event | None = None, e: Event | None = None) -> Story:
    """A contact X with an external id, and a contact E with an address."""
    return given(x or identified("u-1", visitor_id="v-x", at=2), e or identified(None, ADA, "v-e", at=1))


def test_id_of_t_survives_and_e_becomes_a_tombstone() -> None:
    """The old id still finds the living contact."""
    story = two()
    x, e = story.contact(external_id="u-1").id, story.contact(email=ADA).id
    story.given(MERGE)
    assert story.state.contacts[e] == MergedContact(e, x)
    story.when(metadata_set(contactId=e, metadata={"a": 1})).then({"type": "ContactUpdated", "contactId": x})


def test_visitors_of_e_resolve_to_t() -> None:
    """Current visitors and their events; the records of the visitors do not change."""
    story = two()
    before = story.visitor("v-e").links
    story.given(MERGE)
    contact = story.contact(visitor_id="v-e")
    assert (contact.external_id, contact.visitor_count, contact.visitor_ids) == ("u-1", 2, ["v-x", "v-e"])
    assert story.visitor("v-e").links is before
    story.when(metadata_set(visitorId="v-e", metadata={"a": 1})).then({"type": "ContactUpdated", "contactId": contact.id})


def test_past_visitors_of_e_resolve_to_t() -> None:
    """A device that has moved belonged to T while it belonged to E."""
    story = two(e=identified(None, ADA, "v-1", at=1)).given(identified("u-2", visitor_id="v-1", at=5), MERGE)
    assert story.holders() == [("u-1", moment(1)), ("u-2", moment(5))]
    story.when(metadata_set(visitorId="v-1", metadata={"a": 1}, at=3)).then("ContactUpdated")
    assert story.contact(external_id="u-1").metadata == {"a": 1}
    assert story.contact(external_id="u-1").visitor_ids == ["v-x"]


def test_visitor_of_both_does_not_move() -> None:
    """They are one contact now, so another identification is a no-op."""
    story = two().given(MERGE)
    story.when(identified("u-1", visitor_id="v-e", at=11)).then_nothing()
    story.when(identified("u-2", visitor_id="v-e", at=12)).then("ContactCreated", "VisitorLinked", "VisitorUnlinked")
    assert story.contact(external_id="u-1").visitor_ids == ["v-x"]


def test_event_may_name_a_visitor() -> None:
    """A visitor of E, of T, of a third contact, or an unknown one."""
    story = two().given(identified("u-3", visitor_id="v-3", at=3))
    story.when(identified("u-1", ADA, "v-3", at=10)).then(
        "ContactUpdated",
        {"type": "VisitorLinked", "visitorId": "v-3", "previousContactId": story.contact(external_id="u-3").id},
        {"type": "VisitorUnlinked", "contactId": story.contact(external_id="u-3").id},
        "ContactsMerged",
    )
    two().when(identified("u-1", ADA, "v-e", at=10)).then("ContactUpdated", "ContactsMerged")
    two().when(identified("u-1", ADA, "v-new", at=10)).then("ContactUpdated", "VisitorLinked", "ContactsMerged")


def test_earlier_address_becomes_free() -> None:
    """T had another address: the later one stays, and the earlier one belongs to no contact."""
    story = two(x=identified("u-1", "old@example.org", at=2)).given(MERGE)
    assert story.contact(external_id="u-1").email == ADA
    assert story.emails.keys() == {ADA}

    story = two(x=identified("u-1", "newer@example.org", at=20)).given(MERGE)
    assert story.contact(external_id="u-1").email == "newer@example.org"
    assert story.emails.keys() == {"newer@example.org"}
    story.when(identified("u-2", ADA)).then("ContactCreated")


@pytest.mark.parametrize(("x_at", "e_at", "winner"), [(1, 2, "E"), (2, 1, "X"), (1, 1, "X")])
def test_metadata_name_and_image_are_merged_by_effective_time(x_at: float, e_at: float, winner: str) -> None:
    """Each key separately; at equal times the survivor's value stays."""
    story = two(
        x=identified("u-1", name="X", image="/X", metadata={"both": "X", "x": 1}, at=x_at),
        e=identified(None, ADA, name="E", image="/E", metadata={"both": "E", "e": 2}, at=e_at),
    ).given(MERGE)
    contact = story.contact(external_id="u-1")
    assert (contact.name, contact.image) == (winner, f"/{winner}")
    assert contact.metadata == {"both": winner, "x": 1, "e": 2}


def test_address_of_the_survivor_stays_at_equal_times() -> None:
    """A late event finds the other contact by its address, but does not name that address again."""
    story = two(x=identified("u-1", "own@example.org", at=20), e=identified(None, ADA, at=20))
    story.when(identified("u-1", ADA, at=10)).then("ContactsMerged")
    assert story.contact(external_id="u-1").email == "own@example.org"
    assert story.emails.keys() == {"own@example.org"}


def test_address_that_the_event_names_is_taken_at_equal_times() -> None:
    """The event is the later entry."""
    story = two(x=identified("u-1", "own@example.org", at=20), e=identified(None, ADA, at=20))
    story.when(identified("u-1", ADA, at=20)).then("ContactUpdated", "ContactsMerged")
    assert story.contact(external_id="u-1").email == ADA


def test_removal_of_the_survivor_stays_at_equal_times() -> None:
    """A removed key has a time like any other."""
    story = two(
        x=metadata_set(externalId="u-1", unset=["plan"], at=2),
        e=identified(None, ADA, metadata={"plan": "pro"}, at=2),
    ).given(MERGE)
    assert story.contact(external_id="u-1").metadata == {}


def test_key_that_was_removed_later_stays_removed() -> None:
    """Removals are merged by effective time, too."""
    story = two(
        x=metadata_set(externalId="u-1", unset=["plan"], at=3),
        e=identified(None, ADA, metadata={"plan": "pro"}, at=2),
    ).given(MERGE)
    assert story.contact(external_id="u-1").metadata == {}


def test_values_of_the_event_are_the_newest() -> None:
    """It names both contacts and sets more."""
    story = two(e=identified(None, ADA, name="E", metadata={"plan": "free"}, at=1))
    story.when(identified("u-1", ADA, name="Ada", metadata={"plan": "pro"}, at=10)).then(
        {"type": "ContactUpdated", "changed": ["email", "name", "metadata.plan"]}, "ContactsMerged"
    )


def test_seen_and_created_times_are_merged() -> None:
    """The least `firstSeenAt` and `createdAt`, and the greatest `lastSeenAt`."""
    story = two(x=identified("u-1", at=5), e=identified(None, ADA, "v-e", at=3)).given(seen("v-e", at=1), seen("v-e", at=90))
    story.given(MERGE)
    contact = story.contact(external_id="u-1")
    assert (contact.first_seen_at, contact.created_at, contact.last_seen_at) == (moment(1), moment(3), moment(90))


def test_presence_is_still_emitted_once_a_minute() -> None:
    """The merged contact was just seen."""
    story = two().given(seen("v-e", at=100), MERGE)
    story.when(seen("v-x", at=130)).then_nothing("folded")
    story.when(seen("v-x", at=160)).then("ContactSeen")


def test_many_contacts_are_merged_into_one() -> None:
    """One after another: every old id finds the living contact, which has all their visitors."""
    story = given()
    ids: list[str] = []
    for number in range(25):
        story.given(identified(None, f"a{number}@example.org", f"v-{number}", at=number))
        ids.append(story.contact(email=f"a{number}@example.org").id)
        story.given(identified("u-1", f"a{number}@example.org", at=number + 0.5))
    living = story.contact(external_id="u-1")
    assert {story.state.find(contact_id) for contact_id in ids} == {living.id}
    assert living.visitor_ids == [f"v-{number}" for number in reversed(range(25))]


def test_old_id_finds_the_living_contact_through_a_chain() -> None:
    """Events cannot make a chain, because a contact that merges others has an external id. But a stored chain is followed."""
    story = two()
    x, e = story.contact(external_id="u-1").id, story.contact(email=ADA).id
    chain = [f"ct_{number:026}" for number in range(50)]
    tombstones = [MergedContact(one, other) for one, other in zip(chain, [*chain[1:], e], strict=True)]
    story.state.contacts.update({each.id: each for each in tombstones})
    story.given(MERGE)
    story.when(metadata_set(contactId=chain[0], metadata={"a": 1})).then({"type": "ContactUpdated", "contactId": x})


def test_link_to_the_merged_contact_is_one_to_the_living_contact() -> None:
    """A late identification of T confirms the link to E: it neither adds a link nor ends the later one."""
    story = two().given(MERGE, identified("u-2", visitor_id="v-e", at=20))
    story.when(identified("u-1", visitor_id="v-e", at=15)).then_nothing()
    assert story.holders("v-e") == [("u-1", moment(1)), ("u-2", moment(20))]


def test_repeated_merge_is_a_no_op() -> None:
    """The same event later: E is T."""
    two().given(MERGE).when(identified("u-1", ADA, at=11)).then_nothing()
