"""Name and image, of contacts and of anonymous visitors (contract sections 3 and 4)."""

import pytest

from kinfold_projections import metadata, patching
from kinfold_schemas.canonical import EMPTY_HASH
from tests.support.folding import Event, given, identified, metadata_set, moment, seen

ADA = {"name": "Ada", "image": "/ada.png"}
BEN = {"name": "Ben", "image": "/ben.png"}


def anonymous(at: float, **fields: str | None) -> Event:
    """An event with a profile of an anonymous visitor."""
    return metadata_set(visitorId="v-1", at=at, **fields)


@pytest.mark.parametrize("target", [{"externalId": "u-1"}, {"email": "ada@example.org"}, {"visitorId": "v-1"}])
def test_metadata_set_sets_the_name_and_image_of_a_contact(target: dict[str, str]) -> None:
    """Like an identification."""
    story = given(identified("u-1", "ada@example.org", "v-1", name="Ada", at=1))
    story.when(metadata_set(**target, **BEN, at=2)).then({"type": "ContactUpdated", "changed": ["name", "image"]})
    contact = story.contact(external_id="u-1")
    assert (contact.name, contact.image) == ("Ben", "/ben.png")


def test_name_and_image_of_metadata_set_follow_last_write_wins() -> None:
    """Each has its own time, and both types of event write the same value."""
    story = given(identified("u-1", name="Ada", at=5), metadata_set(externalId="u-1", image="/new.png", at=7))
    story.when(metadata_set(externalId="u-1", name="Late", at=4)).then_nothing("stale")
    story.when(identified("u-1", image="/late.png", at=6)).then_nothing("stale")
    story.when(metadata_set(externalId="u-1", name="Ben", at=5)).then({"type": "ContactUpdated", "changed": ["name"]})
    story.when(metadata_set(externalId="u-1", name="Ben", at=9)).then_nothing()
    story.when(identified("u-1", name="Late", at=8)).then_nothing("stale")


def test_null_name_changes_nothing() -> None:
    """Null is the same as absent."""
    story = given(identified("u-1", **ADA, at=1))
    story.when(metadata_set(externalId="u-1", name=None, image=None)).then_nothing()
    assert story.contact(external_id="u-1").name == "Ada"


def test_contact_that_metadata_set_creates_has_the_name() -> None:
    """One change contains everything."""
    story = given()
    story.when(metadata_set(externalId="u-1", **ADA, at=1)).then("ContactCreated")
    contact = story.contact(external_id="u-1")
    assert (contact.name, contact.image, contact.version) == ("Ada", "/ada.png", 1)


def test_hash_of_metadata_does_not_cover_the_name() -> None:
    """Neither in the event nor in the contact."""
    story = given(identified("u-1"))
    story.when(metadata_set(externalId="u-1", name="Ada", hash=EMPTY_HASH)).then("ContactUpdated")
    assert story.contact(external_id="u-1").metadata_hash == EMPTY_HASH


def test_anonymous_visitor_keeps_its_name_and_image() -> None:
    """There is no contact yet, so the feed gets nothing."""
    story = given(seen(at=1))
    story.when(anonymous(3, **ADA)).then_nothing("folded")
    story.when(anonymous(4, **ADA)).then_nothing()
    story.when(anonymous(3.5, name="Late")).then_nothing("stale")
    story.when(anonymous(4, name="Ben")).then_nothing("folded")
    visitor = story.visitor()
    assert (visitor.name, visitor.image, visitor.metadata) == ("Ben", "/ada.png", {})
    assert story.contacts == []


def test_first_identification_brings_name_and_image() -> None:
    """Each with its time: an earlier value of the contact is replaced, a later one stays."""
    story = given(identified("u-1", name="Ada", at=2), metadata_set(externalId="u-1", image="/ada.png", at=4))
    story.given(anonymous(3, **BEN))
    story.when(identified("u-1", visitor_id="v-1", at=5)).then({"type": "ContactUpdated", "changed": ["name"]}, "VisitorLinked")
    contact = story.contact(external_id="u-1")
    assert (contact.name, contact.image) == ("Ben", "/ada.png")
    story.when(identified("u-1", name="Late", at=2.5)).then_nothing("stale")


def test_new_contact_has_the_name_of_its_visitor() -> None:
    """The first identification creates it with everything that is known."""
    story = given(anonymous(1, **ADA))
    story.when(identified("u-1", visitor_id="v-1", at=2)).then("ContactCreated", "VisitorLinked")
    contact = story.contact(external_id="u-1")
    assert (contact.name, contact.image) == ("Ada", "/ada.png")


def test_name_of_the_contact_stays_at_equal_times() -> None:
    """Neither the visitor's name nor the contact's comes from a later entry."""
    story = given(identified("u-1", **ADA, at=3), anonymous(3, **BEN), identified("u-1", visitor_id="v-1", at=5))
    contact = story.contact(external_id="u-1")
    assert (contact.name, contact.image) == ("Ada", "/ada.png")


def test_name_of_the_identification_is_written_last() -> None:
    """It wins over the visitor's name at equal times, and loses to a newer one."""
    story = given(anonymous(3, **BEN), identified("u-1", visitor_id="v-1", **ADA, at=3))
    assert story.contact(external_id="u-1").name == "Ada"
    story = given(anonymous(3, **BEN), identified("u-1", visitor_id="v-1", **ADA, at=2))
    assert story.contact(external_id="u-1").name == "Ben"


def test_name_is_brought_to_one_contact_only() -> None:
    """The second person who uses the device does not get it, and the visitor still has it."""
    story = given(anonymous(1, **ADA), identified("u-1", visitor_id="v-1", at=2), identified("u-2", visitor_id="v-1", at=3))
    assert story.contact(external_id="u-2").name is None
    assert story.visitor().name == "Ada"


def test_name_after_the_identification_belongs_to_the_contact() -> None:
    """The visitor keeps the name that it brought."""
    story = given(anonymous(1, **ADA), identified("u-1", visitor_id="v-1", at=2), anonymous(3, **BEN))
    assert story.contact(external_id="u-1").name == "Ben"
    assert story.visitor().name == "Ada"


def test_merge_also_brings_the_name_of_the_visitor() -> None:
    """Of three names, the latest stays."""
    story = given(identified("u-1", name="X", at=1), identified(None, "ada@example.org", name="E", at=2), anonymous(3, **BEN))
    story.when(identified("u-1", "ada@example.org", "v-1", at=4)).then("ContactUpdated", "VisitorLinked", "ContactsMerged")
    assert story.contact(external_id="u-1").name == "Ben"


def test_name_alone_does_not_lift_the_limit_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only metadata of a visitor is merged with the contact's."""
    for module in (patching, metadata):
        monkeypatch.setattr(module, "MAX_METADATA_KEYS", 2)
    story = given(identified("u-1", metadata={"a": 1, "b": 2}, at=1), anonymous(2, **ADA))
    story.when(identified("u-1", visitor_id="v-1", metadata={"c": 3}, at=3)).then_rejected("invalid")
    assert story.contact(external_id="u-1").last_seen_at == moment(1)
    assert story.contact(external_id="u-1").name is None
