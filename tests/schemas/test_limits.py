"""The limits of contract section 2: the last accepted value, the first rejected one, and the sentence."""

import unicodedata
from typing import Any

import msgspec
import pytest

from kinfold_schemas.codec import MAX_DEPTH, check_event, decode_events
from kinfold_schemas.events import MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.identifiers import MAX_ID_CHARS
from kinfold_schemas.rejections import EventError, Rejection
from tests.support.judging import accepted, refused

ON_V1 = {"type": "MetadataSet", "visitorId": "v-1"}


def of_size(size: int) -> bytes:
    """A good event of exactly `size` bytes."""
    frame = b'{"type":"VisitorSeen","visitorId":"v-1","newField":""}'
    return frame[:-2] + b"x" * (size - len(frame)) + frame[-2:]


@pytest.mark.parametrize("identifier", ["v", "v" * 255, "𝄞" * 255, "  " + "v" * 255 + "\t"])
def test_identifier_of_1_to_255_characters_is_accepted(identifier: str) -> None:
    """The limit counts characters, not bytes, without surrounding white space."""
    accepted({"type": "VisitorSeen", "visitorId": identifier})
    accepted({"type": "VisitorIdentified", "externalId": identifier})


@pytest.mark.parametrize(("kind", "field"), [("VisitorSeen", "visitorId"), ("VisitorIdentified", "externalId")])
def test_identifier_of_256_characters_is_rejected(kind: str, field: str) -> None:
    refused({"type": kind, field: "v" * 256}, "invalid", f"{field}: expected 1 to 255 characters", "256 characters")


@pytest.mark.parametrize(
    "text",
    ["${" + "x" * 400 + "}", "'" * 60_000, "\u200b" + "\u2800" * 400, "user_undefined" * 30, "a" + "\u0316\u0301" * 5000],
)
@pytest.mark.parametrize(("kind", "field"), [("VisitorSeen", "visitorId"), ("VisitorIdentified", "externalId")])
def test_length_of_an_identifier_is_checked_first(kind: str, field: str, text: str) -> None:
    """Before it is compared with what is blocked, and before it is normalised. Both can take long for long texts."""
    refused({"type": kind, field: text}, "invalid", f"{field}: expected 1 to 255 characters")
    refused({"type": "VisitorIdentified", "externalId": "u-1", "email": f"{text}@x.org"}, "invalid", "email: expected 3 to 320")


@pytest.mark.parametrize("length", [255, 256])
def test_length_of_an_identifier_is_that_of_its_normal_form(length: int) -> None:
    """Up to four characters become one."""
    decomposed = unicodedata.normalize("NFD", "\u1f82" * length)
    assert len(decomposed) == 4 * length
    for text in (decomposed, "\u1f82" * length):
        if length <= MAX_ID_CHARS:
            accepted({"type": "VisitorSeen", "visitorId": text})
        else:
            refused({"type": "VisitorSeen", "visitorId": text}, "invalid", "visitorId: expected 1 to 255 characters")


@pytest.mark.parametrize("email", ["a@b", "a" * 318 + "@b", " Ada@example.org\n"])
def test_address_of_3_to_320_characters_is_accepted(email: str) -> None:
    """The shortest, the longest, and one with surrounding white space."""
    accepted({"type": "VisitorIdentified", "email": email})


@pytest.mark.parametrize("email", ["a@", "@", "a" * 319 + "@b", "ada", "ada.example.org", "a@b@c", "@@@"])
def test_malformed_address_is_rejected(email: str) -> None:
    """Even beside an external id, because it shows a bug in a program."""
    refused(
        {"type": "VisitorIdentified", "externalId": "u-1", "email": email}, "invalid", "email: expected 3 to 320 characters"
    )


