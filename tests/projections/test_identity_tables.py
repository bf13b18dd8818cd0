"""Every row of the two tables in contract section 5: the contact of an event, and the result for the address."""

import pytest

from tests.support.folding import Story, given, identified, moment

ADA = "ada@example.org"
X = identified("u-1", at=1)
X_WITH_EMAIL = identified("u-1", ADA, at=1)
E = identified(None, ADA, at=1)


def email_holder(story: Story, email: str = ADA) -> str | None:
    """The external id of the contact that holds an address; there must be one."""
    return story.contact(email=email).external_id


# --- the first table


def test_external_id_that_exists_determines_the_contact() -> None:
    """`x`, X exists: X."""
    story = given(X)
    story.when(identified("u-1", name="Ada")).then({"type": "ContactUpdated", "contactId": story.contacts[0].id})
    assert len(story.contacts) == 1


def test_contact_with_the_address_but_without_an_external_id_gains_it() -> None:
    """`x`, `e`; no X; E exists and has no external id: E, which gains `x` and keeps its contact id."""
    story = given(E)
    known = story.contacts[0].id
    story.when(identified("u-1", ADA)).then({"type": "ContactUpdated", "contactId": known, "changed": ["externalId"]})
    assert [(contact.id, contact.external_id, contact.email) for contact in story.contacts] == [(known, "u-1", ADA)]
    story.when(identified("u-1", name="Ada")).then({"type": "ContactUpdated", "contactId": known})


@pytest.mark.parametrize("email", [None, ADA])
def test_unknown_external_id_otherwise_makes_a_new_contact(email: str | None) -> None:
    """No contact has `x`, and no contact without an external id has `e`."""
    story = given(identified("u-2", at=1))
    story.when(identified("u-1", email)).then({"type": "ContactCreated", "version": 1})
    assert (story.contact(external_id="u-1").email, len(story.contacts)) == (email, 2)


def test_address_that_exists_determines_the_contact() -> None:
    """`e` alone, E exists: E, in any spelling of the address, with or without an external id."""
    for given_first in (E, X_WITH_EMAIL):
        story = given(given_first)
        story.when(identified(None, ADA, name="Ada")).then(
            {"type": "ContactUpdated", "contactId": story.contacts[0].id, "changed": ["name"]}
        )
        story.when(identified(None, "Ada@Example.org", image="/a.png")).then("ContactUpdated")
        assert len(story.contacts) == 1


def test_unknown_address_alone_makes_a_new_contact() -> None:
    """`e` alone, no E: a new contact, which has the address."""
    story = given(X)
    story.when(E).then({"type": "ContactCreated"})
    assert email_holder(story) is None


# --- the second table


def test_free_address_is_taken() -> None:
    """No E: T takes `e`."""
    story = given(X)
    story.when(identified("u-1", ADA)).then({"type": "ContactUpdated", "changed": ["email"]})
    assert email_holder(story) == "u-1"


def test_previous_address_becomes_free() -> None:
    """The next contact that names it takes it."""
    story = given(X_WITH_EMAIL)
    story.when(identified("u-1", "ada@new.example")).then({"type": "ContactUpdated", "changed": ["email"]})
    assert story.emails == {"ada@new.example": story.contacts[0].id}
    story.when(identified("u-2", ADA)).then("ContactCreated")
    assert email_holder(story) == "u-2"


def test_address_is_taken_by_effective_time() -> None:
    """An address with an earlier effective time that arrives later is not taken and stays free."""
    story = given(identified("u-1", "ada@new.example", at=5))
    story.when(identified("u-1", ADA, at=4)).then_nothing("stale")
    assert story.emails.keys() == {"ada@new.example"}
    story.when(E).then("ContactCreated")


def test_contact_that_has_the_address_keeps_it() -> None:
    """E is T: no change."""
    story = given(X_WITH_EMAIL)
    story.when(identified("u-1", ADA)).then_nothing()


def test_contact_without_an_external_id_is_merged() -> None:
    """The event names both, so they are one person."""
    story = given(X, E)
    x, e = story.contact(external_id="u-1").id, story.contact(email=ADA).id
    story.when(identified("u-1", ADA)).then(
        {"type": "ContactUpdated", "contactId": x, "changed": ["email"]},
        {"type": "ContactsMerged", "contactId": x, "mergedContactId": e},
    )
    assert [contact.id for contact in story.contacts] == [x]
    assert (email_holder(story), story.state.find(e)) == ("u-1", x)


