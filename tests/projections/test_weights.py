"""What a contact and an anonymous visitor may weigh (contract section 2, Limits)."""

import random

import pytest

from kinfold_projections.entries import read_entries
from kinfold_projections.fold import fold
from kinfold_projections.records import TRUSTED, encode_record, encode_stamps
from kinfold_projections.state import State
from kinfold_schemas.contacts import LISTED_BYTES, MAX_CONTACT_BYTES, MAX_VISITOR_BYTES
from tests.support.folding import LOG_START_MS, Event, Story, given, identified, metadata_set, seen, wire

VALUE = "x" * 8000
LONG_ID = "\x01" * 252
"""As JSON, each of these characters takes six bytes."""


def heavy(count: int, *, first: int = 0) -> dict[str, str]:
    """A number of keys of 8,009 bytes and a comma each, as JSON."""
    return {f"k{number:02}": VALUE for number in range(first, first + count)}


def page(event: Event) -> Event:
    """The event as a page sends it."""
    return {**event, "source": "browser"}


def full(count: int = 8, *, of_pages: int = 0) -> Story:
    """A contact with this many heavy keys, the first ones from pages."""
    story = given(identified("u-1", at=1))
    for number in range(count):
        event = metadata_set(externalId="u-1", metadata=heavy(1, first=number), at=2 + number)
        story.when(page(event) if number < of_pages else event).then("ContactUpdated")
    return story


def size(story: Story) -> int:
    """The stored size of the contact."""
    return len(encode_record(story.contact(external_id="u-1")))


def assert_untouched(story: Story, event: Event, *in_detail: str) -> None:
    """Assert that the event is rejected and changes nothing."""
    story.state.take_changes()
    story.when(event).then_rejected("too-large", *in_detail)
    changes = story.state.take_changes()
    assert not any([changes.visitors, changes.contacts, changes.contact_stamps, changes.external_ids, changes.emails])
    assert not any([changes.members, changes.visitor_stamps, changes.new_visitors, changes.new_contacts])


def last_fitting(story: Story) -> int:
    """The length of the longest value of one more key that fits: `version` and `visitorCount` count 16 digits each."""
    counters = len(str(story.contact(external_id="u-1").version)) + 1
    return MAX_CONTACT_BYTES - (size(story) - counters + 32) - len(',"last":""')


def test_contact_weighs_at_most_64_kib() -> None:
    """The last byte that fits, and the first that does not."""
    for event in (metadata_set(externalId="u-1"), identified("u-1")):
        story = full(8)
        length = last_fitting(story)
        story.when({**event, "metadata": {"last": "x" * length}}).then("ContactUpdated")
        assert MAX_CONTACT_BYTES - 40 < size(story) <= MAX_CONTACT_BYTES

        story = full(8)
        more = {**event, "metadata": {"last": "x" * (length + 1)}}
        assert_untouched(story, more, "expected at most 65,536 bytes of contact, got 65,537 bytes")


@pytest.mark.parametrize("key", ["externalId", "email"])
def test_new_contact_of_one_event_weighs_at_most_64_kib(key: str) -> None:
    name = {"externalId": "u-9", "email": "ada@example.org"}[key]
    for kind in ("MetadataSet", "VisitorIdentified"):
        story = Story()
        event = {"type": kind, key: name, "metadata": heavy(8) | {"last": "x" * 1060}}
        assert_untouched(story, event, "expected at most 65,536 bytes of contact, got 65,")
        assert story.contacts == []


def test_new_visitor_name_or_address_counts() -> None:
    """What an identification brings is a part of the contact."""
    story = full(8)
    story.when(metadata_set(externalId="u-1", metadata={"last": "x" * last_fitting(story)})).then("ContactUpdated")
    assert_untouched(story, identified("u-1", visitor_id="v-new"), "got 65,543 bytes")
    assert_untouched(story, identified("u-1", name="Ada"), "got 65,537 bytes")
    assert_untouched(story, identified("u-1", "ada@example.org"), "of contact")
    story.when(identified("u-1", at=0)).then_nothing()