@pytest.mark.parametrize(("field", "most"), [("name", 1024), ("image", 4096)])
@pytest.mark.parametrize("kind", [ON_V1, {"type": "VisitorIdentified", "externalId": "u-1"}])
def test_name_and_image_are_limited_as_json(field: str, most: int, kind: dict[str, Any]) -> None:
    """Each control character takes six bytes there. The two quotes count."""
    fits = "\x01" * ((most - 2) // 6) + "x" * ((most - 2) % 6)
    accepted({**kind, field: fits})
    refused({**kind, field: fits + "x"}, "invalid", f"{field}: expected at most {most} bytes as JSON, got {most + 1} bytes")
    refused({**kind, field: "é" * most, "metadata": {"k": "x" * 8000}}, "invalid", f"got {2 * most + 2} bytes")


def test_name_is_limited_in_any_batch() -> None:
    """Events are decoded together where none of them is large."""
    small, large = b'{"type":"VisitorSeen","visitorId":"v"}', msgspec.json.encode({**ON_V1, "name": "x" * 1100})
    first, second, third = decode_events([small, large, small])
    assert type(first) is type(third) is VisitorSeen
    assert isinstance(second, Rejection)


@pytest.mark.parametrize("where", ["metadata", "context"])
def test_key_of_1_to_128_characters_is_accepted(where: str) -> None:
    """In metadata and in a context."""
    kind = "VisitorSeen" if where == "context" else "MetadataSet"
    accepted({"type": kind, "visitorId": "v-1", where: {"k": 1, "𝄞" * 128: 2}})
    refused({"type": kind, "visitorId": "v-1", where: {"k" * 129: 1}}, "invalid", where, "129 characters", "1 to 128")
    refused({"type": kind, "visitorId": "v-1", where: {"": 1}}, "invalid", where, "0 characters", "1 to 128")


def test_key_to_remove_of_1_to_128_characters_is_accepted() -> None:
    """A key that cannot be set cannot be removed either."""
    accepted({**ON_V1, "unset": ["k" * 128]})
    refused({**ON_V1, "unset": ["k", "k" * 129]}, "invalid", "unset: expected", "129 characters", "1 to 128")
    refused({**ON_V1, "unset": [""]}, "invalid", "unset: expected", "0 characters")


def test_event_with_256_keys_is_accepted() -> None:
    """`test_metadata_limits` covers the keys of contacts."""
    accepted({**ON_V1, "metadata": {str(key): key for key in range(256)}})
    refused(
        {**ON_V1, "metadata": {str(key): key for key in range(257)}},
        "invalid",
        "metadata: expected at most 256 keys, got 257 keys",
    )


@pytest.mark.parametrize("text", ["x" * 8192, "é" * 4096, "𝄞" * 2048])
def test_string_of_8_kib_is_accepted(text: str) -> None:
    """The limit counts bytes of UTF-8."""
    accepted({**ON_V1, "metadata": {"k": text}})
    refused({**ON_V1, "metadata": {"k": text + "x"}}, "invalid", "metadata.k: expected at most 8192 bytes, got 8193 bytes")


def test_event_of_64_kib_is_accepted() -> None:
    """The limit counts the bytes of the field `event`."""
    accepted(of_size(65_536))
    refused(of_size(65_537), "too-large", "event: expected at most 65536 bytes, got 65537 bytes")
    refused(of_size(70 * 1024), "too-large", "71680 bytes")


@pytest.mark.parametrize("number", [2**53 - 1, -(2**53) + 1, 0, 1.5, -1e300, 5e-324, 1.7976931348623157e308])
def test_number_is_accepted(number: float) -> None:
    """Integers within ±(2^53−1), and every finite double."""
    entry = accepted({**ON_V1, "metadata": {"k": number}})
    assert isinstance(entry.event, MetadataSet)
    assert entry.event.metadata == {"k": number}


@pytest.mark.parametrize("digits", [str(2**53), str(-(2**53)), str(2**63), str(2**64), "1" * 30, "1" * 400, "-" + "1" * 5000])
def test_integer_that_a_double_cannot_hold_is_rejected(digits: str) -> None:
    """Other languages would read another number. This includes integers beyond Python's limit of 4,300 digits."""
    event = b'{"type":"MetadataSet","visitorId":"v-1","metadata":{"ok":1,"k":%s}}' % digits.encode()
    refused(event, "invalid", "metadata.k: expected", ", got ")


@pytest.mark.parametrize("time", ["1969-12-31T23:59:59.999Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59"])
def test_time_of_a_clock_that_was_never_set_is_accepted(time: str) -> None:
    """The fold treats it as absent (contract section 3)."""
    accepted({"type": "VisitorSeen", "visitorId": "v-1", "at": time, "sentAt": time})


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH])
def test_unknown_fields_may_nest(depth: int) -> None:
    """Newer producers may send unknown nested fields, within the limit on depth."""
    inner = b"[" * (depth - 1) + b"]" * (depth - 1)
    accepted(b'{"type":"VisitorSeen","visitorId":"v-1","brackets":"[[[[{{{{","newField":%s}' % inner)


@pytest.mark.parametrize(
    "event",
    [
        VisitorSeen(visitor_id="v" * 256),
        VisitorSeen(visitor_id="null"),
        VisitorIdentified(visitor_id="v-1"),
        VisitorIdentified(email="ada"),
        MetadataSet(visitor_id="v-1", external_id="u-1"),
        MetadataSet(visitor_id="v-1", metadata={"a": 1}, hash="0"),
    ],
)
def test_check_event_raises_for_what_the_fold_would_reject(event: Any) -> None:
    """So the error shows where the mistake was made."""
    with pytest.raises(EventError, match=r"expected .*, got ") as told:
        check_event(event)
    assert str(told.value) == f"{told.value.rejection.reason}: {told.value.rejection.detail}"


def test_check_event_returns_the_normalised_event() -> None:
    assert check_event(MetadataSet(visitor_id="v-1", metadata={"a": 1.0})) == MetadataSet(visitor_id="v-1", metadata={"a": 1})
