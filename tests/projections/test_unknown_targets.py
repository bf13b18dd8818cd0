"""Metadata for a target that no event has named yet (contract section 5)."""

import pytest

from tests.support.folding import given, identified, metadata_set, moment, seen


@pytest.mark.parametrize("target", [{"externalId": "u-1"}, {"email": "Ada@example.org"}])
def test_unknown_external_id_or_address_creates_the_contact(target: dict[str, str]) -> None:
    """The event may just have arrived first. The contact is the one that is identified later."""
    story = given()
    story.when(metadata_set(**target, metadata={"plan": "pro"}, at=3)).then({"type": "ContactCreated", "version": 1})
    contact = story.contacts[0]
    assert (contact.external_id, contact.email) == (target.get("externalId"), target.get("email"))
    story.given(identified("u-1", "ada@example.org", at=5))
    assert [(contact.id, contact.external_id, contact.metadata) for contact in story.contacts] == [
        (contact.id, "u-1", {"plan": "pro"})
    ]


def test_contacts_with_metadata_are_merged_when_an_event_names_both() -> None:
    """Until then they are two contacts, because nothing says that they are one."""
    story = given(metadata_set(externalId="u-1", metadata={"a": 1}), metadata_set(email="ada@example.org", metadata={"b": 2}))
    assert len(story.contacts) == 2
    story.given(identified("u-1", "ada@example.org"))
    assert [contact.metadata for contact in story.contacts] == [{"a": 1, "b": 2}]


def test_address_from_metadata_is_written_like_that_of_an_identification() -> None:
    """In either order of arrival and of effective time."""
    claim = identified("u-1", "Ada@Example.org", at=3)
    question = metadata_set(email="ada@example.org", metadata={"a": 1}, at=5)
    for first, second in ((claim, question), (question, claim)):
        assert given(first, second).contact(external_id="u-1").email == "Ada@Example.org"


def test_event_without_metadata_still_creates_a_contact() -> None:
    """It names the contact."""
    given().when(metadata_set(externalId="u-1")).then({"type": "ContactCreated"})


@pytest.mark.parametrize("contact_id", ["ct_00000000000000000000000000", "", "u-1", "x" * 1000])
def test_unknown_contact_id_is_rejected(contact_id: str) -> None:
    """Only the fold assigns contact ids."""
    story = given(identified("u-1"))
    story.when(metadata_set(contactId=contact_id, metadata={"a": 1})).then_rejected(
        "unknown-contact", "contactId: expected the id of a contact of this workspace, got "
    )
    assert len(story.contacts) == 1


def test_known_contact_id_is_a_target() -> None:
    """Like any other target, with or without white space around it."""
    story = given(identified("u-1", at=1))
    story.when(metadata_set(contactId=f" {story.contacts[0].id}\n", metadata={"a": 1}, at=2)).then(
        {"type": "ContactUpdated", "changed": ["metadata.a"], "at": moment(2)}
    )


def test_unknown_visitor_becomes_a_visitor() -> None:
    """It is anonymous until it is identified."""
    story = given(metadata_set(visitorId="v-1", metadata={"a": 1}, at=1), seen(at=3))
    assert (story.visitor().first_seen_at, story.visitor().metadata) == (moment(1), {"a": 1})
