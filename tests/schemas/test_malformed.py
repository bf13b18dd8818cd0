"""Malformed entries of every kind, each with its reason and sentence (contract sections 2 and 7)."""

from typing import Any, Final

import pytest

from kinfold_projections.entries import BadEntry, read_entry
from kinfold_schemas.codec import decode_event
from kinfold_schemas.rejections import Rejection
from tests.support.judging import accepted, refused

SEEN: Final = '{"type":"VisitorSeen","visitorId":"v-1"}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"hello",
        b"{",
        b"{'type':'VisitorSeen'}",
        SEEN.encode() + b" and more",
        SEEN.encode() * 2,
        b'{"type":"VisitorSeen","visitorId":"v-1",}',
        b'{"type":"VisitorSeen","visitorId":"v-1","x":01}',
        b'{"type":"VisitorSeen","visitorId":"v-1","x":"\\q"}',
        b"[" * 64,
    ],
)
def test_invalid_json_is_rejected(data: bytes) -> None:
    """The sentence says where the parser stopped."""
    refused(data, "not-json", "event: expected one JSON object, got text that is not JSON (")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b'{"type":"VisitorSeen","visitorId":"\xe9"}',
        b'{"type":"VisitorSeen","visitorId":"v-1","unknown":"\xe9"}',
        b'{"type":"VisitorSeen","visitorId":"\xed\xa0\x80"}',
        b'{"type":"VisitorSeen","visitorId":"\xc0\x80"}',
        SEEN.encode("utf-16"),
    ],
)
def test_bytes_that_are_not_utf_8_are_rejected(data: bytes) -> None:
    """Latin-1, an encoded surrogate, an overlong NUL and UTF-16 with its mark, also in unknown fields."""
    refused(data, "not-json", "UTF-8")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_json_in_another_encoding_is_not_json(encoding: str) -> None:
    """The encoding is never guessed: a byte order mark and UTF-16 are not JSON in UTF-8."""
    refused(SEEN.encode(encoding), "not-json")


@pytest.mark.parametrize("data", [b"null", b"[]", b"3", b'"VisitorSeen"', b"true"])
def test_json_that_is_not_an_object_is_rejected(data: bytes) -> None:
    refused(data, "invalid", "event: expected one JSON object, got ")


def test_entry_without_the_field_event_is_rejected() -> None:
    """Its other fields make no difference."""
    for fields in ({}, {b"Event": SEEN.encode()}, {b"data": b"1", b"x": b"2"}):
        entry = read_entry(b"1-0", fields)
        assert isinstance(entry, BadEntry)
        assert entry.rejection.reason == "no-event-field"
        assert f"({len(fields)} others)" in entry.rejection.detail


@pytest.mark.parametrize("kind", ["Nope", "visitorSeen", "", "ContactCreated", "\ud800"])
def test_unknown_type_is_rejected(kind: str) -> None:
    """The sentence lists the known types."""
    refused(
        {"type": kind, "visitorId": "v-1"}, "unknown-type", "type: expected one of VisitorSeen, VisitorIdentified, MetadataSet"
    )


@pytest.mark.parametrize("event", [{}, {"visitorId": "v-1"}, {"type": None}, {"type": 5}, {"type": ["VisitorSeen"]}])
def test_missing_type_is_rejected(event: dict[str, Any]) -> None:
    """As is a type that is not a string."""
    refused(event, "invalid", "type: expected one of VisitorSeen")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("VisitorSeen", "visitorId", None),
        ("VisitorSeen", "visitorId", 7),
        ("VisitorSeen", "context", []),
        ("VisitorSeen", "context", "x"),
        ("VisitorSeen", "id", 1),
        ("VisitorSeen", "at", 1767225600),
        ("VisitorSeen", "at", "yesterday"),
        ("VisitorSeen", "at", "2026-01-01"),
        ("VisitorSeen", "at", "2026-01-01T00:00:00"),
        ("VisitorSeen", "sentAt", "2026-13-01T00:00:00Z"),
        ("VisitorIdentified", "externalId", 4711),
        ("VisitorIdentified", "email", True),
        ("VisitorIdentified", "name", 5),
        ("VisitorIdentified", "image", {}),
        ("VisitorIdentified", "metadata", "x"),
        ("VisitorIdentified", "unset", "plan"),
        ("VisitorIdentified", "unset", [1]),
        ("MetadataSet", "contactId", 5),
        ("MetadataSet", "hash", 5),
        ("MetadataSet", "metadata", []),
        ("EventsExcluded", "entries", "1-0"),
    ],
)
def test_field_of_the_wrong_type_is_rejected(kind: str, field: str, value: object) -> None:
    """The rejection names the field, what was expected and what it got."""
    good = {"visitorId": "v-1", "externalId": "u-1"} if kind == "VisitorIdentified" else {"visitorId": "v-1"}
    rejection = refused({"type": kind, **good, field: value}, "invalid")
    assert rejection.field == field
    assert rejection.detail == f"{field}: expected {rejection.expected}, got {rejection.got}"