def test_contact_that_is_too_heavy_can_be_made_lighter() -> None:
    """One of an earlier version may be. What makes it no heavier is not rejected."""
    story = full(7)
    contact = story.contact(external_id="u-1")
    contact.metadata = {**contact.metadata, "big": "x" * 100_000}
    story.stamps(contact).metadata["big"] = TRUSTED
    story.state.write_contact(contact)
    assert_untouched(story, metadata_set(externalId="u-1", metadata={"one": "more"}), "of contact")
    assert_untouched(story, identified("u-1", visitor_id="v-1"), "of contact")
    story.when(metadata_set(externalId="u-1", metadata={"k00": "short"})).then("ContactUpdated")
    story.when(metadata_set(externalId="u-1", unset=["big"])).then("ContactUpdated")
    story.when(metadata_set(externalId="u-1", metadata={"one": "more"})).then("ContactUpdated")


def test_patch_that_says_nothing_new_makes_a_contact_lighter_that_is_too_heavy() -> None:
    """Keys of pages go, as for any patch of a trusted source."""
    story = full(7, of_pages=6)
    contact = story.contact(external_id="u-1")
    contact.metadata = {**contact.metadata, "big": "x" * 20_000}
    story.stamps(contact).metadata["big"] = TRUSTED
    story.state.write_contact(contact)
    story.when(metadata_set(externalId="u-1", metadata={"k06": contact.metadata["k06"]})).then("ContactUpdated")
    assert size(story) <= MAX_CONTACT_BYTES


def test_keys_of_pages_make_room_for_a_trusted_event() -> None:
    """The ones that were set longest ago."""
    for event in (metadata_set(externalId="u-1"), identified("u-1")):
        story = full(8, of_pages=8)
        story.when({**event, "metadata": heavy(2, first=90)}).then("ContactUpdated")
        assert story.contact(external_id="u-1").metadata.keys() == heavy(6, first=2).keys() | heavy(2, first=90).keys()
        assert (
            story.stamps(story.contact(external_id="u-1")).metadata.keys() == story.contact(external_id="u-1").metadata.keys()
        )


def test_trusted_keys_make_no_room() -> None:
    """Nor does any key for a page's MetadataSet."""
    assert_untouched(full(8, of_pages=0), metadata_set(externalId="u-1", metadata=heavy(2, first=90)), "got 80,")
    assert_untouched(full(8, of_pages=8), page(metadata_set(externalId="u-1", metadata=heavy(1, first=90))), "got 72,")


def test_page_cannot_block_identifications() -> None:
    """It has filled the contact, and the next device is identified all the same."""
    story = full(8, of_pages=8)
    for number in range(100):
        story.when(page(identified("u-1", visitor_id=f"v-{number}" + "x" * 100, visitorProven=True)))
        assert story.contact(external_id="u-1").visitor_count == number + 1
    assert size(story) <= MAX_CONTACT_BYTES
    assert story.contact(external_id="u-1").metadata.keys() == heavy(6, first=2).keys()


def test_most_recent_keys_stay_in_a_merge() -> None:
    """Trusted ones first, until the contact weighs no more than it may. The merge is not rejected."""
    story = given(
        identified("u-1", metadata=heavy(5), at=1), identified(None, "ada@example.org", metadata=heavy(5, first=10), at=3)
    )
    story.given(page(metadata_set(email="ada@example.org", metadata={"of-page": "x"}, at=9)))
    story.when(identified("u-1", "ada@example.org", at=10)).then("ContactUpdated", "ContactsMerged")
    contact = story.contact(external_id="u-1")
    assert contact.metadata.keys() == heavy(3, first=2).keys() | heavy(5, first=10).keys()
    assert MAX_CONTACT_BYTES - 8000 < size(story) <= MAX_CONTACT_BYTES


def test_first_identification_brings_what_fits() -> None:
    story = full(8)
    story.given(metadata_set(visitorId="v-1", metadata=heavy(2, first=90), at=20))
    story.when(identified("u-1", visitor_id="v-1", at=21)).then("ContactUpdated", "VisitorLinked")
    assert story.contact(external_id="u-1").metadata.keys() == heavy(6, first=2).keys() | heavy(2, first=90).keys()


def corrected(contact_id: str, **fields: object) -> Event:
    """A correction by hand."""
    return {"type": "IdentityCorrected", "by": "ada", "contactId": contact_id, **fields}


