"""Blocked identifiers: accidents of programs that would make one person of everybody (contract section 2)."""

import pytest

from kinfold_schemas.identifiers import BadPattern, IdentifierRules
from tests.support.judging import accepted, refused

ANY_CASE = ["anonymous", "guest", "distinctid", "distinct_id", "id", "not_authenticated", "email", "undefined", "true", "false"]
EXACT = ["[object Object]", "NaN", "None", "none", "null", "0", "-1"]
RUNS = ["00", "0-0", "-", "---", "00000000-0000-0000-0000-000000000000"]
EMPTY = ["", " ", "\t\n", "\u00a0"]
QUOTED = ['"null"', "'undefined'", '""', "''", "`0`", "'\"None\"'", '" GUEST "', "'0-0'", "'-1'"]


@pytest.mark.parametrize(
    "value",
    [*ANY_CASE, *(word.upper() for word in ANY_CASE), *(word.title() for word in ANY_CASE), *EXACT, *RUNS, *EMPTY, *QUOTED],
)
def test_a_blocked_identifier_names_nobody(value: str) -> None:
    """Neither a device nor a person, with white space around it or not."""
    for written in (value, f" {value}\n"):
        refused({"type": "VisitorSeen", "visitorId": written}, "blocked-identifier", "visitorId: found")
        refused({"type": "VisitorIdentified", "externalId": written}, "blocked-identifier", "externalId: found")
        refused({"type": "VisitorIdentified", "email": written}, "blocked-identifier", "email: found")
        refused({"type": "MetadataSet", "externalId": written}, "blocked-identifier", "externalId: found")


@pytest.mark.parametrize(
    "value",
    ["NULL", "Null", "nan", "NONE", "[OBJECT OBJECT]", "1", "-2", "0a", "10", "guest1", "my guest", "'", "'null", "no-0"],
)
def test_what_only_looks_like_one(value: str) -> None:
    """What is blocked exactly is not blocked in another case, and nothing is blocked for a part of it."""
    assert accepted({"type": "VisitorSeen", "visitorId": value}).names.visitor_id == value


def test_a_blocked_identifier_beside_a_good_one_is_absent_and_counted() -> None:
    """The event still identifies by what is left."""
    names = accepted({"type": "VisitorIdentified", "externalId": "null", "email": "ada@example.org"}).names
    assert (names.external_id, names.email, names.blocked) == (None, "ada@example.org", 1)
    names = accepted({"type": "VisitorIdentified", "externalId": "u-1", "email": "undefined"}).names
    assert (names.external_id, names.email, names.blocked) == ("u-1", None, 1)


def test_a_blocked_visitor_rejects_the_event() -> None:
    """Whoever else is named: the device would be everybody's."""
    event = {"type": "VisitorIdentified", "externalId": "u-1", "visitorId": "undefined"}
    refused(event, "blocked-identifier", "visitorId: found 'undefined'")
    refused({"type": "VisitorIdentified", "externalId": "null", "email": "guest"}, "blocked-identifier", "externalId")


@pytest.mark.parametrize("value", ["acme-test", " acme-test ", "'acme-test'", "qa-7", "robot@bots.example"])
def test_a_workspace_has_its_own(value: str) -> None:
    """Exact ones, and patterns between slashes, which are searched for anywhere."""
    rules = IdentifierRules(["acme-test", "/^qa-[0-9]+$/", r"/@bots\./"])
    refused({"type": "VisitorSeen", "visitorId": value}, "blocked-identifier", rules=rules)
    accepted({"type": "VisitorSeen", "visitorId": value})


@pytest.mark.parametrize("pattern", ["/(/", "/a{99999999999}/"])
def test_a_pattern_that_is_none_is_named(pattern: str) -> None:
    """What was found, what is wrong with it, and what is allowed."""
    with pytest.raises(BadPattern) as said:
        IdentifierRules(["acme-test", pattern])
    assert f"blocked identifiers: found '{pattern}' (" in str(said.value)
    assert "allowed between slashes is a regular expression" in str(said.value)


def test_a_workspace_s_own_are_exact() -> None:
    """In case and length; the contract's stay blocked beside them."""
    rules = IdentifierRules(["acme-test", "/^qa-[0-9]+$/", "/"])
    for value in ("ACME-test", "acme-test-2", "qa-x", "QA-1", "a/b"):
        accepted({"type": "VisitorSeen", "visitorId": value}, rules)
    refused({"type": "VisitorSeen", "visitorId": "null"}, "blocked-identifier", rules=rules)
    refused({"type": "VisitorSeen", "visitorId": "/"}, "blocked-identifier", rules=rules)
