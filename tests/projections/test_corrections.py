"""Corrections by hand (contract section 5, Corrections)."""

from typing import Any

import pytest

from tests.support.folding import Event, Story, given, identified, metadata_set, moment, seen

GRACE = {"by": "Grace", "reason": "a slip"}


def corrected(story: Story, external_id: str, *, at: float | None = None, **fields: Any) -> Event:
    """A correction of the contact with an external id."""
    when = {} if at is None else {"at": moment(at)}
    contact_id = story.contact(external_id=external_id).id
    return {"type": "IdentityCorrected", **GRACE, "contactId": contact_id, **when, **fields}


def two_people() -> Story:
    """Ada and Ben, each with an external id, an address and a device."""
    return given(
        identified("u-1", "ada@x.io", "v-1", at=1, name="Ada", metadata={"plan": "pro", "city": "Rome"}),
        identified("u-2", "ben@x.io", "v-2", at=2, name="Ben", metadata={"plan": "free"}),
    )


# --- merge


def test_merge_by_hand_joins_contacts_with_different_external_ids() -> None:
    """The first one's external id stays. Values combine by time, and the correction makes nobody seen."""
    story = two_people()
    ada, ben = story.contact(external_id="u-1"), story.contact(external_id="u-2")
    story.when(corrected(story, "u-1", mergeContactId=ben.id)).then(
        {"type": "ContactUpdated", "contactId": ada.id, "changed": ["email", "name", "metadata.plan"], "correction": GRACE},
        {"type": "ContactsMerged", "contactId": ada.id, "mergedContactId": ben.id, "correction": GRACE},
    )
    assert (ada.external_id, ada.email, ada.name, ada.metadata) == ("u-1", "ben@x.io", "Ben", {"plan": "free", "city": "Rome"})
    assert (ada.visitor_ids, ada.visitor_count) == (["v-2", "v-1"], 2)
    assert (ada.first_seen_at, ada.last_seen_at) == (moment(1), moment(2))
    assert [contact.id for contact in story.contacts] == [ada.id]


def test_external_id_of_the_merged_contact_leads_to_the_other_one() -> None:
    """Later events that name it are about that one, which does not show it."""
    story = two_people()
    ada, ben = story.contact(external_id="u-1"), story.contact(external_id="u-2")
    story.given(corrected(story, "u-1", mergeContactId=ben.id))
    story.when(identified("u-2", visitor_id="v-3", metadata={"late": True})).then("ContactUpdated", "VisitorLinked")
    assert story.contact(external_id="u-2") is ada
    assert (ada.external_id, ada.metadata["late"], ada.visitor_count) == ("u-1", True, 3)


def test_merge_gives_the_external_id_to_a_contact_without_one() -> None:
    story = given(identified(email="a@x.io"), identified("u-2"))
    anonymous, ben = story.contact(email="a@x.io"), story.contact(external_id="u-2")
    event = {"type": "IdentityCorrected", **GRACE, "contactId": anonymous.id, "mergeContactId": ben.id}
    story.when(event).then({"type": "ContactUpdated", "changed": ["externalId"]}, "ContactsMerged")
    assert story.contact(external_id="u-2") is anonymous
    assert anonymous.email == "a@x.io"


def test_merge_of_one_contact_with_itself_is_a_no_op() -> None:
    """Also by the id of a contact that was merged into it."""
    story = two_people()
    ada, ben = story.contact(external_id="u-1"), story.contact(external_id="u-2")
    story.given(corrected(story, "u-1", mergeContactId=ben.id))
    for one, other in ((ada.id, ada.id), (ada.id, ben.id), (ben.id, ada.id)):
        story.when({"type": "IdentityCorrected", **GRACE, "contactId": one, "mergeContactId": other}).then_nothing()


def test_merge_by_hand_is_not_stopped_by_the_fuse_and_counts() -> None:
    """After 24 ordinary merges and one by hand, the next ordinary one is a conflict, and one by hand is not."""
    story = given(identified("u-1"), identified("u-2"))
    for number in range(24):
        story.given(identified(email=f"m{number}@x.io"), identified("u-1", f"m{number}@x.io"))
    story.given(identified(email="m@x.io"), corrected(story, "u-1", mergeContactId=story.contact(external_id="u-2").id))
    story.when(identified("u-1", "m@x.io")).then({"type": "IdentityConflict", "reason": "too-many-merges"})
    story.when(corrected(story, "u-1", mergeContactId=story.contact(email="m@x.io").id)).then(
        "ContactUpdated", "ContactsMerged"
    )
    assert len(story.contacts) == 1


