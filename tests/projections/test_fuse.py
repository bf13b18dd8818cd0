"""The fuse: after 25 merges into a contact, ordinary events no longer merge into it (contract section 5)."""

from tests.support.folding import Event, Story, given, identified


def junk(number: int) -> str:
    """The address of one of many people."""
    return f"p{number}@example.org"


def collected(contacts: int) -> Story:
    """A story with this number of contacts merged into `u-junk`, each by an event that names it and another address."""
    story = given(identified("u-junk"))
    for number in range(contacts):
        story.given(identified(None, junk(number), f"v-{number}"))
        story.when(named_with(number)).then("ContactUpdated", "ContactsMerged")
    return story


def named_with(number: int, **fields: str) -> Event:
    """An event that names the collecting contact and another person's address."""
    return {**identified("u-junk", junk(number)), **fields}


def test_26th_contact_is_a_conflict() -> None:
    """Both contacts keep their identifiers, and the rest of the event applies."""
    story = collected(25)
    story.given(identified(None, junk(25), "v-25"))
    collector, other = story.contact(external_id="u-junk"), story.contact(email=junk(25))
    story.when(named_with(25, name="Ada")).then(
        {"type": "ContactUpdated", "contactId": collector.id, "changed": ["name"]},
        {
            "type": "IdentityConflict",
            "contactId": collector.id,
            "email": junk(25),
            "heldBy": other.id,
            "reason": "too-many-merges",
        },
    )
    assert (collector.email, collector.visitor_count) == (junk(24), 25)
    assert (other.email, other.visitor_ids) == (junk(25), ["v-25"])


def test_conflict_is_emitted_once() -> None:
    """A page may repeat it at every view. With another address it is another conflict."""
    story = collected(25).given(identified(None, junk(25)), identified(None, junk(26)), named_with(25))
    story.when(named_with(25)).then_nothing()
    story.when(named_with(26)).then({"type": "IdentityConflict", "reason": "too-many-merges"})


def test_conflict_for_another_reason_is_another_conflict() -> None:
    """Once the contact with the address has its own external id, this is the reason why it keeps the address."""
    story = collected(25).given(identified(None, junk(25)), named_with(25), identified("u-25", junk(25)))
    story.when(named_with(25)).then({"type": "IdentityConflict", "email": junk(25), "reason": None})


def test_address_of_no_contact_is_not_a_merge() -> None:
    """The contact takes it as usual."""
    collected(25).when(named_with(25)).then({"type": "ContactUpdated", "changed": ["email"]})


def test_another_contact_still_merges() -> None:
    """Each contact has its own fuse."""
    story = collected(25).given(identified("u-1"), identified(None, junk(25)))
    story.when(identified("u-1", junk(25))).then("ContactUpdated", "ContactsMerged")
