"""Every line of the two tables of contract section 5: which contact it is, and what becomes of the address."""

import pytest

from tests.support.folding import Story, given, identified, moment

ADA = "ada@example.org"
X = identified("u-1", at=1)
X_WITH_EMAIL = identified("u-1", ADA, at=1)
E = identified(None, ADA, at=1)


def email_holder(story: Story, email: str = ADA) -> str | None:
    """The external id of the contact that holds an address; the address has to be somebody's."""
    return story.contact(email=email).external_id


# --- the first table


def test_x_where_x_exists_is_x() -> None:
    """`x`, X exists: X."""
    story = given(X)
    story.when(identified("u-1", name="Ada")).then({"type": "ContactUpdated", "contactId": story.contacts[0].id})
    assert len(story.contacts) == 1


def test_x_and_e_where_e_has_no_external_id_is_e() -> None:
    """`x`, `e`; no X; E exists and has no external id: E, which gains `x` and keeps its contact id."""
    story = given(E)
    known = story.contacts[0].id
    story.when(identified("u-1", ADA)).then({"type": "ContactUpdated", "contactId": known, "changed": ["externalId"]})
    assert [(contact.id, contact.external_id, contact.email) for contact in story.contacts] == [(known, "u-1", ADA)]
    story.when(identified("u-1", name="Ada")).then({"type": "ContactUpdated", "contactId": known})


@pytest.mark.parametrize("email", [None, ADA])
def test_x_otherwise_is_a_new_contact(email: str | None) -> None:
    """Nobody has `x`, and nobody without an external id has `e`."""
    story = given(identified("u-2", at=1))
    story.when(identified("u-1", email)).then({"type": "ContactCreated", "version": 1})
    assert (story.contact(external_id="u-1").email, len(story.contacts)) == (email, 2)


def test_e_alone_where_e_exists_is_e() -> None:
    """`e` alone, E exists: E, in whatever case it is written, with an external id or without."""
    for given_first in (E, X_WITH_EMAIL):
        story = given(given_first)
        story.when(identified(None, ADA, name="Ada")).then(
            {"type": "ContactUpdated", "contactId": story.contacts[0].id, "changed": ["name"]}
        )
        story.when(identified(None, "Ada@Example.org", image="/a.png")).then("ContactUpdated")
        assert len(story.contacts) == 1


def test_e_alone_where_nobody_has_it_is_a_new_contact() -> None:
    """`e` alone, no E: a new contact, known by its address."""
    story = given(X)
    story.when(E).then({"type": "ContactCreated"})
    assert email_holder(story) is None


# --- the second table


def test_nobody_has_e() -> None:
    """E is nobody: T takes `e`."""
    story = given(X)
    story.when(identified("u-1", ADA)).then({"type": "ContactUpdated", "changed": ["email"]})
    assert email_holder(story) == "u-1"


def test_the_address_that_t_had_is_free_again() -> None:
    """Whoever says it next gets it."""
    story = given(X_WITH_EMAIL)
    story.when(identified("u-1", "ada@new.example")).then({"type": "ContactUpdated", "changed": ["email"]})
    assert story.emails == {"ada@new.example": story.contacts[0].id}
    story.when(identified("u-2", ADA)).then("ContactCreated")
    assert email_holder(story) == "u-2"


def test_t_takes_e_by_effective_time() -> None:
    """An address that was said earlier, and arrives later, is not taken and stays free."""
    story = given(identified("u-1", "ada@new.example", at=5))
    story.when(identified("u-1", ADA, at=4)).then_nothing("stale")
    assert story.emails.keys() == {"ada@new.example"}
    story.when(E).then("ContactCreated")


def test_t_has_e_already() -> None:
    """E is T: nothing."""
    story = given(X_WITH_EMAIL)
    story.when(identified("u-1", ADA)).then_nothing()


def test_e_without_an_external_id_is_merged_into_t() -> None:
    """The event names both, so they are one."""
    story = given(X, E)
    x, e = story.contact(external_id="u-1").id, story.contact(email=ADA).id
    story.when(identified("u-1", ADA)).then(
        {"type": "ContactUpdated", "contactId": x, "changed": ["email"]},
        {"type": "ContactsMerged", "contactId": x, "mergedContactId": e},
    )
    assert [contact.id for contact in story.contacts] == [x]
    assert (email_holder(story), story.state.find(e)) == ("u-1", x)


def test_e_with_an_external_id_is_a_conflict() -> None:
    """`e` stays where it is, T keeps what it had, everything else of the event applies, and the feed is told."""
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


def test_a_new_contact_may_begin_with_a_conflict() -> None:
    """No X, and E has an external id: a new contact without the address."""
    story = given(X_WITH_EMAIL)
    story.when(identified("u-2", ADA)).then("ContactCreated", {"type": "IdentityConflict", "version": 2})
    assert story.contact(external_id="u-2").email is None
    assert email_holder(story) == "u-1"


def test_a_conflict_is_told_once() -> None:
    """A page says it at every view; another conflict is told again."""
    story = given(X_WITH_EMAIL, identified("u-3", "cy@example.org", at=1), identified("u-2", ADA))
    story.when(identified("u-2", "ADA@example.org")).then_nothing()
    story.when(identified("u-2", "cy@example.org")).then("IdentityConflict")


def test_a_conflict_ends_when_the_address_is_free() -> None:
    """Then it is nobody's, and T takes it."""
    story = given(X_WITH_EMAIL, identified("u-2", ADA), identified("u-1", "ada@new.example"))
    story.when(identified("u-2", ADA)).then({"type": "ContactUpdated", "changed": ["email"]})


def test_a_conflict_that_has_ended_and_comes_again_is_told_again() -> None:
    """Given that T took the address and gave it up again, its holder's holding it once more is news."""
    story = given(X_WITH_EMAIL, identified("u-2", ADA), identified("u-1", "ada@new.example"), identified("u-2", ADA))
    story.given(identified("u-2", "ben@example.org"), identified("u-1", ADA))
    story.when(identified("u-2", ADA)).then({"type": "IdentityConflict", "email": ADA, "heldBy": story.contacts[0].id})
    story.when(identified("u-2", ADA)).then_nothing()


# --- what follows from both


def test_two_contacts_with_different_external_ids_are_never_merged() -> None:
    """Not by an address, not by a device, in whatever order."""
    story = given(
        identified("u-1", ADA, "v-1"),
        identified("u-2", ADA, "v-1"),
        identified(None, ADA, "v-1"),
        identified("u-2", "ben@example.org", "v-1"),
        identified("u-1", "ben@example.org", "v-1"),
    )
    assert [contact.external_id for contact in story.contacts] == ["u-1", "u-2"]


def test_a_device_is_never_evidence() -> None:
    """Who signs in on somebody else's device is somebody else."""
    story = given(identified("u-1", visitor_id="v-1"), identified(None, ADA, "v-1"))
    assert [(contact.external_id, contact.email) for contact in story.contacts] == [("u-1", None), (None, ADA)]


def test_a_contact_may_be_known_to_the_backend_alone() -> None:
    """Without any visitor."""
    contact = given(X_WITH_EMAIL).contact(external_id="u-1")
    assert (contact.visitor_count, contact.visitor_ids, contact.first_seen_at) == (0, [], moment(1))


def test_a_blocked_identifier_is_as_if_it_were_absent() -> None:
    """It neither finds a contact nor gives it a name, and is counted."""
    story = given(X_WITH_EMAIL)
    result = story.when(identified("null", ADA, name="Ada")).then({"type": "ContactUpdated", "changed": ["name"]})
    assert result.outcome.blocked == 1
    assert "null" not in story.state.external_ids
