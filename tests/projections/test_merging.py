"""Merging E into T, where an event names both (contract section 5, Merging)."""

import pytest

from kinfold_schemas.contacts import MergedContact
from tests.support.folding import Event, Story, given, identified, metadata_set, moment, seen

ADA = "ada@example.org"
MERGE = identified("u-1", ADA, at=10)


def two(x: Event | None = None, e: Event | None = None) -> Story:
    """A contact X known by an external id, and a contact E known by an address."""
    return given(x or identified("u-1", visitor_id="v-x", at=2), e or identified(None, ADA, "v-e", at=1))


def test_t_s_id_survives_and_e_is_a_tombstone() -> None:
    """An old id always finds the living contact."""
    story = two()
    x, e = story.contact(external_id="u-1").id, story.contact(email=ADA).id
    story.given(MERGE)
    assert story.state.contacts[e] == MergedContact(e, x)
    story.when(metadata_set(contactId=e, metadata={"a": 1})).then({"type": "ContactUpdated", "contactId": x})


def test_e_s_visitors_resolve_to_t() -> None:
    """Present ones, with what comes from them; their own records are not touched."""
    story = two()
    before = story.visitor("v-e").links
    story.given(MERGE)
    contact = story.contact(visitor_id="v-e")
    assert (contact.external_id, contact.visitor_count, contact.visitor_ids) == ("u-1", 2, ["v-x", "v-e"])
    assert story.visitor("v-e").links is before
    story.when(metadata_set(visitorId="v-e", metadata={"a": 1})).then({"type": "ContactUpdated", "contactId": contact.id})


def test_e_s_past_visitors_resolve_to_t() -> None:
    """A device that has moved on was T's while it was E's."""
    story = two(e=identified(None, ADA, "v-1", at=1)).given(identified("u-2", visitor_id="v-1", at=5), MERGE)
    assert story.holders() == [("u-1", moment(1)), ("u-2", moment(5))]
    story.when(metadata_set(visitorId="v-1", metadata={"a": 1}, at=3)).then("ContactUpdated")
    assert story.contact(external_id="u-1").metadata == {"a": 1}
    assert story.contact(external_id="u-1").visitor_ids == ["v-x"]


def test_a_visitor_of_both_does_not_move() -> None:
    """They are one contact now, so a further sign-in says nothing new."""
    story = two().given(MERGE)
    story.when(identified("u-1", visitor_id="v-e", at=11)).then_nothing()
    story.when(identified("u-2", visitor_id="v-e", at=12)).then("ContactCreated", "VisitorLinked", "VisitorUnlinked")
    assert story.contact(external_id="u-1").visitor_ids == ["v-x"]


def test_the_event_may_bring_a_visitor() -> None:
    """Of E, of T, of a third contact, or one that nobody knows."""
    story = two().given(identified("u-3", visitor_id="v-3", at=3))
    story.when(identified("u-1", ADA, "v-3", at=10)).then(
        "ContactUpdated",
        {"type": "VisitorLinked", "visitorId": "v-3", "previousContactId": story.contact(external_id="u-3").id},
        {"type": "VisitorUnlinked", "contactId": story.contact(external_id="u-3").id},
        "ContactsMerged",
    )
    two().when(identified("u-1", ADA, "v-e", at=10)).then("ContactUpdated", "ContactsMerged")
    two().when(identified("u-1", ADA, "v-new", at=10)).then("ContactUpdated", "VisitorLinked", "ContactsMerged")


def test_the_address_that_the_merged_contact_ends_up_without_is_free() -> None:
    """T had another one: the later stays, and the earlier is nobody's."""
    story = two(x=identified("u-1", "old@example.org", at=2)).given(MERGE)
    assert story.contact(external_id="u-1").email == ADA
    assert story.emails.keys() == {ADA}

    story = two(x=identified("u-1", "newer@example.org", at=20)).given(MERGE)
    assert story.contact(external_id="u-1").email == "newer@example.org"
    assert story.emails.keys() == {"newer@example.org"}
    story.when(identified("u-2", ADA)).then("ContactCreated")


@pytest.mark.parametrize(("x_at", "e_at", "winner"), [(1, 2, "E"), (2, 1, "X"), (1, 1, "X")])
def test_metadata_name_and_image_combine_by_effective_time(x_at: float, e_at: float, winner: str) -> None:
    """A key at a time; at equal times the survivor's value stays."""
    story = two(
        x=identified("u-1", name="X", image="/X", metadata={"both": "X", "x": 1}, at=x_at),
        e=identified(None, ADA, name="E", image="/E", metadata={"both": "E", "e": 2}, at=e_at),
    ).given(MERGE)
    contact = story.contact(external_id="u-1")
    assert (contact.name, contact.image) == (winner, f"/{winner}")
    assert contact.metadata == {"both": winner, "x": 1, "e": 2}


