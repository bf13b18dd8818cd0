"""The behaviour of kinfold in eight short stories, to be read in order.

Each states the given events, the event that happens, and the changes that follow on the change feed:

    given(events).when(event).then(changes)
"""

from tests.support.folding import given, identified, metadata_set, seen


def test_1_visitor_is_anonymous_until_identified() -> None:
    """A page view creates a visitor but no contact, so the feed, which is about contacts, stays silent."""
    story = given(seen("phone")).when(seen("phone")).then().story
    assert story.visitor("phone").contact_id is None
    assert story.contacts == []


def test_2_identification_creates_a_contact() -> None:
    """Ada signs in. A contact is created, and the phone and its earlier history now belong to it."""
    story = (
        given(seen("phone", at=1))
        .when(identified("user-1", "ada@example.org", "phone", name="Ada", at=5))
        .then("ContactCreated", {"type": "VisitorLinked", "visitorId": "phone"})
        .story
    )
    ada = story.contact(external_id="user-1")
    assert (ada.name, ada.email, ada.visitor_ids) == ("Ada", "ada@example.org", ["phone"])
    assert ada.first_seen_at < ada.created_at


def test_3_contact_has_many_devices() -> None:
    """The same sign-in on a laptop links another visitor to the same contact. A repetition changes nothing."""
    story = (
        given(identified("user-1", visitor_id="phone"))
        .when(identified("user-1", visitor_id="laptop"))
        .then({"type": "VisitorLinked", "visitorId": "laptop"})
        .story
    )
    assert story.contact(visitor_id="phone") is story.contact(visitor_id="laptop")
    story.when(identified("user-1", visitor_id="laptop")).then()


def test_4_metadata_of_an_anonymous_visitor_moves_to_the_contact() -> None:
    """The visitor keeps it until the first identification."""
    story = (
        given(metadata_set(visitorId="phone", metadata={"theme": "dark"}))
        .when(identified("user-1", visitor_id="phone", metadata={"plan": "pro"}))
        .then("ContactCreated", "VisitorLinked")
        .story
    )
    assert story.contact(external_id="user-1").metadata == {"theme": "dark", "plan": "pro"}


def test_5_late_event_does_not_overwrite_newer_values() -> None:
    """Events carry the time at which they happened, so the order of arrival does not matter."""
    downgrade = metadata_set(externalId="user-1", metadata={"plan": "free"}, at=10)
    upgrade = metadata_set(externalId="user-1", metadata={"plan": "pro"}, at=20)
    story = given(identified("user-1", at=1), upgrade).when(downgrade).then().story
    assert story.contact(external_id="user-1").metadata == {"plan": "pro"}


def test_6_event_that_names_two_contacts_merges_them() -> None:
    """A newsletter knows the address and the shop knows the customer. A sign-in with both merges the two."""
    story = given(identified(email="ada@example.org", visitor_id="phone"), identified("user-1", visitor_id="laptop"))
    newsletter = story.contact(email="ada@example.org").id
    story.when(identified("user-1", "Ada@Example.org")).then(
        {"type": "ContactUpdated", "changed": ["email"]},
        {"type": "ContactsMerged", "mergedContactId": newsletter},
    )
    assert story.contact(external_id="user-1").visitor_count == 2
    assert story.state.find(newsletter) == story.contact(external_id="user-1").id


def test_7_shared_device_does_not_merge_contacts() -> None:
    """Ben signs in on Ada's phone. The phone moves to Ben, and Ada's data stays with Ada."""
    story = given(identified("ada", visitor_id="phone", metadata={"plan": "pro"}, at=1))
    story.when(identified("ben", visitor_id="phone", at=9)).then("ContactCreated", "VisitorLinked", "VisitorUnlinked")
    assert story.contact(external_id="ben").metadata == {}
    # An event from before the move, which the phone sends only now, still belongs to Ada.
    story.when(metadata_set(visitorId="phone", metadata={"cart": 3}, at=5)).then("ContactUpdated")
    assert story.contact(external_id="ada").metadata == {"plan": "pro", "cart": 3}


def test_8_contradiction_is_reported_and_not_resolved() -> None:
    """Two customers claim one address. The holder keeps it, and the feed reports a conflict. Junk identifiers are rejected."""
    story = given(identified("user-1", "info@example.org"))
    holder = story.contact(external_id="user-1").id
    story.when(identified("user-2", "info@example.org")).then(
        "ContactCreated", {"type": "IdentityConflict", "email": "info@example.org", "heldBy": holder}
    )
    story.when(identified("undefined", visitor_id="phone")).then_rejected(
        "blocked-identifier", "externalId: expected an identifier of one person, got 'undefined'"
    )