# --- unlink


def test_unlinked_visitor_belongs_to_no_contact() -> None:
    """The visitor shows none of what it brought, which stays with the contact."""
    story = given(metadata_set(visitorId="v-1", metadata={"theme": "dark"}, at=1), identified("u-1", visitor_id="v-1", at=2))
    ada = story.contact(external_id="u-1")
    story.when(corrected(story, "u-1", unlinkVisitorId="v-1")).then(
        {"type": "VisitorUnlinked", "contactId": ada.id, "visitorId": "v-1", "nextContactId": None, "correction": GRACE}
    )
    visitor = story.visitor()
    assert (visitor.contact_id, visitor.metadata, ada.visitor_ids, ada.visitor_count) == (None, {}, [], 0)
    assert ada.metadata == {"theme": "dark"}
    assert [external_id for external_id, _ in story.holders()] == ["u-1", None]
    assert visitor.last_seen_at == moment(2), "an operator is not a visitor"


def test_events_of_an_unlinked_visitor_are_its_own() -> None:
    """No presence. Its metadata waits for the next contact, which does not get what it brought before."""
    story = given(metadata_set(visitorId="v-1", metadata={"old": 1}, at=1), identified("u-1", visitor_id="v-1", at=2))
    story.given(corrected(story, "u-1", unlinkVisitorId="v-1"))
    story.when(seen()).then_nothing("folded")
    story.when(metadata_set(visitorId="v-1", metadata={"new": 2})).then_nothing("folded")
    story.when(identified("u-2", visitor_id="v-1")).then("ContactCreated", {"type": "VisitorLinked", "previousContactId": None})
    assert story.contact(external_id="u-2").metadata == {"new": 2}
    assert story.contact(external_id="u-1").metadata == {"old": 1}


def test_unlink_that_is_older_than_a_later_link_loses() -> None:
    """The visitor was unlinked only in between: order decides."""
    story = given(identified("u-1", visitor_id="v-1", at=1), identified("u-1", visitor_id="v-1", at=9))
    story.when(corrected(story, "u-1", unlinkVisitorId="v-1", at=5)).then_nothing("folded")
    assert story.holders() == [("u-1", moment(1)), (None, moment(5)), ("u-1", moment(9))]
    story.given(metadata_set(visitorId="v-1", metadata={"gap": 1}, at=6))
    story.when(metadata_set(visitorId="v-1", metadata={"late": 1}, at=6)).then_nothing("stale")
    assert story.contact(external_id="u-1").metadata == {}


def test_late_identification_ends_before_the_unlink() -> None:
    """The visitor was the other person's until then, and is unlinked still."""
    story = given(identified("u-1", visitor_id="v-1", at=1))
    story.given(corrected(story, "u-1", unlinkVisitorId="v-1", at=5), metadata_set(visitorId="v-1", metadata={"own": 1}, at=6))
    story.when(identified("u-2", visitor_id="v-1", at=3)).then("ContactCreated")
    assert story.holders() == [("u-1", moment(1)), ("u-2", moment(3)), (None, moment(5))]
    assert story.contact(external_id="u-2").metadata == {}, "it is not the one that the visitor is identified as next"
    assert story.visitor().metadata == {"own": 1}


def test_unlink_from_another_contact_is_a_no_op() -> None:
    story = two_people()
    for visitor_id in ("v-2", "v-unknown"):
        story.when(corrected(story, "u-1", unlinkVisitorId=visitor_id)).then_nothing()
    assert "v-unknown" not in story.state.visitors


def test_repeated_unlink_counts_from_the_later_time() -> None:
    """Unlinked at 3 and 7: a late identification at 5 ends at 7."""
    story = given(identified("u-1", visitor_id="v-1", at=1))
    story.given(corrected(story, "u-1", unlinkVisitorId="v-1", at=3), corrected(story, "u-1", unlinkVisitorId="v-1", at=7))
    story.given(identified("u-2", visitor_id="v-1", at=5))
    assert story.holders() == [("u-1", moment(1)), (None, moment(3)), ("u-2", moment(5)), (None, moment(7))]