def test_contact_with_another_external_id_is_a_conflict() -> None:
    """`e` stays where it is, T keeps its address, the rest of the event applies, and the feed gets the conflict."""
    story = given(X_WITH_EMAIL, identified("u-2", "ben@example.org", at=1))
    holder = story.contact(external_id="u-1").id
    story.when(identified("u-2", ADA, "v-1", name="Ben", metadata={"plan": "pro"})).then(
        {"type": "ContactUpdated", "changed": ["name", "metadata.plan"], "version": 2},
        {"type": "VisitorLinked", "version": 3},
        {"type": "IdentityConflict", "email": ADA, "heldBy": holder, "version": 4},
    )
    assert email_holder(story) == "u-1"
    assert story.contact(external_id="u-2").email == "ben@example.org"
    assert story.contact(visitor_id="v-1").external_id == "u-2"


def test_new_contact_may_begin_with_a_conflict() -> None:
    """No X, and E has an external id: a new contact without the address."""
    story = given(X_WITH_EMAIL)
    story.when(identified("u-2", ADA)).then("ContactCreated", {"type": "IdentityConflict", "version": 2})
    assert story.contact(external_id="u-2").email is None
    assert email_holder(story) == "u-1"


def test_conflict_is_emitted_once() -> None:
    """A page may repeat it at every view. Another conflict is emitted, too."""
    story = given(X_WITH_EMAIL, identified("u-3", "cy@example.org", at=1), identified("u-2", ADA))
    story.when(identified("u-2", "ADA@example.org")).then_nothing()
    story.when(identified("u-2", "cy@example.org")).then("IdentityConflict")


def test_conflict_ends_when_the_address_is_free() -> None:
    """Then T takes the address."""
    story = given(X_WITH_EMAIL, identified("u-2", ADA), identified("u-1", "ada@new.example"))
    story.when(identified("u-2", ADA)).then({"type": "ContactUpdated", "changed": ["email"]})


def test_conflict_that_ended_and_happens_again_is_emitted_again() -> None:
    """T took the address and gave it up again, so the conflict with its new holder is news."""
    story = given(X_WITH_EMAIL, identified("u-2", ADA), identified("u-1", "ada@new.example"), identified("u-2", ADA))
    story.given(identified("u-2", "ben@example.org"), identified("u-1", ADA))
    story.when(identified("u-2", ADA)).then({"type": "IdentityConflict", "email": ADA, "heldBy": story.contacts[0].id})
    story.when(identified("u-2", ADA)).then_nothing()


# --- what follows from both


def test_two_contacts_with_different_external_ids_are_never_merged() -> None:
    """Neither because of an address nor because of a device, in any order."""
    story = given(
        identified("u-1", ADA, "v-1"),
        identified("u-2", ADA, "v-1"),
        identified(None, ADA, "v-1"),
        identified("u-2", "ben@example.org", "v-1"),
        identified("u-1", "ben@example.org", "v-1"),
    )
    assert [contact.external_id for contact in story.contacts] == ["u-1", "u-2"]


def test_device_is_not_evidence() -> None:
    """A person who signs in on another person's device is a different contact."""
    story = given(identified("u-1", visitor_id="v-1"), identified(None, ADA, "v-1"))
    assert [(contact.external_id, contact.email) for contact in story.contacts] == [("u-1", None), (None, ADA)]


def test_contact_may_have_no_visitor() -> None:
    """For example, if only the backend knows it."""
    contact = given(X_WITH_EMAIL).contact(external_id="u-1")
    assert (contact.visitor_count, contact.visitor_ids, contact.first_seen_at) == (0, [], moment(1))


def test_blocked_identifier_counts_as_absent() -> None:
    """It does not find a contact, a contact does not get it, and it is counted."""
    story = given(X_WITH_EMAIL)
    result = story.when(identified("null", ADA, name="Ada")).then({"type": "ContactUpdated", "changed": ["name"]})
    assert result.outcome.blocked == 1
    assert "null" not in story.state.external_ids
