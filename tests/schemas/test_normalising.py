"""What is written in different ways and means the same (contract section 2, Normalising)."""

from typing import Any

import pytest

from kinfold_schemas.events import MetadataSet
from kinfold_schemas.identifiers import email_key
from tests.support.judging import accepted


def metadata_of(number: str) -> Any:
    """The value that JSON text becomes in metadata."""
    event = accepted(b'{"type":"MetadataSet","visitorId":"v-1","metadata":{"k":%s}}' % number.encode()).event
    assert isinstance(event, MetadataSet)
    assert event.metadata is not None
    return event.metadata["k"]


@pytest.mark.parametrize("written", ["u-1", " u-1", "u-1\t", "\u2003u-1\r\n"])
def test_white_space_around_an_identifier_is_stripped(written: str) -> None:
    """Within, it belongs to it."""
    names = accepted({"type": "VisitorIdentified", "externalId": written, "visitorId": written}).names
    assert (names.external_id, names.visitor_id) == ("u-1", "u-1")
    assert accepted({"type": "VisitorSeen", "visitorId": " a b "}).names.visitor_id == "a b"


def test_identifiers_keep_their_case() -> None:
    """Only addresses are matched in lower case."""
    assert accepted({"type": "VisitorIdentified", "externalId": "U-1"}).names.external_id == "U-1"


def test_an_address_is_kept_as_written_and_matched_in_lower_case() -> None:
    """Stripped, and nothing else."""
    email = accepted({"type": "VisitorIdentified", "email": " Ada@Example.ORG "}).names.email
    assert email == "Ada@Example.ORG"
    assert email_key(email) == "ada@example.org"


@pytest.mark.parametrize(
    ("written", "number"),
    [("1", 1), ("1.0", 1), ("1e0", 1), ("10e-1", 1), ("-0", 0), ("-0.0", 0), ("0e5", 0), ("9007199254740991.0", 2**53 - 1)],
)
def test_a_number_has_one_form(written: str, number: int) -> None:
    """`1` and `1.0` are the same number, and `-0` is `0`: one form, so one hash and one comparison."""
    value = metadata_of(written)
    assert (value, type(value), str(value)) == (number, int, str(number))


@pytest.mark.parametrize(
    ("written", "value"),
    [("true", True), ("1", 1), ('"1"', "1"), ("false", False), ("0", 0), ('""', ""), ("null", None), ("1.5", 1.5)],
)
def test_values_of_different_types_are_different(written: str, value: object) -> None:
    """`true` is not `1`, and `"1"` is not `1`."""
    assert (metadata_of(written), type(metadata_of(written))) == (value, type(value))
