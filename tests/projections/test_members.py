"""The sorted set `members` and the list of a contact's newest visitors when only some are loaded (section 5)."""

import pytest

from kinfold_projections import members
from kinfold_projections.members import Membership
from kinfold_projections.records import ContactRecord, ContactStamps, new_contact
from kinfold_schemas.changes import ContactUpdated, decode_change, encode_change
from tests.support.folding import STORY_START_MS, entry_of, identified, moment
from tests.support.store import Store

MEMBERS = [Membership(STORY_START_MS + 1000 * second, f"v-{second:02}") for second in range(60)]
ADA = "ada@example.org"


@pytest.fixture(autouse=True)
def _short_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "LISTED_VISITORS", 2)


def contact_of(count: int, *listed: int) -> tuple[ContactRecord, ContactStamps]:
    """A contact with this number of visitors that lists these, and its stamps."""
    contact, stamps = new_contact("ct_1", moment(0)), ContactStamps()
    contact.visitor_count = count
    stamps.since = [MEMBERS[second].since_ms for second in listed]
    contact.visitor_ids = [MEMBERS[second].visitor_id for second in listed]
    return contact, stamps


def listed(contact: ContactRecord) -> list[int]:
    """The seconds of the visitors that a contact lists."""
    return [int(visitor_id.removeprefix("v-")) for visitor_id in contact.visitor_ids]


def test_visitor_below_the_known_ones_stays_unknown() -> None:
    """A visitor that was not loaded may be in between, so the next one is never guessed."""
    (contact, stamps), older = contact_of(10, 50, 40), [MEMBERS[30]]
    members.add(contact, stamps, older, MEMBERS[5])
    assert (contact.visitor_count, listed(contact), older) == (11, [50, 40], [MEMBERS[30]])
    members.add(contact, stamps, older, MEMBERS[35])
    assert older == [MEMBERS[35], MEMBERS[30]]


def test_two_lists_are_known_down_to_the_higher_gap() -> None:
    """A visitor missing in one list may be above a visitor in the other."""
    (more, stamps), less = contact_of(10, 50, 40), contact_of(10, 55, 20)
    older = members.unite(more, stamps, [MEMBERS[30]], *less, [MEMBERS[10], MEMBERS[9]])
    assert (more.visitor_count, listed(more), older) == (20, [55, 50], [MEMBERS[40], MEMBERS[30]])


def test_two_complete_lists_are_completely_known() -> None:
    """Whether the one or the other is longer."""
    (small, stamps), large = contact_of(1, 30), contact_of(4, 50, 40)
    older = members.unite(small, stamps, [], *large, [MEMBERS[20], MEMBERS[10]])
    assert (small.visitor_count, listed(small), older) == (5, [50, 40], [MEMBERS[30], MEMBERS[20], MEMBERS[10]])


def test_visitor_that_was_not_loaded_cannot_be_listed() -> None:
    """A wrong list is never stored: the fold raises an error if too little was loaded."""
    contact, stamps = contact_of(10, 50, 40)
    with pytest.raises(LookupError, match="knows 1 of 9 visitors"):
        members.remove(contact, stamps, [], MEMBERS[50])


def test_merged_contact_is_placed_at_its_newest_link() -> None:
    """It stays the upper bound of all its visitors: a link that continues after the merge is to the living contact."""
    log = [
        identified(None, ADA, "v-1", at=1),
        identified(None, ADA, "v-1", at=10),
        identified("u-1", visitor_id="v-2", at=2),
        identified("u-1", ADA, at=20),
        identified("u-2", visitor_id="v-1", at=5),
    ]
    store = Store()
    store.fold_batch([entry_of(f"{1767229200000 + number}-0", event) for number, event in enumerate(log)])
    living = store.external_ids["u-1"]
    assert sorted(each.visitor_id for each in store.memberships(living)) == ["v-1", "v-2"]


def test_visitor_that_was_linked_earlier_than_known_makes_room() -> None:
    """A late identification of the same contact moves it down the list, so the batch must know the next one."""
    log = [identified("u-1", visitor_id=f"v-{second}", at=second) for second in (5, 6, 7)]
    entries = [entry_of(f"{1767229200000 + number}-0", event) for number, event in enumerate(log)]
    store = Store()
    store.fold_batch(entries)
    (outcome,) = store.fold_batch([entry_of("1767229300000-0", identified("u-1", visitor_id="v-7", at=1))])
    change = decode_change(encode_change(*outcome.changes))
    assert isinstance(change, ContactUpdated)
    assert (change.changed, change.contact.visitor_ids) == (["visitorIds"], ["v-6", "v-5"])
