"""How the directory folds text and indexes values."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold_projections.directory import (
    INDEXED_CHARS,
    fold_text,
    folded_strings,
    index_text,
    index_value,
    is_sampled,
    search_text,
)
from kinfold_schemas.canonical import EMPTY_HASH, Primitive
from kinfold_schemas.contacts import Contact
from kinfold_schemas.times import to_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Ada LOVELACE", "ada lovelace"),
        ("Zoë Müller", "zoe muller"),
        ("ZOE\u0308", "zoe"),
        ("Straße", "strasse"),
        ("ŁUKASZ Sørensen", "lukasz sorensen"),
        ("Æsop, Œuvre, ĐORĐE", "aesop, oeuvre, dorde"),
        ("Işık, İzmir", "isik, izmir"),
        ("ﬁne １２３", "fine 123"),
        ("ΟΔΥΣΣΕΎΣ", "οδυσσευσ"),
        ("ᾳ", "α"),
        ("かが", "かか"),
        ("", ""),
    ],
)
def test_text_is_folded(text: str, folded: str) -> None:
    assert fold_text(text) == folded


def test_folding_twice_changes_nothing() -> None:
    everything = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)
    for start in range(0, len(everything), 4096):
        folded = fold_text(everything[start : start + 4096])
        assert fold_text(folded) == folded


@given(TEXT, TEXT)
def test_part_of_a_text_is_part_of_the_folded_text(before: str, part: str) -> None:
    assert fold_text(part) in fold_text(f"{before} {part} {before}")


@given(TEXT)
def test_spellings_of_one_text_fold_alike(text: str) -> None:
    assert fold_text(unicodedata.normalize("NFC", text)) == fold_text(unicodedata.normalize("NFD", text))


@pytest.mark.parametrize(
    ("value", "indexed"),
    [
        (None, (0, 0.0, "")),
        (False, (1, 0.0, "")),
        (True, (1, 1.0, "")),
        (1, (2, 1.0, "")),
        (1.5, (2, 1.5, "")),
        (-0.0, (2, 0.0, "")),
        (2**53 - 1, (2, 9007199254740991.0, "")),
        ("1", (3, 0.0, "1")),
        ("", (3, 0.0, "")),
    ],
)
def test_value_is_indexed_under_its_type(value: Primitive, indexed: tuple[int, float, str]) -> None:
    found = index_value(value)
    assert found == indexed
    assert repr(found) == repr(indexed)  # tells 1.0 from 1, and 0.0 from -0.0


def test_long_string_is_indexed_by_its_beginning_and_a_digest() -> None:
    long = "x" * INDEXED_CHARS
    assert index_text(long) == long
    assert index_text(long + "y") == f"{long}…7852ced2fcfce3b9"
    assert index_text(long + "z") != index_text(long + "y")


@given(st.lists(st.text(st.sampled_from("a\u2027\U0001f600"), max_size=4).map(lambda text: text * 60), max_size=8))
def test_strings_sort_as_their_index_texts_do(texts: list[str]) -> None:
    by_index = sorted(texts, key=index_text)
    assert [text[:INDEXED_CHARS] for text in by_index] == [text[:INDEXED_CHARS] for text in sorted(texts)]
    assert len(set(texts)) == len(set(map(index_text, texts)))


def test_a_search_looks_at_name_address_and_ids() -> None:
    at = to_text(1_700_000_000_000)
    contact = Contact("ct_1", "U-7", None, "Zoë", None, {}, EMPTY_HASH, 0, [], at, at, at, at, 1)
    assert search_text(contact) == "zoe\nu-7\nct_1\n"


def test_non_ascii_strings_are_folded_under_the_name_that_filters_give_them() -> None:
    at = to_text(1_700_000_000_000)
    metadata: dict[str, Primitive] = {"city": "Zürich", "name": "É", "plan": "PRO", "n": 1}
    contact = Contact("ct_1", "Ü-7", "ada@example.org", "Zoë", None, metadata, EMPTY_HASH, 0, [], at, at, at, at, 1)
    folded = {"externalId": "u-7", "name": "zoe", "metadata.city": "zurich", "metadata.name": "e"}
    assert folded_strings(contact) == folded
    plain = Contact("ct_1", "U-7", None, None, None, {}, EMPTY_HASH, 0, [], at, at, at, at, 1)
    assert folded_strings(plain) is None


def test_one_contact_in_64_is_in_the_sample() -> None:
    assert 900 < sum(is_sampled(f"ct_{n}") for n in range(64_000)) < 1100
    assert is_sampled("ct_64") is is_sampled("ct_64")
