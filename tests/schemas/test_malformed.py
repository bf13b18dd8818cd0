"""Entries that are no good events, of every kind, and the code and sentence that each earns (contract sections 2 and 7)."""

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
def test_what_is_not_json(data: bytes) -> None:
    """The sentence says where the parser gave up."""
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
def test_what_is_not_utf_8(data: bytes) -> None:
    """Latin-1, an encoded surrogate, an overlong NUL, UTF-16 with its mark; in fields that nobody reads as well."""
    refused(data, "not-json", "UTF-8")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_json_in_another_encoding_is_not_json(encoding: str) -> None:
    """It is never guessed at: a byte order mark and UTF-16 are not JSON in UTF-8."""
    refused(SEEN.encode(encoding), "not-json")


@pytest.mark.parametrize("data", [b"null", b"[]", b"3", b'"VisitorSeen"', b"true"])
def test_json_that_is_no_object(data: bytes) -> None:
    """An event is an object."""
    refused(data, "invalid", "event: expected one JSON object, got ")


def test_an_entry_without_the_field() -> None:
    """Whatever else it holds."""
    for fields in ({}, {b"Event": SEEN.encode()}, {b"data": b"1", b"x": b"2"}):
        entry = read_entry(b"1-0", fields)
        assert isinstance(entry, BadEntry)
        assert entry.rejection.reason == "no-event-field"
        assert f"({len(fields)} others)" in entry.rejection.detail


@pytest.mark.parametrize("kind", ["Nope", "visitorSeen", "", "ContactCreated", "\ud800"])
def test_an_unknown_type(kind: str) -> None:
    """The sentence lists those that there are."""
    refused(
        {"type": kind, "visitorId": "v-1"}, "unknown-type", "type: expected one of VisitorSeen, VisitorIdentified, MetadataSet"
    )


@pytest.mark.parametrize("event", [{}, {"visitorId": "v-1"}, {"type": None}, {"type": 5}, {"type": ["VisitorSeen"]}])
def test_no_type(event: dict[str, Any]) -> None:
    """Absent, or something else than a string."""
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
def test_a_field_of_the_wrong_type(kind: str, field: str, value: object) -> None:
    """The sentence names the field, what was found and what is allowed."""
    good = {"visitorId": "v-1", "externalId": "u-1"} if kind == "VisitorIdentified" else {"visitorId": "v-1"}
    rejection = refused({"type": kind, **good, field: value}, "invalid")
    assert rejection.field == field
    assert rejection.detail == f"{field}: expected {rejection.expected}, got {rejection.got}"


@pytest.mark.parametrize(("kind", "field"), [("VisitorSeen", "visitorId"), ("EventsExcluded", "entries")])
def test_a_field_that_is_missing(kind: str, field: str) -> None:
    """Is found to be nothing."""
    refused({"type": kind}, "invalid", f"{field}: expected ", ", got nothing")


@pytest.mark.parametrize("value", [{}, {"b": 1}, [], [1], {"b": {"c": {}}}])
def test_nested_metadata(value: object) -> None:
    """Metadata is flat, and so is a context; the sentence names the key."""
    refused(
        {"type": "MetadataSet", "visitorId": "v-1", "metadata": {"a": 1, "k": value}},
        "invalid",
        "metadata.k: expected a string, ",
    )
    refused({"type": "VisitorSeen", "visitorId": "v-1", "context": {"k": value}}, "invalid", "context.k: expected a")


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 309 + ".0"])
def test_a_number_beyond_all_doubles(number: str) -> None:
    """JSON by its grammar, and still no number that anybody can hold."""
    event = b'{"type":"MetadataSet","visitorId":"v-1","metadata":{"k":%s}}' % number.encode()
    refused(event, "invalid", "metadata.k: expected", "finite")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "nan"])
def test_a_number_that_is_none(word: str) -> None:
    """Python writes these; JSON has no such words."""
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
def test_an_escaped_nul_anywhere(event: str, field: str) -> None:
    """In values and keys, of fields known and unknown."""
    rejection = refused(event.encode(), "invalid", "expected text without NUL characters, got one")
    assert rejection.field == field


def test_a_nul_byte() -> None:
    """Bare control characters are not JSON; an escaped backslash before `u0000` is no NUL."""
    refused(b'{"type":"VisitorSeen","visitorId":"v\0"}', "not-json")
    accepted(rb'{"type":"VisitorSeen","visitorId":"v\\u0000"}')


def test_a_nul_beside_a_number_that_python_does_not_read() -> None:
    """Python refuses integers of more than 4,300 digits; nothing that looks into an event may stumble over one."""
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
def test_a_lone_surrogate(event: str) -> None:
    """Text that no encoding can write."""
    refused(event.encode(), "invalid", "surrogate")


def test_a_pair_of_surrogates_is_one_character() -> None:
    """As JSON writes what is above the BMP."""
    assert accepted(rb'{"type":"VisitorSeen","visitorId":"\ud83d\ude00"}').names.visitor_id == "😀"


@pytest.mark.parametrize(
    "data", [b"[" * 60_000, b'{"a":' * 12_000, b'{"type":"VisitorSeen","x":' + b"[" * 256 + b"]" * 256 + b"}"]
)
def test_deep_nesting(data: bytes) -> None:
    """No parser runs out of stack, however deep the caller's already is."""
    refused(data, "invalid", "levels of nesting", "256")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("data", [b'"' + b'\\"' * 32_000 + b"[" * 65, b"[]" * 65 + b'"\\' * 30_000])
def test_judging_takes_no_longer_the_worse_the_entry_is(data: bytes) -> None:
    """One entry of strings that never end must not stop a workspace: reading it is linear."""
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
    """None at all is nobody; two are a contradiction, even where both are one contact."""
    refused({"type": "MetadataSet", **fields}, "invalid" if fields else "no-identifier", "exactly one")


def test_an_identification_names_somebody() -> None:
    """A visitor alone is nobody in particular."""
    refused({"type": "VisitorIdentified", "visitorId": "v-1", "name": "Ada"}, "no-identifier", "externalId, email")


def test_unknown_fields_are_ignored() -> None:
    """Producers can be newer than the consumer."""
    plain, newer = accepted(SEEN.encode()), accepted({"type": "VisitorSeen", "visitorId": "v-1", "newField": {"a": [1]}})
    assert plain.event == newer.event


def test_null_is_absent() -> None:
    """For every optional field, as JSON of many languages has it."""
    fields = ("id", "at", "sentAt", "visitorId", "email", "name", "image", "metadata", "unset")
    event = {"type": "VisitorIdentified", "externalId": "u-1", **dict.fromkeys(fields)}
    assert accepted(event).event == accepted({"type": "VisitorIdentified", "externalId": "u-1"}).event


def test_a_wrong_hash() -> None:
    """The sentence tells the right one."""
    event = {"type": "MetadataSet", "visitorId": "v-1", "metadata": {"a": 1}, "hash": "0" * 64}
    rejection = refused(event, "hash-mismatch", "hash: expected the SHA-256")
    accepted({**event, "hash": rejection.expected.rsplit(" ", 1)[1]})
