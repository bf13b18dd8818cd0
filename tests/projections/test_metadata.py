"""Metadata is a patch with a hash, and an event that changes nothing is a no-op (contract section 4)."""

from copy import copy
from typing import Any

import pytest

from kinfold_schemas.canonical import EMPTY_HASH, metadata_hash
from tests.support.folding import Event, given, identified, log_at, metadata_set, moment, seen

PRO = identified("u-1", metadata={"plan": "pro", "seats": 3}, at=1)


def patch(at: float | None = 2, **fields: Any) -> Event:
    """Metadata for the contact of `PRO`."""
    return metadata_set(externalId="u-1", at=at, **fields)


def test_patch_sets_its_keys_and_keeps_others() -> None:
    """It does not replace the metadata."""
    story = given(PRO)
    story.when(patch(metadata={"plan": "free", "city": "Paris"})).then(
        {"type": "ContactUpdated", "changed": ["metadata.city", "metadata.plan"], "version": 2, "at": moment(2)}
    )
    assert story.contact(external_id="u-1").metadata == {"plan": "free", "seats": 3, "city": "Paris"}


def test_unset_removes_keys() -> None:
    """Removed keys do not appear as null."""
    story = given(PRO)
    story.when(patch(unset=["plan", "nothing"])).then({"type": "ContactUpdated", "changed": ["metadata.plan"]})
    assert story.contact(external_id="u-1").metadata == {"seats": 3}


def test_key_that_one_event_unsets_and_sets_is_set() -> None:
    """Removal comes first."""
    story = given(PRO)
    story.when(patch(metadata={"plan": "pro"}, unset=["plan"])).then_nothing()
    assert story.contact(external_id="u-1").metadata["plan"] == "pro"


def test_null_is_an_ordinary_value() -> None:
    """It is stored, hashed and removed like others."""
    story = given(PRO)
    story.when(patch(metadata={"plan": None})).then({"type": "ContactUpdated", "changed": ["metadata.plan"]})
    contact = story.contact(external_id="u-1")
    assert contact.metadata == {"plan": None, "seats": 3}
    assert contact.metadata_hash == metadata_hash({"seats": 3, "plan": None})
    story.when(patch(unset=["plan"], at=3)).then("ContactUpdated")


@pytest.mark.parametrize(("old", "new"), [(1, True), (True, 1), (1, "1"), (0, False), (None, False), ("", None), (1, 1.5)])
def test_value_of_another_type_is_another_value(old: object, new: object) -> None:
    """Python considers some of them equal."""
    story = given(identified("u-1", metadata={"k": old}, at=1))
    story.when(patch(metadata={"k": new})).then({"type": "ContactUpdated", "changed": ["metadata.k"]})
    value = story.contact(external_id="u-1").metadata["k"]
    assert (value, type(value)) == (new, type(new))


@pytest.mark.parametrize(("old", "new"), [(1, 1.0), (0, -0.0), (1e3, 1000)])
def test_number_in_another_form_is_equal(old: float, new: float) -> None:
    """`1` and `1.0`, `0` and `-0`."""
    given(identified("u-1", metadata={"k": old}, at=1)).when(patch(metadata={"k": new})).then_nothing()


def test_event_that_changes_no_metadata_is_a_no_op() -> None:
    """No change on the feed, no new version, no new `updatedAt`."""
    story = given(PRO)
    before = copy(story.contact(external_id="u-1"))
    story.when(patch(metadata={"plan": "pro"})).then_nothing()
    story.when(patch(unset=["nothing"])).then_nothing()
    story.when(patch()).then_nothing()
    story.when(patch(metadata={}, unset=[])).then_nothing()
    after = story.contact(external_id="u-1")
    assert (after.version, after.updated_at, after.metadata_hash) == (1, before.updated_at, before.metadata_hash)


def test_patch_that_repeats_a_value_may_remove_another() -> None:
    """Such an event says something new."""
    story = given(PRO)
    story.when(patch(metadata={"plan": "pro"}, unset=["seats"])).then({"type": "ContactUpdated", "changed": ["metadata.seats"]})


def test_no_op_advances_the_time_of_its_keys() -> None:
    """So a value that is older than the confirmation is late."""
    story = given(PRO, patch(metadata={"plan": "pro"}, at=5))
    story.when(patch(metadata={"plan": "free"}, at=4)).then_nothing("stale")


def test_repeated_identification_is_a_no_op() -> None:
    """A page may repeat it at every view."""
    again = identified("u-1", "ada@example.org", "v-1", name="Ada", image="/a.png", metadata={"plan": "pro"})
    story = given(again)
    story.when(again).then_nothing()
    assert story.contact(external_id="u-1").updated_at == log_at(0)


@pytest.mark.parametrize("target", [{"externalId": "u-1"}, {"email": "ADA@example.org"}, {"visitorId": "v-1"}])
def test_every_target_finds_the_contact(target: dict[str, str]) -> None:
    """An external id, an address in any case, a visitor."""
    story = given(identified("u-1", "ada@example.org", "v-1", at=1))
    story.when(metadata_set(**target, metadata={"plan": "pro"}, at=2)).then(
        {"type": "ContactUpdated", "changed": ["metadata.plan"], "contactId": story.contacts[0].id}
    )


