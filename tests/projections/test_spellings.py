"""Spellings of one identifier name one contact, look-alikes name two, and blocked identifiers none (contract section 2)."""

import pytest

from tests.support.folding import given, identified, metadata_set, moment, seen

COMPOSED, DECOMPOSED = "jos\u00e9@example.org", "jose\u0301@example.org"
KATE, KELVIN = "kate@example.org", "\u212aate@example.org"
JUNK_ADDRESSES = ["undefined@undefined", "null@example.org", "user_undefined@example.org", "${email}"]
JUNK = ["nan", "NULL", "<nil>", "(null)", "\\N", "user_undefined", "${userId}", "\u200b", *JUNK_ADDRESSES]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (COMPOSED, DECOMPOSED),
        (COMPOSED, "JOS\u00c9@Example.ORG"),
        ("ada@b\u00fccher.example", "ada@xn--bcher-kva.example"),
        ("ada@b\u00fccher.example", "ada@BU\u0308CHER.Example."),
        ("ada@xn--bcher-kva.example", "ada@XN--BCHER-KVA.example"),
        ("ada@example.org", "ada@example.org."),
        ("ada@example.org", "\ufeffada@example.org"),
        ("ada@example.org", "\u200bAda@example.org\u2060 "),
    ],
)
def test_two_spellings_of_an_address_are_one_contact(first: str, second: str) -> None:
    """In either order. The contact shows the latest spelling, and a new spelling is a change."""
    for one, other in ((first, second), (second, first)):
        story = given(identified(email=one, visitor_id="v-1"))
        shown = other.strip(" \ufeff\u200b\u2060")
        changed = ["email"] if shown != story.contacts[0].email else []
        story.when(identified(email=other, visitor_id="v-1", metadata={"plan": "pro"})).then(
            {"type": "ContactUpdated", "changed": ["email", "metadata.plan"] if changed else ["metadata.plan"]}
        )
        assert [contact.email for contact in story.contacts] == [shown]
        assert len(story.emails) == 1


def test_external_id_takes_an_address_in_another_spelling() -> None:
    """The second table of section 5 compares addresses by their keys: E is merged into T, or gains the external id."""
    story = given(identified(email=COMPOSED), identified("u-1"))
    story.when(identified("u-1", DECOMPOSED)).then("ContactUpdated", "ContactsMerged")
    assert [(each.external_id, each.email) for each in story.contacts] == [("u-1", DECOMPOSED)]

    story = given(identified(email="ada@b\u00fccher.example"))
    story.when(identified("u-1", "ada@xn--bcher-kva.example")).then(
        {"type": "ContactUpdated", "changed": ["externalId", "email"]}
    )


def test_address_that_was_given_up_is_free_in_every_spelling() -> None:
    """u-1 has another address now; u-2 takes the old one in another spelling."""
    story = given(identified("u-1", COMPOSED), identified("u-1", "other@example.org"), identified("u-2", DECOMPOSED))
    assert story.contact(email=COMPOSED).external_id == "u-2"
    assert story.contact(email="other@example.org").external_id == "u-1"


def test_same_conflict_in_another_spelling_is_not_emitted_again() -> None:
    """The address belongs to u-2 in any spelling."""
    story = given(identified("u-1"), identified("u-2", COMPOSED))
    story.when(identified("u-1", COMPOSED)).then({"type": "IdentityConflict", "email": COMPOSED})
    story.when(identified("u-1", DECOMPOSED)).then_nothing()


def test_metadata_for_an_address_finds_the_contact_in_any_spelling() -> None:
    """Like identifications."""
    story = given(identified("u-1", "ada@b\u00fccher.example"))
    story.when(metadata_set(email="ADA@xn--bcher-kva.example.", metadata={"a": 1})).then(
        {"type": "ContactUpdated", "changed": ["metadata.a"]}
    )


def test_look_alike_does_not_take_an_address() -> None:
    """The lower case of KELVIN SIGN is k, and its normal form is K: neither makes it Kate's address."""
    story = given(identified("u-kate", KATE), identified("u-other", KELVIN))
    assert story.contact(email=KATE).external_id == "u-kate"
    assert story.contact(email=KELVIN).external_id == "u-other"
    assert len(story.contacts) == 2

    for other in ("\u0130da@example.org", "\u0131da@example.org"):
        assert len(given(identified(email="ida@example.org"), identified(email=other)).contacts) == 2
    assert len(given(identified(email="ada@strasse.example"), identified(email="ada@stra\u00dfe.example")).contacts) == 2


def test_look_alike_does_not_take_an_external_id() -> None:
    """An external id in another normal form is the same, but KELVIN SIGN is not K. Case matters."""
    assert len(given(identified("caf\u00e9"), identified("\ufeffcafe\u0301")).contacts) == 1
    assert len(given(identified("K-1"), identified("\u212a-1"), identified("k-1")).contacts) == 3


def test_spellings_of_a_visitor_are_one_visitor() -> None:
    """The id is stripped and in normal form."""
    story = given(seen("caf\u00e9", at=1), seen("\u200bcafe\u0301\ufeff", at=2))
    assert list(story.state.visitors) == ["caf\u00e9"]
    assert story.visitor("caf\u00e9").last_seen_at == moment(2)


def test_contact_id_is_stripped() -> None:
    """Like every identifier."""
    story = given(identified("u-1"))
    contact_id = story.contact(external_id="u-1").id
    story.when(metadata_set(contactId=f"\ufeff {contact_id}\u200b", metadata={"a": 1})).then("ContactUpdated")


@pytest.mark.parametrize("junk", JUNK)
def test_blocked_identifier_does_not_make_strangers_one_person(junk: str) -> None:
    """An external id or an address counts as absent and is counted. Alone, or as a visitor id, it is rejected."""
    strangers = ("ada", "ben")
    if junk in JUNK_ADDRESSES:
        alone, events = identified(email=junk), [identified(f"u-{each}", junk) for each in strangers]
    else:
        alone, events = identified(junk), [identified(junk, f"{each}@example.org") for each in strangers]
    story = given()
    assert [story.when(event).outcome.blocked for event in events] == [1, 1]
    assert len(story.contacts) == 2
    story.when(alone).then_rejected("blocked-identifier")
    story.when(seen(junk)).then_rejected("blocked-identifier")
    assert story.state.visitors == {}