def test_corrections_have_the_same_limits() -> None:
    """Keys make room where one merges. One that sets too much is rejected, and changes nothing."""
    story = given(identified("u-1", metadata=heavy(5), at=1), identified("u-2", metadata=heavy(5, first=10), at=3))
    first, second = (story.contact(external_id=name).id for name in ("u-1", "u-2"))
    story.when(corrected(first, mergeContactId=second)).then("ContactUpdated", "ContactsMerged")
    contact = story.contact(external_id="u-1")
    assert contact.metadata.keys() == heavy(3, first=2).keys() | heavy(5, first=10).keys()
    assert size(story) <= MAX_CONTACT_BYTES
    assert_untouched(story, corrected(first, metadata=heavy(1, first=90)), "of contact")
    assert_untouched(story, corrected(first, image="x" * 2000, email="ada@example.org"), "of contact")
    story.when(corrected(first, unset=["k02"])).then("ContactUpdated")
    story.when(corrected(first, image="x" * 2000, email="ada@example.org")).then("ContactUpdated")
    story.given(page(metadata_set(externalId="u-1", metadata=heavy(1, first=50))))
    story.when(corrected(first, externalId="u-3", metadata=heavy(1, first=90))).then_rejected("too-large")


def test_identifiers_alone_do_not_fill_a_contact() -> None:
    """The longest ones that there are, with the longest name and image: there is room for metadata."""
    email = "𝄞" * 150 + "@" + "𝄞" * 150 + ".example.org"
    event = identified("\x01" + LONG_ID + "u", email[:320], name="\x01" * 170, image="\x01" * 682)
    story = given(*(identified("\x01" + LONG_ID + "u", visitor_id=f"{number:03}{LONG_ID}") for number in range(150)), event)
    contact = story.contacts[0]
    assert None not in {contact.name, contact.image, contact.email}
    assert contact.visitor_count == 150
    assert contact.visitor_ids == [f"{number:03}{LONG_ID}" for number in range(149, 139, -1)]
    assert len(encode_record(contact.visitor_ids)) <= LISTED_BYTES
    assert len(encode_record(contact)) < MAX_CONTACT_BYTES // 2
    story.when(metadata_set(contactId=contact.id, metadata=heavy(4))).then("ContactUpdated")


def test_visitors_whose_ids_are_long_are_listed_again_when_there_is_room() -> None:
    """Those that are not shown are known, in the order of their links."""
    story = given(*(identified("u-1", visitor_id=f"{number:03}{LONG_ID}", at=number) for number in range(30)))
    assert len(story.contact(external_id="u-1").visitor_ids) == 10
    for number in range(29, 9, -1):
        story.when(identified("u-2", visitor_id=f"{number:03}{LONG_ID}", at=100 + number))
    expected = [f"{number:03}{LONG_ID}" for number in range(9, -1, -1)]
    assert story.contact(external_id="u-1").visitor_ids == expected
    assert story.contact(external_id="u-1").visitor_count == 10


# --- visitors


def visitor_size(story: Story) -> int:
    """The stored size of the visitor."""
    return len(encode_record(story.visitor()))


def test_anonymous_visitor_weighs_at_most_16_kib() -> None:
    story = given(metadata_set(visitorId="v-1", metadata=heavy(1)))
    length = MAX_VISITOR_BYTES - visitor_size(story) - len(',"b":"","a":""') - 7000
    more = metadata_set(visitorId="v-1", metadata={"a": "x" * 7000, "b": "x" * (length + 1)})
    assert_untouched(story, more, "expected at most 16,384 bytes of visitor, got 16,385 bytes")
    story.when(metadata_set(visitorId="v-1", metadata={"a": "x" * 7000, "b": "x" * length})).then_nothing("folded")
    assert visitor_size(story) == MAX_VISITOR_BYTES