def test_page_may_link_an_unlinked_visitor() -> None:
    """Nobody holds it, so it is like any anonymous one."""
    story = given(identified("u-1", visitor_id="v-1"))
    story.given(corrected(story, "u-1", unlinkVisitorId="v-1"))
    story.when(identified("u-2", visitor_id="v-1", source="browser")).then("ContactCreated", "VisitorLinked")


# --- values


def test_values_are_set_and_removed() -> None:
    story = two_people()
    event = corrected(story, "u-1", email="ADA@y.io", name=None, externalId="u-9", metadata={"plan": None}, unset=["city"])
    story.when(event).then(
        {"type": "ContactUpdated", "changed": ["externalId", "email", "name", "metadata.city", "metadata.plan"]}
    )
    ada = story.contact(external_id="u-9")
    assert (ada.email, ada.name, ada.metadata) == ("ADA@y.io", None, {"plan": None})
    assert story.contact(email="ada@y.io") is ada
    assert "ada@x.io" not in story.emails
    assert story.state.by_external_id("u-1") is None


def test_removed_identifiers_are_free() -> None:
    """An event that names one of them makes another contact."""
    story = two_people()
    ada = story.contact(external_id="u-1")
    story.when(corrected(story, "u-1", email=None, externalId=None)).then(
        {"type": "ContactUpdated", "changed": ["externalId", "email"]}
    )
    story.when(identified("u-1")).then("ContactCreated")
    story.when(identified(email="ada@x.io")).then("ContactCreated")
    assert (ada.external_id, ada.email) == (None, None)


def test_late_event_does_not_bring_a_removed_value_back() -> None:
    """The correction has the later time, as with any value."""
    story = two_people()
    story.given(corrected(story, "u-1", email=None, name=None, unset=["plan"]))
    story.when(identified("u-1", "ada@x.io", at=50, name="Ada", metadata={"plan": "pro"})).then_nothing("stale")


def test_correction_that_is_older_than_an_event_loses() -> None:
    """Each value by its own time."""
    story = given(identified("u-1", "old@x.io", at=1, name="Ada"), identified("u-1", "new@x.io", at=9, name="Ada B"))
    story.when(corrected(story, "u-1", email="other@x.io", name="Eve", image="/eve.png", at=5)).then(
        {"type": "ContactUpdated", "changed": ["image"]}
    )
    story.when(corrected(story, "u-1", email="other@x.io", name="Eve", at=5)).then_nothing("stale")
    assert "other@x.io" not in story.emails


def test_correction_that_says_nothing_new_is_a_no_op() -> None:
    story = two_people()
    story.when(corrected(story, "u-1", email="ada@x.io", name="Ada", metadata={"plan": "pro"}, unset=["x"])).then_nothing()


@pytest.mark.parametrize("field", ["email", "externalId"])
def test_identifier_of_another_contact_is_refused_without_take(field: str) -> None:
    """The whole event is: its name does not apply either."""
    story = two_people()
    value: dict[str, Any] = {field: {"email": "BEN@x.io", "externalId": "u-2"}[field]}
    ben = story.contact(external_id="u-2").id
    story.when(corrected(story, "u-1", name="Eve", **value)).then_rejected("held-by-another", field, ben)
    assert story.contact(external_id="u-1").name == "Ada"


def test_take_moves_identifiers_from_another_contact() -> None:
    """Both contacts change, the named one first."""
    story = two_people()
    ada, ben = story.contact(external_id="u-1"), story.contact(external_id="u-2")
    story.when(corrected(story, "u-1", email="ben@x.io", externalId="u-2", take=True)).then(
        {"type": "ContactUpdated", "contactId": ada.id, "changed": ["externalId", "email"], "correction": GRACE},
        {"type": "ContactUpdated", "contactId": ben.id, "changed": ["externalId", "email"], "correction": GRACE},
    )
    assert (ada.external_id, ada.email, ben.external_id, ben.email) == ("u-2", "ben@x.io", None, None)
    assert story.contact(external_id="u-2") is story.contact(email="ben@x.io") is ada


def test_address_that_was_given_later_is_not_taken() -> None:
    """The holder's address has the later time."""
    story = given(identified("u-1", at=1), identified("u-2", "ben@x.io", at=9))
    story.when(corrected(story, "u-1", email="ben@x.io", take=True, at=5)).then_nothing("stale")
    assert story.contact(email="ben@x.io").external_id == "u-2"