@pytest.mark.parametrize(("kind", "field"), [("VisitorSeen", "visitorId"), ("EventsExcluded", "entries")])
def test_missing_field_is_rejected(kind: str, field: str) -> None:
    refused({"type": kind}, "invalid", f"{field}: expected ", ", got nothing")


@pytest.mark.parametrize("value", [{}, {"b": 1}, [], [1], {"b": {"c": {}}}])
def test_nested_metadata_is_rejected(value: object) -> None:
    """Metadata and context are flat. The sentence names the key."""
    refused(
        {"type": "MetadataSet", "visitorId": "v-1", "metadata": {"a": 1, "k": value}},
        "invalid",
        "metadata.k: expected a string, ",
    )
    refused({"type": "VisitorSeen", "visitorId": "v-1", "context": {"k": value}}, "invalid", "context.k: expected a")


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 309 + ".0"])
def test_number_beyond_the_range_of_a_double_is_rejected(number: str) -> None:
    """It is valid JSON, but readers cannot represent it."""
    event = b'{"type":"MetadataSet","visitorId":"v-1","metadata":{"k":%s}}' % number.encode()
    refused(event, "invalid", "metadata.k: expected", "finite")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "nan"])
def test_nan_and_infinity_are_rejected(word: str) -> None:
    """Python writes these words, but JSON does not have them."""
    refused(b'{"type":"MetadataSet","visitorId":"v-1","metadata":{"k":%s}}' % word.encode(), "not-json")


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (r'{"type":"VisitorSeen","visitorId":"v\u0000"}', "visitorId"),
        (r'{"type":"VisitorIdentified","externalId":"u","name":"\u0000"}', "name"),
        (r'{"type":"VisitorIdentified","email":"a@b\u0000"}', "email"),
        (r'{"type":"MetadataSet","visitorId":"v","metadata":{"k":"\u0000"}}', "metadata.k"),
        (r'{"type":"MetadataSet","visitorId":"v","metadata":{"k\u0000":1}}', r"metadata.k\x00"),
        (r'{"type":"MetadataSet","visitorId":"v","unset":["a","\u0000"]}', "unset[1]"),
        (r'{"type":"VisitorSeen","id":"\u0000","visitorId":"v"}', "id"),
        (r'{"type":"VisitorSeen","visitorId":"v","unknown":[{"x":"\u0000"}]}', "unknown[0].x"),
    ],
)
def test_escaped_nul_is_rejected_anywhere(event: str, field: str) -> None:
    """In values and keys, in known and unknown fields."""
    rejection = refused(event.encode(), "invalid", "expected text without NUL characters, got one")
    assert rejection.field == field


def test_nul_byte_is_rejected() -> None:
    """JSON does not permit bare control characters. An escaped backslash before `u0000` is not a NUL."""
    refused(b'{"type":"VisitorSeen","visitorId":"v\0"}', "not-json")
    accepted(rb'{"type":"VisitorSeen","visitorId":"v\\u0000"}')


