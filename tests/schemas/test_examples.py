"""The example messages decode and encode without loss (contract sections 2, 5 and 6)."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

import msgspec
import pytest

from kinfold_schemas.changes import Change
from kinfold_schemas.codec import decode_event
from kinfold_schemas.contacts import Contact, MergedContact, Visitor
from kinfold_schemas.events import EVENT_TYPES, Event
from tests.support.json_schema import errors

EXAMPLES: Final = {
    path.name.removesuffix(".json"): path.read_bytes() for path in files("kinfold_schemas").joinpath("examples").iterdir()
}
TYPES: Final[Mapping[str, Any]] = {
    "event": Event,
    "change": Change,
    "contact": Contact,
    "merged-contact": MergedContact,
    "visitor": Visitor,
}
CHANGES: Final = [
    "ContactCreated",
    "ContactUpdated",
    "VisitorLinked",
    "VisitorUnlinked",
    "ContactsMerged",
    "IdentityConflict",
    "ConflictDismissed",
    "ContactSeen",
    "ContactGone",
    "ContactErased",
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_survives_a_round_trip(name: str) -> None:
    data = EXAMPLES[name]
    message = msgspec.json.decode(data, type=TYPES[name.partition(".")[0]])
    assert json.loads(msgspec.json.encode(message)) == json.loads(data)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_valid_under_the_json_schema(name: str) -> None:
    """The JSON Schema that is published for other languages accepts what we write."""
    schema = msgspec.json.schema(TYPES[name.partition(".")[0]])
    assert errors(json.loads(EXAMPLES[name]), schema) == []


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith("event.")])
def test_example_of_an_event_is_accepted(name: str) -> None:
    """`decode_event` accepts it and returns the type in its name."""
    event = decode_event(EXAMPLES[name])
    assert type(event).__name__ == name.split(".")[1]


def test_every_type_has_an_example() -> None:
    """Every type of event, every type of change, and every record."""
    shown = {tuple(name.split(".")[:2]) for name in EXAMPLES}
    events = (*EVENT_TYPES, "Erased", "SubjectErased")
    assert {("event", kind) for kind in events} | {("change", kind) for kind in CHANGES} <= shown
    assert {("contact",), ("merged-contact",), ("visitor",)} <= shown


@pytest.mark.parametrize(
    "event",
    [
        {"type": "VisitorSeen"},
        {"type": "VisitorSeen", "visitorId": ""},
        {"type": "VisitorSeen", "visitorId": "v" * 256},
        {"type": "VisitorIdentified", "email": "ada"},
        {"type": "VisitorIdentified", "externalId": 1},
        {"type": "MetadataSet", "visitorId": "v-1", "metadata": {"a": {}}},
        {"type": "MetadataSet", "visitorId": "v-1", "metadata": {"": 1}},
        {"type": "MetadataSet", "visitorId": "v-1", "metadata": {str(key): key for key in range(257)}},
        {"type": "IdentityCorrected", "contactId": "ct_a", "name": "Ada"},
        {"type": "IdentityCorrected", "contactId": "ct_a", "name": "Ada", "by": ""},
        {"type": "IdentityCorrected", "name": "Ada", "by": "Grace"},
        {"type": "Nope"},
    ],
)
def test_json_schema_rejects_what_the_fold_rejects(event: dict[str, Any]) -> None:
    """So a producer that validates against the JSON Schema gets the error before it appends."""
    assert errors(event, msgspec.json.schema(Event)) != []