def test_taken_address_that_an_event_names_again_is_a_conflict() -> None:
    """Order decides, and the address is Ada's now."""
    story = two_people()
    story.given(corrected(story, "u-1", email="ben@x.io", take=True))
    story.when(identified("u-2", "ben@x.io")).then({"type": "IdentityConflict", "email": "ben@x.io"})


def test_correction_counts_for_the_limit_of_keys() -> None:
    story = given(identified("u-1", metadata={f"k{number}": number for number in range(256)}))
    story.when(corrected(story, "u-1", metadata={"one more": 1})).then_rejected("invalid", "256 keys")


# --- conflicts


def conflict() -> Story:
    """Ada's events name Ben's address."""
    story = two_people()
    story.when(identified("u-1", "ben@x.io")).then("IdentityConflict")
    return story


def test_dismissed_conflict_is_not_reported_again() -> None:
    """Not even where another one was reported in between. Both keep what they have."""
    story = conflict()
    ben = story.contact(external_id="u-2").id
    story.when(corrected(story, "u-1", dismissConflict="Ben@x.io")).then(
        {"type": "ConflictDismissed", "email": "Ben@x.io", "heldBy": ben, "version": 4}
    )
    story.given(identified("u-3", "cy@x.io"))
    story.when(identified("u-1", "cy@x.io")).then("IdentityConflict")
    story.when(identified("u-1", "ben@x.io")).then_nothing()
    story.when(corrected(story, "u-1", dismissConflict="ben@x.io")).then_nothing()


def test_dismissed_conflict_comes_back_with_another_holder() -> None:
    story = conflict()
    story.given(corrected(story, "u-1", dismissConflict="ben@x.io"), identified("u-3"))
    story.given(corrected(story, "u-3", email="ben@x.io", take=True))
    story.when(identified("u-1", "ben@x.io")).then("IdentityConflict")


def test_dismissal_without_a_conflict_is_a_no_op() -> None:
    """The address is free, or the contact's own."""
    story = two_people()
    story.when(corrected(story, "u-1", dismissConflict="free@x.io")).then_nothing()
    story.when(corrected(story, "u-1", dismissConflict="ada@x.io")).then_nothing()


# --- what is refused


def test_unknown_contact_is_rejected() -> None:
    story = two_people()
    story.when({**corrected(story, "u-1", name="Eve"), "contactId": "ct_x"}).then_rejected("unknown-contact", "contactId")
    story.when(corrected(story, "u-1", mergeContactId="ct_x")).then_rejected("unknown-contact", "mergeContactId")


def test_correction_of_a_merged_contact_is_about_the_living_one() -> None:
    story = two_people()
    ben = story.contact(external_id="u-2").id
    story.given(corrected(story, "u-1", mergeContactId=ben))
    story.when({"type": "IdentityCorrected", **GRACE, "contactId": ben, "name": "Eve"}).then(
        {"type": "ContactUpdated", "contactId": story.contact(external_id="u-1").id, "changed": ["name"]}
    )


def test_correction_from_a_page_is_rejected() -> None:
    """Even where a token proves the visitor."""
    story = two_people()
    event = corrected(story, "u-1", name="Eve", source="browser", visitorProven=True)
    story.when(event).then_rejected("not-allowed", "source")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"metadata": {}},
        {"name": "Eve", "mergeContactId": "ct_x"},
        {"unlinkVisitorId": "v-1", "dismissConflict": "ben@x.io"},
        {"take": True},
        {"name": 1},
        {"name": "Eve", "by": ""},
        {"name": "Eve", "by": "x" * 256},
        {"name": "Eve", "by": None},
        {"email": "no address"},
    ],
)
def test_correction_with_none_or_two_forms_is_invalid(fields: dict[str, Any]) -> None:
    story = two_people()
    story.when(corrected(story, "u-1", **fields)).then_rejected("invalid")


@pytest.mark.parametrize("fields", [{"externalId": "null"}, {"email": "null@null"}, {"unlinkVisitorId": "undefined"}])
def test_blocked_identifier_rejects_a_correction(fields: dict[str, Any]) -> None:
    """It does not count as absent, because a person wrote it."""
    story = two_people()
    story.when(corrected(story, "u-1", **fields)).then_rejected("blocked-identifier", next(iter(fields)))