def test_address_in_another_case_changes_nothing() -> None:
    """Metadata uses the address as a target and does not change its spelling, so this is a no-op."""
    story = given(identified("u-1", "Ada@example.org", metadata={"plan": "pro"}))
    story.when(metadata_set(email="ada@EXAMPLE.org", metadata={"plan": "pro"})).then_nothing()
    assert story.contact(external_id="u-1").email == "Ada@example.org"


def test_anonymous_visitor_keeps_its_metadata() -> None:
    """There is no contact yet, so the feed gets nothing."""
    story = given(seen(at=1))
    story.when(metadata_set(visitorId="v-1", metadata={"theme": "dark"})).then_nothing("folded")
    story.when(metadata_set(visitorId="v-1", metadata={"theme": "dark"})).then_nothing()
    assert story.visitor().metadata == {"theme": "dark"}
    assert story.contacts == []


def test_first_identification_brings_anonymous_metadata() -> None:
    """Each key keeps its effective time: a newer value of the contact stays, an older one does not."""
    story = given(
        identified("u-1", metadata={"theme": "light", "plan": "pro"}, at=3),
        metadata_set(visitorId="v-1", metadata={"theme": "dark"}, at=4),
        metadata_set(visitorId="v-1", metadata={"plan": "free", "city": "Paris"}, at=2),
    )
    story.when(identified("u-1", visitor_id="v-1", at=5)).then(
        {"type": "ContactUpdated", "changed": ["metadata.city", "metadata.theme"]}, "VisitorLinked"
    )
    assert story.contact(external_id="u-1").metadata == {"theme": "dark", "plan": "pro", "city": "Paris"}
    story.when(patch(metadata={"theme": "light"}, at=3.5)).then_nothing("stale")
    assert story.visitor().metadata == {"theme": "dark", "plan": "free", "city": "Paris"}


@pytest.mark.parametrize(
    ("anonymous", "expected"),
    [({"metadata": {"plan": "free"}}, {"plan": "pro", "seats": 3}), ({"unset": ["plan"]}, {"plan": "pro", "seats": 3})],
)
def test_metadata_of_the_contact_stays_at_equal_times(anonymous: dict[str, Any], expected: dict[str, Any]) -> None:
    """Neither the visitor's value nor the contact's comes from a later entry."""
    story = given(metadata_set(visitorId="v-1", **anonymous, at=1), PRO)
    story.when(identified("u-1", visitor_id="v-1", at=4)).then("VisitorLinked")
    assert story.contact(external_id="u-1").metadata == expected


def test_anonymous_metadata_is_brought_once() -> None:
    """The next person who uses the device does not get it."""
    story = given(
        metadata_set(visitorId="v-1", metadata={"theme": "dark"}, at=1),
        identified("u-1", visitor_id="v-1", at=2),
        identified("u-2", visitor_id="v-1", at=3),
    )
    assert story.contact(external_id="u-2").metadata == {}


def test_metadata_after_the_identification_belongs_to_the_contact() -> None:
    """The visitor's own metadata stays what it was while it was anonymous."""
    story = given(metadata_set(visitorId="v-1", metadata={"theme": "dark"}, at=1), identified("u-1", visitor_id="v-1", at=2))
    story.when(metadata_set(visitorId="v-1", metadata={"theme": "light"}, at=3)).then("ContactUpdated")
    assert story.visitor().metadata == {"theme": "dark"}
    assert story.contact(external_id="u-1").metadata == {"theme": "light"}


def test_key_that_an_anonymous_visitor_removed_is_removed() -> None:
    """A removal has an effective time, before the identification as well as after it."""
    story = given(metadata_set(visitorId="v-1", unset=["plan"], at=3), PRO, identified("u-1", visitor_id="v-1", at=4))
    assert story.contact(external_id="u-1").metadata == {"seats": 3}


def test_contact_has_the_hash_of_its_whole_metadata() -> None:
    """It is not the hash of the patch."""
    story = given(identified("u-1"))
    assert story.contact(external_id="u-1").metadata_hash == EMPTY_HASH
    story.given(patch(metadata={"b": 1}), patch(metadata={"a": "é"}))
    assert story.contact(external_id="u-1").metadata_hash == metadata_hash({"a": "é", "b": 1})
    story.given(patch(unset=["a", "b"], at=3))
    assert story.contact(external_id="u-1").metadata_hash == EMPTY_HASH


def test_hash_of_an_event_is_that_of_its_own_metadata() -> None:
    """Regardless of the contact's metadata. An event with a wrong hash is rejected and has no effect."""
    good = metadata_hash({"plan": "free"})
    story = given(PRO)
    story.when(patch(metadata={"plan": "free"}, hash="0" * 64)).then_rejected("hash-mismatch", "hash: expected", good)
    story.when(patch(metadata={"plan": "free"}, hash=good.upper())).then_rejected("hash-mismatch")
    assert story.contact(external_id="u-1").metadata["plan"] == "pro"
    story.when(patch(metadata={"plan": "free"}, hash=good)).then("ContactUpdated")
    story.when(patch(hash=EMPTY_HASH)).then_nothing()
