"""At most 256 metadata keys in a contact (contract section 2, Limits)."""

import pytest

from kinfold_projections import metadata, patching
from tests.support.folding import Event, Story, given, identified, metadata_set, moment


def keys(first: int, count: int) -> dict[str, int]:
    """A number of keys."""
    return {f"k-{number:03}": number for number in range(first, first + count)}


def full(external_id: str = "u-1") -> Event:
    """A contact with the maximum number of keys."""
    return identified(external_id, metadata=keys(0, 256), at=1)


def assert_untouched(story: Story, event: Event) -> None:
    """Assert that the event is rejected and changes no contact, no visitor and no time."""
    story.state.take_changes()
    story.when(event).then_rejected("invalid", "metadata: expected at most 256 keys in a contact, got 257 keys")
    assert [bool(changed) for changed in _fields(story)] == [False] * 5


def _fields(story: Story) -> list[object]:
    changes = story.state.take_changes()
    return [changes.visitors, changes.contacts, changes.external_ids, changes.emails, changes.members]


def test_256_keys_may_come_in_several_events() -> None:
    """The last key that fits, and the first that does not."""
    story = given(identified("u-1", metadata=keys(0, 200), at=1))
    story.when(metadata_set(externalId="u-1", metadata=keys(200, 56))).then("ContactUpdated")
    assert_untouched(story, metadata_set(externalId="u-1", metadata={"one more": 1}))
    assert_untouched(story, identified("u-1", "ada@example.org", "v-new", name="Ada", metadata={"one more": 1}))


def test_full_contact_can_still_change() -> None:
    """Its values, and one key for another."""
    story = given(full())
    story.when(metadata_set(externalId="u-1", metadata={"k-000": "new"})).then("ContactUpdated")
    story.when(metadata_set(externalId="u-1", metadata={"one more": 1}, unset=["k-000"])).then("ContactUpdated")
    assert len(story.contact(external_id="u-1").metadata) == 256


def test_late_key_takes_no_place() -> None:
    """It was removed later than it was set, so it does not exist."""
    story = given(metadata_set(externalId="u-1", unset=["late"], at=5), full())
    story.when(metadata_set(externalId="u-1", metadata={"late": 1}, at=4)).then_nothing("stale")


def test_anonymous_visitor_has_the_same_limit() -> None:
    """Otherwise it could never be identified."""
    story = given(metadata_set(visitorId="v-1", metadata=keys(0, 256), at=1))
    assert_untouched(story, metadata_set(visitorId="v-1", metadata={"one more": 1}))


def test_256_latest_keys_stay_in_a_merge() -> None:
    """200 and 200 keys: the 200 newer ones and 56 of the older, in the same order in every replay."""
    older = identified(None, "ada@example.org", metadata=keys(0, 200), at=1)
    newer = identified("u-1", metadata=keys(200, 200), at=2)
    for first, second in ((older, newer), (newer, older)):
        story = given(first, second)
        story.when(identified("u-1", "ada@example.org", at=3)).then("ContactUpdated", "ContactsMerged")
        assert story.contact(external_id="u-1").metadata.keys() == keys(144, 256).keys()


def test_merge_is_not_rejected_for_keys_of_its_own_event() -> None:
    """Otherwise two full contacts could never be merged if each page sends metadata with the identification."""
    story = given(
        identified(None, "ada@example.org", metadata=keys(0, 200), at=1), identified("u-1", metadata=keys(200, 200), at=2)
    )
    event = identified("u-1", "ada@example.org", metadata={"one more": 1}, at=3)
    story.when(event).then("ContactUpdated", "ContactsMerged")
    assert story.contact(external_id="u-1").metadata.keys() == keys(145, 255).keys() | {"one more"}


def test_merge_is_not_rejected_if_one_side_has_no_metadata() -> None:
    """An event that names both contacts merges the one that has only an address."""
    for first, second in (("u-1", None), (None, "u-1")):
        email = {None: "ada@example.org", "u-1": None}
        story = given(
            identified(first, email[first], metadata=keys(0, 256), at=1), identified(second, email[second], name="Ada", at=2)
        )
        event = identified("u-1", "ada@example.org", metadata={"one more": 1}, at=3)
        story.when(event).then("ContactUpdated", "ContactsMerged")
        assert story.contact(external_id="u-1").metadata.keys() == keys(1, 255).keys() | {"one more"}


def test_metadata_of_a_visitor_does_not_reject_its_identification() -> None:
    """Its anonymous metadata is merged with the contact's."""
    story = given(full(), metadata_set(visitorId="v-1", metadata=keys(256, 10), at=2))
    story.when(identified("u-1", visitor_id="v-1", at=3)).then("ContactUpdated", "VisitorLinked")
    assert story.contact(external_id="u-1").metadata.keys() == keys(10, 256).keys()


def test_removed_keys_take_no_place_and_are_limited() -> None:
    """At most 256 removed keys are remembered."""
    story = Story()
    for number in range(0, 1000, 100):
        event = {"externalId": "u-1", "at": moment(number)}
        story.given(
            {"type": "MetadataSet", **event, "metadata": keys(number, 100)},
            {"type": "MetadataSet", **event, "unset": list(keys(number, 100))},
        )
    contact = story.contact(external_id="u-1")
    assert contact.metadata == {}
    assert story.stamps(contact).metadata.keys() == keys(744, 256).keys()


def test_removals_are_counted_after_the_patch_of_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three removals are merged and two are remembered. The oldest still wins over a late value in the same event."""
    for module in (patching, metadata):
        monkeypatch.setattr(module, "MAX_METADATA_KEYS", 2)
    story = given(
        metadata_set(visitorId="v-1", unset=["k1"], at=2),
        identified("u-1", unset=["k2", "k3"], at=3),
        identified("u-1", visitor_id="v-1", metadata={"k1": "late", "k4": "new"}, at=1),
    )
    contact = story.contact(external_id="u-1")
    assert contact.metadata == {"k4": "new"}
    assert story.stamps(contact).metadata.keys() == {"k2", "k3", "k4"}


def test_metadata_of_a_first_identification_is_not_a_reason_to_reject() -> None:
    """A full contact, a visitor with one key, and an event with another: the 256 latest stay."""
    story = given(full(), metadata_set(visitorId="v-1", metadata=keys(256, 1), at=2))
    story.when(identified("u-1", visitor_id="v-1", metadata=keys(257, 1), at=3)).then("ContactUpdated", "VisitorLinked")
    assert story.contact(external_id="u-1").metadata.keys() == keys(2, 256).keys()