def test_nul_is_found_beside_an_integer_that_python_does_not_parse() -> None:
    """Python does not parse integers of more than 4,300 digits."""
    number = "1" * 5000
    refused(rf'{{"type":"VisitorSeen","visitorId":"v","x":{number},"y":"\u0000"}}'.encode(), "invalid", "y: expected text")
    accepted(f'{{"type":"VisitorSeen","visitorId":"v","x":{number}}}'.encode())


@pytest.mark.parametrize(
    "event",
    [
        r'{"type":"VisitorSeen","visitorId":"\ud800"}',
        r'{"type":"MetadataSet","visitorId":"v","metadata":{"\udfff":1}}',
        r'{"type":"VisitorSeen","visitorId":"v","unknown":"\ud83d!"}',
    ],
)
def test_lone_surrogate_is_rejected(event: str) -> None:
    """No encoding can represent it."""
    refused(event.encode(), "invalid", "surrogate")


def test_pair_of_surrogates_is_one_character() -> None:
    """JSON escapes characters above the BMP like this."""
    assert accepted(rb'{"type":"VisitorSeen","visitorId":"\ud83d\ude00"}').names.visitor_id == "😀"


@pytest.mark.parametrize(
    "data", [b"[" * 60_000, b'{"a":' * 12_000, b'{"type":"VisitorSeen","x":' + b"[" * 256 + b"]" * 256 + b"}"]
)
def test_deep_nesting_is_rejected(data: bytes) -> None:
    """The parser never overflows the stack, at any depth of the caller."""
    refused(data, "invalid", "levels of nesting", "256")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("data", [b'"' + b'\\"' * 32_000 + b"[" * 65, b"[]" * 65 + b'"\\' * 30_000])
def test_unterminated_strings_are_rejected_in_linear_time(data: bytes) -> None:
    """Otherwise one entry could block its workspace."""
    assert isinstance(decode_event(data), Rejection)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"visitorId": "v-1", "externalId": "u-1"},
        {"externalId": "u-1", "email": "a@b"},
        {"email": "a@b", "contactId": "ct_1"},
    ],
)
def test_metadata_has_exactly_one_target(fields: dict[str, str]) -> None:
    """Two targets are a contradiction, even if both are the same contact."""
    refused({"type": "MetadataSet", **fields}, "invalid" if fields else "no-identifier", "exactly one")


def test_identification_without_an_identifier_is_rejected() -> None:
    """A visitor alone does not identify a person."""
    refused({"type": "VisitorIdentified", "visitorId": "v-1", "name": "Ada"}, "no-identifier", "externalId, email")


def test_unknown_fields_are_ignored() -> None:
    """Producers may be newer than the fold."""
    plain, newer = accepted(SEEN.encode()), accepted({"type": "VisitorSeen", "visitorId": "v-1", "newField": {"a": [1]}})
    assert plain.event == newer.event


def test_null_counts_as_absent() -> None:
    """For every optional field, because many languages write absent values as null."""
    fields = ("id", "at", "sentAt", "visitorId", "email", "name", "image", "metadata", "unset")
    event = {"type": "VisitorIdentified", "externalId": "u-1", **dict.fromkeys(fields)}
    assert accepted(event).event == accepted({"type": "VisitorIdentified", "externalId": "u-1"}).event


def test_wrong_hash_is_rejected() -> None:
    """The sentence contains the right one."""
    event = {"type": "MetadataSet", "visitorId": "v-1", "metadata": {"a": 1}, "hash": "0" * 64}
    rejection = refused(event, "hash-mismatch", "hash: expected the SHA-256")
    accepted({**event, "hash": rejection.expected.rsplit(" ", 1)[1]})


def test_path_to_a_nul_is_cut() -> None:
    """A key may be nearly as long as an event, and stands in every path below it."""
    inner = ",".join(f'"{number}":[{number}]' for number in range(2000))
    event = f'{{"type":"VisitorSeen","visitorId":"v","x":{{"{"k" * 30_000}":{{{inner},"y":"\\u0000"}}}}}}'

    rejection = refused(event.encode(), "invalid", "expected text without NUL characters, got one")

    assert rejection.field == f"x.{'k' * 195}..."
