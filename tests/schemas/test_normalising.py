"""Different spellings of the same identifier or number (contract section 2, Comparing and Normalising)."""

import unicodedata
from typing import Any

import idna
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kinfold_schemas.events import MetadataSet
from kinfold_schemas.identifiers import CONTRACT_RULES, IdentifierRules, email_key, id_key, stripped
from kinfold_schemas.rejections import Rejection
from tests.support.judging import accepted, refused


def metadata_of(number: str) -> Any:
    """The metadata value decoded from a JSON number or literal."""
    event = accepted(b'{"type":"MetadataSet","visitorId":"v-1","metadata":{"k":%s}}' % number.encode()).event
    assert isinstance(event, MetadataSet)
    assert event.metadata is not None
    return event.metadata["k"]


@pytest.mark.parametrize("written", ["u-1", " u-1", "u-1\t", "\u2003u-1\r\n"])
def test_white_space_around_an_identifier_is_stripped(written: str) -> None:
    """White space inside it is kept."""
    names = accepted({"type": "VisitorIdentified", "externalId": written, "visitorId": written}).names
    assert (names.external_id, names.visitor_id) == ("u-1", "u-1")
    assert accepted({"type": "VisitorSeen", "visitorId": " a b "}).names.visitor_id == "a b"


def test_identifiers_keep_their_case() -> None:
    """Only addresses ignore case."""
    assert accepted({"type": "VisitorIdentified", "externalId": "U-1"}).names.external_id == "U-1"


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("\ufeffu-1\u200b", "u-1"),
        ("\u2060 \u200c\u200du-1", "u-1"),
        ("u\u200b1", "u\u200b1"),
        ("jose\u0301", "jos\u00e9"),
        ("Jos\u00e9", "Jos\u00e9"),
        ("\u212b", "\u00c5"),
        ("\u212ate", "\u212ate"),
        ("\u037e", "\u037e"),
        ("\u1fef", "\u1fef"),
        ("\u212a\u0327e\u0301", "\u212a\u0327\u00e9"),
        ("\uff11", "\uff11"),
        ("xn--bcher-kva", "xn--bcher-kva"),
    ],
)
def test_key_of_an_id_is_stripped_and_in_normal_form(written: str, key: str) -> None:
    """Non-ASCII never becomes ASCII: the normal form of KELVIN SIGN is K, which may be the id of another person."""
    assert id_key(written) == key
    names = accepted({"type": "VisitorIdentified", "externalId": written, "visitorId": written}).names
    assert (names.external_id, names.visitor_id) == (key, key)


@pytest.mark.parametrize("written", ["e\u0301" * 255, "  " + "\u00e9" * 255 + "\ufeff"])
def test_length_of_an_id_is_counted_in_normal_form(written: str) -> None:
    """Because the normal form is stored."""
    assert accepted({"type": "VisitorSeen", "visitorId": written}).names.visitor_id == "\u00e9" * 255
    refused({"type": "VisitorSeen", "visitorId": written.strip("\ufeff") + "e\u0301"}, "invalid", "256 characters")


