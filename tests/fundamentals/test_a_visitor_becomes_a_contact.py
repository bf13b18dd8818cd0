"""What kinfold does, in eight short stories. Read them in their order.

Each says what is given, what happens, and what the change feed then tells:

    given(events).when(event).then(changes)
"""

from tests.support.folding import given, identified, metadata_set, seen


def test_1_a_visitor_is_anonymous_until_somebody_says_who_it_is() -> None:
    """A page view makes a visitor, not a contact: the feed tells of people, and nobody is known yet."""
    story = given(seen("phone")).when(seen("phone")).then().story
    assert story.visitor("phone").contact_id is None
    assert story.contacts == []


def test_2_an_identification_makes_a_contact_of_it() -> None:
    """Somebody signs in. The contact is theirs, the phone is linked to it, and what it did before is their past."""
    story = (
        given(seen("phone", at=1))
        .when(identified("user-1", "ada@example.org", "phone", name="Ada", at=5))
        .then("ContactCreated", {"type": "VisitorLinked", "visitorId": "phone"})
        .story
    )
    ada = story.contact(external_id="user-1")
    assert (ada.name, ada.email, ada.visitor_ids) == ("Ada", "ada@example.org", ["phone"])
    assert ada.first_seen_at < ada.created_at


def test_3_one_person_has_many_devices() -> None:
    """The same sign-in elsewhere links another visitor to the same contact; saying it again says nothing."""
    story = (
        given(identified("user-1", visitor_id="phone"))
        .when(identified("user-1", visitor_id="laptop"))
        .then({"type": "VisitorLinked", "visitorId": "laptop"})
        .story
    )
    assert story.contact(visitor_id="phone") is story.contact(visitor_id="laptop")
    story.when(identified("user-1", visitor_id="laptop")).then()


def test_4_what_is_known_early_is_kept_for_later() -> None:
    """Metadata of an anonymous visitor waits with it, and moves into the contact with the first identification."""
    story = (
        given(metadata_set(visitorId="phone", metadata={"theme": "dark"}))
        .when(identified("user-1", visitor_id="phone", metadata={"plan": "pro"}))
        .then("ContactCreated", "VisitorLinked")
        .story
    )
    assert story.contact(external_id="user-1").metadata == {"theme": "dark", "plan": "pro"}


def test_5_late_news_is_old_news() -> None:
    """Events carry when they happened. One that comes late changes nothing newer, and whatever order they come in."""
    downgrade = metadata_set(externalId="user-1", metadata={"plan": "free"}, at=10)
    upgrade = metadata_set(externalId="user-1", metadata={"plan": "pro"}, at=20)
    story = given(identified("user-1", at=1), upgrade).when(downgrade).then().story
    assert story.contact(external_id="user-1").metadata == {"plan": "pro"}


def test_6_two_contacts_are_one_when_an_event_names_both() -> None:
    """A newsletter knew the address, the shop knew the customer; a sign-in that names both merges the two."""
    story = given(identified(email="ada@example.org", visitor_id="phone"), identified("user-1", visitor_id="laptop"))
    newsletter = story.contact(email="ada@example.org").id
    story.when(identified("user-1", "Ada@Example.org")).then(
        {"type": "ContactUpdated", "changed": ["email"]},
        {"type": "ContactsMerged", "mergedContactId": newsletter},
    )
    assert story.contact(external_id="user-1").visitor_count == 2
    assert story.state.find(newsletter) == story.contact(external_id="user-1").id


def test_7_a_shared_device_is_never_evidence() -> None:
    """Ben signs in on Ada's phone. The phone moves on, Ada's data stays Ada's, and nobody is merged."""
    story = given(identified("ada", visitor_id="phone", metadata={"plan": "pro"}, at=1))
    story.when(identified("ben", visitor_id="phone", at=9)).then("ContactCreated", "VisitorLinked", "VisitorUnlinked")
    assert story.contact(external_id="ben").metadata == {}
    # A page view of Ada's that was stuck in the phone until now is still hers.
    story.when(metadata_set(visitorId="phone", metadata={"cart": 3}, at=5)).then("ContactUpdated")
    assert story.contact(external_id="ada").metadata == {"plan": "pro", "cart": 3}


def test_8_a_contradiction_is_told_and_not_guessed_at() -> None:
    """Two customers claim one address: it stays where it is, and somebody is told. What makes no sense at all is refused."""
    story = given(identified("user-1", "info@example.org"))
    holder = story.contact(external_id="user-1").id
    story.when(identified("user-2", "info@example.org")).then(
        "ContactCreated", {"type": "IdentityConflict", "email": "info@example.org", "heldBy": holder}
    )
    story.when(identified("undefined", visitor_id="phone")).then_rejected(
        "blocked-identifier", "externalId: expected an identifier of one person, got 'undefined'"
    )