def test_at_equal_times_the_survivor_s_address_stays() -> None:
    """A late event finds the other contact by its address, and does not say that address again."""
    story = two(x=identified("u-1", "own@example.org", at=20), e=identified(None, ADA, at=20))
    story.when(identified("u-1", ADA, at=10)).then("ContactsMerged")
    assert story.contact(external_id="u-1").email == "own@example.org"
    assert story.emails.keys() == {"own@example.org"}


def test_at_equal_times_the_address_that_the_event_names_is_taken() -> None:
    """The event is the later entry."""
    story = two(x=identified("u-1", "own@example.org", at=20), e=identified(None, ADA, at=20))
    story.when(identified("u-1", ADA, at=20)).then("ContactUpdated", "ContactsMerged")
    assert story.contact(external_id="u-1").email == ADA


def test_at_equal_times_the_survivor_s_removal_stays() -> None:
    """A removed key has a time like any other."""
    story = two(
        x=metadata_set(externalId="u-1", unset=["plan"], at=2),
        e=identified(None, ADA, metadata={"plan": "pro"}, at=2),
    ).given(MERGE)
    assert story.contact(external_id="u-1").metadata == {}


def test_what_was_removed_later_stays_removed() -> None:
    """Removal combines by effective time as well."""
    story = two(
        x=metadata_set(externalId="u-1", unset=["plan"], at=3),
        e=identified(None, ADA, metadata={"plan": "pro"}, at=2),
    ).given(MERGE)
    assert story.contact(external_id="u-1").metadata == {}


def test_the_event_s_own_facts_are_the_newest() -> None:
    """It names both and says more."""
    story = two(e=identified(None, ADA, name="E", metadata={"plan": "free"}, at=1))
    story.when(identified("u-1", ADA, name="Ada", metadata={"plan": "pro"}, at=10)).then(
        {"type": "ContactUpdated", "changed": ["email", "name", "metadata.plan"]}, "ContactsMerged"
    )


def test_seen_and_created_times() -> None:
    """The least of `firstSeenAt` and `createdAt`, the greatest of `lastSeenAt`."""
    story = two(x=identified("u-1", at=5), e=identified(None, ADA, "v-e", at=3)).given(seen("v-e", at=1), seen("v-e", at=90))
    story.given(MERGE)
    contact = story.contact(external_id="u-1")
    assert (contact.first_seen_at, contact.created_at, contact.last_seen_at) == (moment(1), moment(3), moment(90))


def test_presence_is_still_told_once_a_minute() -> None:
    """The merged contact was seen just now."""
    story = two().given(seen("v-e", at=100), MERGE)
    story.when(seen("v-x", at=130)).then_nothing("folded")
    story.when(seen("v-x", at=160)).then("ContactSeen")


def test_many_contacts_are_merged_into_one() -> None:
    """One after the other: every old id finds the living contact, and their visitors are its own."""
    story = given()
    ids: list[str] = []
    for number in range(25):
        story.given(identified(None, f"a{number}@example.org", f"v-{number}", at=number))
        ids.append(story.contact(email=f"a{number}@example.org").id)
        story.given(identified("u-1", f"a{number}@example.org", at=number + 0.5))
    living = story.contact(external_id="u-1")
    assert {story.state.find(contact_id) for contact_id in ids} == {living.id}
    assert living.visitor_ids == [f"v-{number}" for number in reversed(range(25))]


def test_an_old_id_finds_the_living_contact_however_long_the_chain() -> None:
    """These events make no chain, for who merges others has an external id; a state that has one is read all the same."""
    story = two()
    x, e = story.contact(external_id="u-1").id, story.contact(email=ADA).id
    chain = [f"ct_{number:026}" for number in range(50)]
    tombstones = [MergedContact(one, other) for one, other in zip(chain, [*chain[1:], e], strict=True)]
    story.state.contacts.update({each.id: each for each in tombstones})
    story.given(MERGE)
    story.when(metadata_set(contactId=chain[0], metadata={"a": 1})).then({"type": "ContactUpdated", "contactId": x})


def test_a_link_to_the_merged_contact_is_one_to_the_living_contact() -> None:
    """A late sign-in to T says again what the link to E says: it neither adds a link nor ends the one that came later."""
    story = two().given(MERGE, identified("u-2", visitor_id="v-e", at=20))
    story.when(identified("u-1", visitor_id="v-e", at=15)).then_nothing()
    assert story.holders("v-e") == [("u-1", moment(1)), ("u-2", moment(20))]


def test_merging_again_says_nothing_new() -> None:
    """The same event later on: E is T."""
    two().given(MERGE).when(identified("u-1", ADA, at=11)).then_nothing()