@pytest.mark.parametrize(
    ("written", "shown", "key"),
    [
        (" Ada@Example.ORG ", "Ada@Example.ORG", "ada@example.org"),
        ("\ufeffAda@example.org", "Ada@example.org", "ada@example.org"),
        ("\u200bada@example.org\u2060", "ada@example.org", "ada@example.org"),
        ("ada@Example.org.", "ada@Example.org.", "ada@example.org"),
        ("jose\u0301@example.org", "jose\u0301@example.org", "jos\u00e9@example.org"),
        ("JOS\u00c9@example.org", "JOS\u00c9@example.org", "jos\u00e9@example.org"),
        ("JOSE\u0301@example.org", "JOSE\u0301@example.org", "jos\u00e9@example.org"),
        ("ada@b\u00fccher.example", "ada@b\u00fccher.example", "ada@xn--bcher-kva.example"),
        ("ada@BU\u0308CHER.example", "ada@BU\u0308CHER.example", "ada@xn--bcher-kva.example"),
        ("ada@XN--Bcher-KVA.Example", "ada@XN--Bcher-KVA.Example", "ada@xn--bcher-kva.example"),
        ("ada@\u4f8b\u3048.\u30c6\u30b9\u30c8", "ada@\u4f8b\u3048.\u30c6\u30b9\u30c8", "ada@xn--r8jz45g.xn--zckzah"),
        ("ada@stra\u00dfe.example", "ada@stra\u00dfe.example", "ada@xn--strae-oqa.example"),
        ("\u212aate@example.org", "\u212aate@example.org", "\u212aate@example.org"),
        ("\u0130da@example.org", "\u0130da@example.org", "\u0130da@example.org"),
        ("I\u0307da@example.org", "I\u0307da@example.org", "\u0130da@example.org"),
        ("\u0131da@example.org", "\u0131da@example.org", "\u0131da@example.org"),
        ("\u017fam@example.org", "\u017fam@example.org", "\u017fam@example.org"),
        ("\u212bsa@example.org", "\u212bsa@example.org", "\u00e5sa@example.org"),
        (
            "\u039d\u0399\u039a\u039f\u03a3@example.org",
            "\u039d\u0399\u039a\u039f\u03a3@example.org",
            "\u03bd\u03b9\u03ba\u03bf\u03c3@example.org",
        ),
        (
            "\u03bd\u03b9\u03ba\u03bf\u03c2@x.org",
            "\u03bd\u03b9\u03ba\u03bf\u03c2@x.org",
            "\u03bd\u03b9\u03ba\u03bf\u03c3@x.org",
        ),
        ("\u0418\u0432\u0430\u043d@x.org", "\u0418\u0432\u0430\u043d@x.org", "\u0438\u0432\u0430\u043d@x.org"),
        ("J\u030cx@x.org", "J\u030cx@x.org", "\u01f0x@x.org"),
    ],
)
def test_address_is_kept_as_written_and_compared_by_its_key(written: str, shown: str, key: str) -> None:
    """Case is folded within ASCII and within non-ASCII, never across."""
    assert accepted({"type": "VisitorIdentified", "email": written}).names.email == shown
    assert email_key(written) == email_key(shown) == key


def test_domain_with_compatibility_characters_is_not_the_ascii_domain() -> None:
    """They are not valid in a domain, and two contacts are better than one wrong one."""
    keys = {email_key(f"ada@{domain}") for domain in ("kate.example", "\u212aate.example", "\uff4bate.example")}
    assert len(keys) == 3


@pytest.mark.parametrize("label", ["\u00fc" * 64, "\u00fc" * 60, "-\u00fc-", "\u2603", "\ufeff\u00fc", "\ud800", "_\u00fc"])
def test_invalid_label_has_a_key(label: str) -> None:
    """A label too long for the DNS is only lowercased, so the time for a long text stays linear."""
    key = email_key(f"ada@{label.upper()}.example")
    assert key == email_key(f"ada@{label}.example") == email_key(key)
    assert key.isascii() == (len(label) < 60)


_IDNA_LABELS = [
    "b\u00fccher",
    "fa\u00df",
    "\u03b2\u03cc\u03bb\u03bf\u03c2",
    "\u0646\u0627\u0645\u0647",
    "\u0928\u0947\u092a\u093e\u0932",
    "\ud55c\uad6d",
    "\u0440\u0444",
]


@pytest.mark.parametrize("label", _IDNA_LABELS)
def test_key_of_a_valid_label_is_its_idna_2008_a_label(label: str) -> None:
    """According to the package `idna`, which only the tests use."""
    assert email_key(f"a@{label}.org") == f"a@{idna.alabel(label).decode()}.org"


@pytest.mark.parametrize(
    "email",
    [f"ad{inside}a@example.org" for inside in " \t\x00\x1f\x7f\x85\xa0\u200b\u200d\u2060\ufeff\u3000"]
    + ["ada@exam\u200cple.org", "ada @example.org", "ada@ example.org", "@example.org", "ada@.", "ada@...", "ada@example .org"],
)  # fmt: skip
def test_address_with_invisible_characters_inside_is_rejected(email: str) -> None:
    """White space, control and zero-width characters; also a missing local part or domain."""
    refused({"type": "VisitorIdentified", "externalId": "u-1", "email": email}, "invalid")


# The characters that normalising changes, so that random texts contain many of them.
_ODD = (
    "aKk.@Ii\u017f\u03c2\u03a3\u03c3\u00df\u1e9e\u00e9\u0301\u0307\u0323\u0327\u212a\u212b\u0130\u0131\u037e\u1fef"
    "\u200b\ufeff \u00a0\u3000\ud55c\u1112\u1161\u01c5\ufb01\ud800\U0001e900"
)
texts = st.text(st.one_of(st.sampled_from(_ODD), st.characters(codec=None, categories=None)), max_size=40)


