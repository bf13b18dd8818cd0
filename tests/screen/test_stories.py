"""What the pages say of people and their changes, without a browser."""

from typing import Any

import msgspec
import pytest

from kinfold_schemas.contacts import Contact
from kinfold_schemas.directory import TimelineEntry
from kinfold_services.directory.lineage import Former
from kinfold_services.gateway.screen.person import former_of
from kinfold_services.gateway.screen.stories import Difference, told
from kinfold_services.gateway.screen.words import short, title

ADA = msgspec.json.decode(
    b'{"id":"ct_ada","externalId":"u-ada","email":"ada@example.org","name":"Ada","image":null,"metadata":{},"metadataHash":"",'
    b'"visitorCount":0,"visitorIds":[],"firstSeenAt":"2026-01-01T00:00:00.000Z","lastSeenAt":"2026-01-01T00:00:00.000Z",'
    b'"createdAt":"2026-01-01T00:00:00.000Z","updatedAt":"2026-01-01T00:00:00.000Z","version":1}',
    type=Contact,
)


def entry(kind: str, contact_id: str, cause: str, **details: Any) -> TimelineEntry:
    """One change of a contact."""
    return TimelineEntry(cause, "2026-01-01T00:00:00.000Z", kind, contact_id, cause, "5", details)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("Ada", "Ada"),
        (None, "ada@example.org"),
        ("  ", "ada@example.org"),
        ("\u200b\u202e", "ada@example.org"),
        ("\u202eAda", "\u202eAda"),
    ],
)
def test_person_is_called_by_a_name_that_can_be_seen(name: str | None, called: str):
    assert title(msgspec.structs.replace(ADA, name=name)) == called


def test_merge_names_the_other_person():
    """By the name, although the address came later. Without either, by the beginning of the id."""
    entries = [
        entry("ContactsMerged", "ct_ada", "4-0", mergedContactId="ct_bertha"),
        entry("ContactsMerged", "ct_ada", "3-0", mergedContactId="ct_grace"),
        entry("ContactUpdated", "ct_grace", "2-0", changed=[{"field": "email", "after": "grace@example.org"}]),
        entry("ContactCreated", "ct_grace", "1-0", changed=[{"field": "name", "after": "Grace"}]),
    ]
    assert [each.changes[0].sentence.split(";")[0] for each in told(entries, "ct_ada")[:2]] == [
        "Turned out to be the same person as ct_bertha",
        "Turned out to be the same person as Grace",
    ]


def test_person_who_was_merged_became_known_by_name():
    """Otherwise the timeline says twice that its person became known."""
    named = [{"field": "name", "after": "Grace"}]
    entries = [
        entry("ContactsMerged", "ct_ada", "4-0", mergedContactId="ct_grace"),
        entry("ContactCreated", "ct_bertha0123456", "3-0"),
        entry("ContactCreated", "ct_grace", "2-0", changed=named),
        entry("ContactCreated", "ct_ada", "1-0", changed=[{"field": "name", "after": "Ada"}]),
    ]
    assert [each.changes[0].sentence for each in told(entries, "ct_ada")[1:]] == [
        f"{short('ct_bertha0123456')} became known",
        "Grace became known",
        "Became known",
    ]


def test_null_in_the_metadata_is_a_value_and_not_removed():
    changed = [{"field": "metadata.plan", "after": None}, {"field": "metadata.seats", "before": None}]
    (event,) = told([entry("ContactUpdated", "ct_ada", "1-0", changed=changed)], "ct_ada")
    assert event.changes[0].differences == [Difference("plan", None, "null"), Difference("seats", "null", None)]


def test_version_that_a_replay_gave_is_not_told():
    changed = [{"field": "updatedAt", "before": "x", "after": "y"}, {"field": "version", "before": 2, "after": 4}]
    (event,) = told([entry("ContactUpdated", "ct_ada", "replay", changed=changed)], "ct_ada")
    assert (event.changes[0].sentence, event.changes[0].differences) == ("Built again by a replay of the log", [])


def test_former_address_is_listed_once_and_not_while_it_is_the_current_one():
    former = [
        Former("email", "old@example.org", "ct_ada", "2026-04-01T00:00:00.000Z", "4-0"),
        Former("email", "ada@example.org", "ct_ada", "2026-03-01T00:00:00.000Z", "3-0"),
        Former("email", "old@example.org", "ct_ada", "2026-02-01T00:00:00.000Z", "2-0"),
        Former("contact_id", "ct_grace", "ct_grace", "2026-01-01T00:00:00.000Z", "1-0"),
    ]
    assert former_of(ADA, former) == former[:1]
