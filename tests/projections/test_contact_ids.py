"""Contact ids (contract section 5)."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from kinfold_projections.contact_ids import make_contact_id
from tests.support.folding import Story, identified, metadata_set, seen

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base32, in lower case: no i, l, o and u."""

milliseconds = st.integers(0, 2**48 - 1)


def bits(contact_id: str) -> int:
    """The number that an id encodes."""
    number = 0
    for digit in contact_id.removeprefix("ct_"):
        number = number << 5 | ALPHABET.index(digit)
    return number


@given(milliseconds, st.integers(0, 2**64 - 1), st.text("abc-_", min_size=1))
def test_id_has_48_bits_of_time_and_80_bits_of_a_hash(ms: int, seq: int, workspace: str) -> None:
    """The time is that of the creating entry and not the effective time; the hash is of workspace and entry id."""
    contact_id = make_contact_id(workspace, f"{ms}-{seq}")
    assert contact_id.startswith("ct_")
    assert len(contact_id) == len("ct_") + 26
    assert bits(contact_id) >> 80 == ms
    digest = hashlib.sha256(f"{workspace}\0{ms}-{seq}".encode()).digest()
    assert bits(contact_id) % 2**80 == int.from_bytes(digest[:10])


@given(milliseconds, milliseconds)
def test_ids_sort_by_creation(one: int, other: int) -> None:
    """As text."""
    first, second = make_contact_id("default", f"{one}-0"), make_contact_id("default", f"{other}-0")
    assert (first < second) == (one < other) or one == other


def test_replay_gives_the_same_ids() -> None:
    """Another workspace or entry gives other ids."""
    assert make_contact_id("default", "1-2") == make_contact_id("default", "1-2")
    ids = {make_contact_id(workspace, f"{ms}-{seq}") for workspace in ("a", "b") for ms in (1, 2) for seq in (0, 1)}
    assert len(ids) == 8


def test_id_of_a_known_entry_never_changes() -> None:
    """It must never change, because dashboards store ids."""
    assert make_contact_id("default", "1767229200000-0") == "ct_01kdvh35m0bbmf7ttxbrqk8vvq"


def test_id_comes_from_the_entry_that_creates_the_contact() -> None:
    """It does not come from the entry that first saw the visitor."""
    story = Story("acme")
    story.when(seen(), "1767229200000-0")
    story.when(identified("u-1", visitor_id="v-1", at=1), "1767229200000-7")
    story.when(metadata_set(email="a@b"), "1767229200001-0")
    assert [contact.id for contact in story.contacts] == [
        make_contact_id("acme", "1767229200000-7"),
        make_contact_id("acme", "1767229200001-0"),
    ]
