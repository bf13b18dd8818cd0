"""The limits of contract section 2: the last that is allowed, the first that is not, and the sentence that says so."""

from typing import Any

import pytest

from kinfold_schemas.codec import MAX_DEPTH, check_event
from kinfold_schemas.events import MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.rejections import EventError
from tests.support.judging import accepted, refused

ON_V1 = {"type": "MetadataSet", "visitorId": "v-1"}


def of_size(size: int) -> bytes:
    """A good event of exactly so many bytes."""
    frame = b'{"type":"VisitorSeen","visitorId":"v-1","newField":""}'
    return frame[:-2] + b"x" * (size - len(frame)) + frame[-2:]


@pytest.mark.parametrize("identifier", ["v", "v" * 255, "𝄞" * 255, "  " + "v" * 255 + "\t"])
def test_identifiers_of_1_to_255_characters(identifier: str) -> None:
    """Characters are counted, not bytes, and white space around them is not."""
    accepted({"type": "VisitorSeen", "visitorId": identifier})
    accepted({"type": "VisitorIdentified", "externalId": identifier})


@pytest.mark.parametrize(("kind", "field"), [("VisitorSeen", "visitorId"), ("VisitorIdentified", "externalId")])
def test_an_identifier_of_256_characters(kind: str, field: str) -> None:
    """One too many."""
    refused({"type": kind, field: "v" * 256}, "invalid", f"{field}: expected 1 to 255 characters", "256 characters")


@pytest.mark.parametrize("email", ["a@b", "a" * 318 + "@b", " Ada@example.org\n"])
def test_addresses_of_3_to_320_characters(email: str) -> None:
    """The shortest, the longest, and one with white space around it."""
    accepted({"type": "VisitorIdentified", "email": email})


@pytest.mark.parametrize("email", ["a@", "@", "a" * 319 + "@b", "ada", "ada.example.org", "a@b@c", "@@@"])
def test_an_address_without_exactly_one_at_sign_or_of_another_length(email: str) -> None:
    """What is no address is refused, even beside an external id: somebody's program is wrong."""
    refused(
        {"type": "VisitorIdentified", "externalId": "u-1", "email": email}, "invalid", "email: expected 3 to 320 characters"
    )


@pytest.mark.parametrize("where", ["metadata", "context"])
def test_keys_of_1_to_128_characters(where: str) -> None:
    """Of metadata, and of a context, which are objects of the same kind."""
    kind = "VisitorSeen" if where == "context" else "MetadataSet"
    accepted({"type": kind, "visitorId": "v-1", where: {"k": 1, "𝄞" * 128: 2}})
    refused({"type": kind, "visitorId": "v-1", where: {"k" * 129: 1}}, "invalid", where, "129 characters", "1 to 128")
    refused({"type": kind, "visitorId": "v-1", where: {"": 1}}, "invalid", where, "0 characters", "1 to 128")


def test_keys_to_remove_of_1_to_128_characters() -> None:
    """What can never have been set cannot be removed either."""
    accepted({**ON_V1, "unset": ["k" * 128]})
    refused({**ON_V1, "unset": ["k", "k" * 129]}, "invalid", "unset: expected", "129 characters", "1 to 128")
    refused({**ON_V1, "unset": [""]}, "invalid", "unset: expected", "0 characters")


def test_256_keys() -> None:
    """In one event; `test_metadata_limits` tells of contacts."""
    accepted({**ON_V1, "metadata": {str(key): key for key in range(256)}})
    refused(
        {**ON_V1, "metadata": {str(key): key for key in range(257)}},
        "invalid",
        "metadata: expected at most 256 keys, got 257 keys",
    )


@pytest.mark.parametrize("text", ["x" * 8192, "é" * 4096, "𝄞" * 2048])
def test_a_string_of_8_kib(text: str) -> None:
    """Bytes of UTF-8 are counted."""
    accepted({**ON_V1, "metadata": {"k": text}})
    refused({**ON_V1, "metadata": {"k": text + "x"}}, "invalid", "metadata.k: expected at most 8192 bytes, got 8193 bytes")


def test_an_event_of_64_kib() -> None:
    """The bytes of the field `event`."""
    accepted(of_size(65_536))
    refused(of_size(65_537), "too-large", "event: expected at most 65536 bytes, got 65537 bytes")
    refused(of_size(70 * 1024), "too-large", "71680 bytes")


@pytest.mark.parametrize("number", [2**53 - 1, -(2**53) + 1, 0, 1.5, -1e300, 5e-324, 1.7976931348623157e308])
def test_numbers(number: float) -> None:
    """Integers within ±(2^53−1), and everything that a double can be."""
    entry = accepted({**ON_V1, "metadata": {"k": number}})
    assert isinstance(entry.event, MetadataSet)
    assert entry.event.metadata == {"k": number}


@pytest.mark.parametrize("digits", [str(2**53), str(-(2**53)), str(2**63), str(2**64), "1" * 30, "1" * 400, "-" + "1" * 5000])
def test_an_integer_that_a_double_cannot_hold(digits: str) -> None:
    """It would be another number in the next language, so it is refused; beyond Python's own limit of 4,300 digits as well."""
    event = b'{"type":"MetadataSet","visitorId":"v-1","metadata":{"ok":1,"k":%s}}' % digits.encode()
    refused(event, "invalid", "metadata.k: expected", ", got ")


@pytest.mark.parametrize("time", ["1969-12-31T23:59:59.999Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59"])
def test_the_time_of_a_clock_that_was_never_set_is_no_reason_to_reject(time: str) -> None:
    """The fold takes it as absent (contract section 3)."""
    accepted({"type": "VisitorSeen", "visitorId": "v-1", "at": time, "sentAt": time})


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH])
def test_unknown_fields_may_nest(depth: int) -> None:
    """Newer producers may say things that we do not know, within reason."""
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
def test_a_producer_is_told_at_once(event: Any) -> None:
    """`check_event` raises for what the fold would reject, where the mistake is made."""
    with pytest.raises(EventError, match=r"expected .*, got ") as told:
        check_event(event)
    assert str(told.value) == f"{told.value.rejection.reason}: {told.value.rejection.detail}"


def test_a_producer_gets_a_good_event_back() -> None:
    """Normalised, as the fold will read it."""
    assert check_event(MetadataSet(visitor_id="v-1", metadata={"a": 1.0})) == MetadataSet(visitor_id="v-1", metadata={"a": 1})