@given(texts)
@example("e\u0301.\u200b.@. .")
@example("\u0301\u212a\u0301@\u0301")
def test_key_of_a_key_is_the_key_itself(text: str) -> None:
    """For every text, well-formed or not."""
    assert email_key(email_key(text)) == email_key(text)
    assert id_key(id_key(text)) == id_key(text)


@given(texts, texts)
def test_key_of_non_ascii_text_is_never_ascii(local: str, domain: str) -> None:
    """So a look-alike cannot impersonate the owner of an ASCII address or id."""
    local = stripped(local)
    assert stripped(email_key(f"{local}@{domain}").rpartition("@")[0]).isascii() == local.isascii() or "@" in local + domain
    assert id_key(local).isascii() == local.isascii()


@given(
    texts,
    st.text(st.sampled_from(" \t\r\n\u00a0\u3000\u200b\u200c\u200d\u2060\ufeff")),
    st.text(st.sampled_from(" \u200b\ufeff")),
)
def test_surrounding_white_space_does_not_change_the_key(text: str, before: str, after: str) -> None:
    """As with zero-width characters, in any order."""
    assert email_key(f"{before}{text}{after}") == email_key(text)
    assert id_key(f"{before}{text}{after}") == id_key(text)


@given(texts)
def test_composed_and_decomposed_text_have_the_same_key(text: str) -> None:
    """Except for the three characters whose normal form is ASCII."""
    assume(not set(text) & set("\u212a\u037e\u1fef"))
    decomposed = unicodedata.normalize("NFD", text)
    assert email_key(decomposed) == email_key(text)
    assert id_key(decomposed) == id_key(text)


@given(st.emails())
def test_key_of_an_ascii_address_is_its_lower_case(email: str) -> None:
    assume(email.isascii())
    assert email_key(email) == email_key(email.upper()) == email.lower()


@given(texts)
def test_rules_accept_every_text(text: str) -> None:
    """A rule returns the key of an id, an address as written, or a Rejection, and never raises."""
    for rule, kept in (
        (CONTRACT_RULES.visitor_id, id_key),
        (CONTRACT_RULES.external_id, id_key),
        (CONTRACT_RULES.email, stripped),
        (IdentifierRules(["x"]).email, stripped),
    ):
        checked = rule(text)
        assert checked == kept(text) or isinstance(checked, Rejection)


@given(
    st.from_regex(
        r"[A-Za-z0-9_.+-]{1,8}(undefined|NULL|none|nan)?@([a-z]{1,3}\.){0,2}(com|Null|undefined|nan|nu|id)", fullmatch=True
    )
)
def test_fast_check_of_an_address_agrees_with_the_full_check(email: str) -> None:
    """A workspace with blocked identifiers of its own always uses the full check."""
    assert type(CONTRACT_RULES.email(email)) is type(IdentifierRules(["\0"]).email(email))


@given(st.from_regex(r"[A-Za-z0-9_.:/-]{0,8}([_./:-]?(undefined|NULL|none|nan|id))?", fullmatch=True))
def test_fast_check_of_an_id_agrees_with_the_full_check(identifier: str) -> None:
    assert type(CONTRACT_RULES.external_id(identifier)) is type(IdentifierRules(["\0"]).external_id(identifier))


@pytest.mark.parametrize(
    ("written", "number"),
    [("1", 1), ("1.0", 1), ("1e0", 1), ("10e-1", 1), ("-0", 0), ("-0.0", 0), ("0e5", 0), ("9007199254740991.0", 2**53 - 1)],
)
def test_equal_numbers_have_one_form(written: str, number: int) -> None:
    """`1` and `1.0` are the same number, and `-0` is `0`, so they have the same hash."""
    value = metadata_of(written)
    assert (value, type(value), str(value)) == (number, int, str(number))


@pytest.mark.parametrize(
    ("written", "value"),
    [("true", True), ("1", 1), ('"1"', "1"), ("false", False), ("0", 0), ('""', ""), ("null", None), ("1.5", 1.5)],
)
def test_values_of_different_types_are_different(written: str, value: object) -> None:
    """`true` is not `1`, and `"1"` is not `1`."""
    assert (metadata_of(written), type(metadata_of(written))) == (value, type(value))