def test_context_that_is_too_large_is_rejected() -> None:
    """Also that of a visitor that is identified. Its links do not count."""
    large = seen(context={"a": "x" * 8000, "b": "x" * 8000, "c": "x" * 400})
    assert_untouched(Story(), large, "expected at most 16,384 bytes of visitor, got 16,5")
    story = given(*(identified(f"u-{number % 2}", visitor_id="v-1", at=number) for number in range(600)))
    story.when(seen(context={"a": "x" * 8000, "b": "x" * 8000}, at=700)).then("ContactSeen")
    assert_untouched(story, large, "of visitor")
    described = given(metadata_set(visitorId="v-1", metadata=heavy(2)))
    assert_untouched(described, seen(context={"url": "x" * 400}), "of visitor")
    described.when(seen(context={"url": "x" * 40})).then_nothing("folded")


def test_context_makes_room_for_metadata() -> None:
    """It is of the latest page view alone, and the next one brings another."""
    story = given(seen(context={"a": "x" * 8000}))
    story.when(metadata_set(visitorId="v-1", metadata={"a": "x"})).then_nothing("folded")
    assert story.visitor().context
    story.when(metadata_set(visitorId="v-1", metadata=heavy(2))).then_nothing("folded")
    assert story.visitor().context == {}
    assert story.visitor().metadata.keys() == {"a", "k00", "k01"}
    story = given(seen(context={"a": "x" * 8000, "b": "x" * 8000}))
    story.when(metadata_set(visitorId="v-1", metadata={"a": "x" * 400})).then_nothing("folded")
    assert story.visitor().context == {}


def test_keys_of_pages_make_room_for_a_trusted_event_about_a_visitor() -> None:
    story = given(page(metadata_set(visitorId="v-1", metadata=heavy(2))))
    assert_untouched(story, page(metadata_set(visitorId="v-1", metadata=heavy(1, first=9))), "of visitor")
    story.when(metadata_set(visitorId="v-1", metadata=heavy(1, first=9))).then_nothing("folded")
    assert story.visitor().metadata.keys() == {"k01", "k09"}


def test_limits_do_not_depend_on_batches_or_on_what_is_told() -> None:
    """Neither a replay, which encodes a contact once at its end, nor a projector, which loads it, decides differently."""
    dice = random.Random(7)  # noqa: S311  the dice make a test
    events: list[Event] = []
    for number in range(600):
        name, visitor = f"u-{dice.randrange(2)}", f"v-{dice.randrange(3)}"
        metadata = {f"k{dice.randrange(30)}": "x" * dice.randrange(8000) for _ in range(dice.randrange(3))}
        kinds = [
            metadata_set(externalId=name, metadata=metadata),
            metadata_set(visitorId=visitor, metadata=metadata),
            identified(name, None, visitor, metadata=metadata),
            identified(None, f"m{number % 9}@x.io", metadata=metadata),
            identified(name, f"m{number % 9}@x.io"),
            identified(name, visitor_id=f"{number:03}{LONG_ID}"),
            seen(visitor, context={"url": "x" * dice.randrange(8000)}),
        ]
        event = dice.choice(kinds)
        events.append(page(event) if dice.random() < 0.4 else event)
    raws = [(f"{LOG_START_MS + number}-0".encode(), {b"event": wire(event)}) for number, event in enumerate(events)]
    entries = read_entries(raws)

    at_once, quiet, loaded = State("w"), State("w", tells=False), State("w")
    outcomes = fold(at_once, entries)
    expected = at_once.take_changes()
    quietly = [outcome.rejection for entry in entries for outcome in fold(quiet, [entry])]
    one_by_one = [(loaded, fold(loaded, [entry]))[1][0] for entry in entries if _reload(loaded)]
    rejections = [outcome.rejection for outcome in outcomes]
    assert quietly == rejections == [outcome.rejection for outcome in one_by_one]
    assert 20 < sum(each is not None and each.reason == "too-large" for each in rejections) < 400
    assert quiet.take_changes().contacts.keys() == expected.contacts.keys()
    for state in (quiet, loaded):
        assert {each: encode_record(state.contacts[each]) for each in expected.contacts} == expected.contacts
    assert max(map(len, expected.contacts.values())) <= MAX_CONTACT_BYTES


def _reload(state: State) -> bool:
    """Hold every record as if it was loaded just now."""
    state.take_changes()
    for visitor_id, visitor in list(state.visitors.items()):
        stamps = state.visitor_stamps.get(visitor_id)
        state.hold_visitor(visitor_id, encode_record(visitor), None if stamps is None else encode_stamps(stamps))
    return True
