"""Blocked identifiers, which come from bugs and would merge everybody into one contact (contract section 2)."""

import re

import pytest

from kinfold_schemas.identifiers import CONTRACT_RULES, BadPattern, IdentifierRules, id_key
from kinfold_schemas.rejections import Rejection
from tests.support.judging import accepted, refused

PLACEHOLDERS = [
    "anonymous",
    "guest",
    "distinctid",
    "distinct_id",
    "id",
    "not_authenticated",
    "email",
    "true",
    "false",
    "0",
    "-1",
]
NO_VALUE = ["undefined", "null", "none", "nan", "nil", "(null)", "<null>", "<nil>", "\\N", "n/a", "#n/a", "[object object]"]
WORDS = [*PLACEHOLDERS, *NO_VALUE]
RUNS = ["00", "0-0", "-", "---", "00000000-0000-0000-0000-000000000000"]
EMPTY = ["", " ", "\t\n", "\u00a0"]
INVISIBLE = [
    "\u200b",
    "\ufeff",
    "\u2060\u200d",
    "\u00ad",
    "\u200e",
    "\u3164",
    "\u2800",
    "\ufe0f",
    "\U000e0041",
    "\x01",
    "\u200b \u3164",
]
QUOTED = [
    '"null"',
    "'undefined'",
    '""',
    "''",
    "`0`",
    "'\"None\"'",
    '" GUEST "',
    "'0-0'",
    "'-1'",
    '"\u200bnan\ufeff"',
    "'user_nan'",
]
ENDINGS = [
    *(f"user{separator}{word}" for separator in "_-:./" for word in ("undefined", "null", "nan")),
    "USER_UNDEFINED",
    "user-Null",
    "_nan",
    "tenant:7/user:undefined",
]
TEMPLATES = [
    "${userId}",
    "user-${user.id}",
    "${}",
    "{{userId}}",
    "{{ user.id }}-1",
    "<%= user.id %>",
    "u/<%id%>/x",
    "%s",
    "user%s",
    "%s_user",
    "%s@%s",
    "ada@${domain}",
]
ADDRESSES = [
    "undefined@undefined",
    "null@example.org",
    "Undefined@Example.ORG",
    "none@example.org",
    "(null)@example.org",
    '"null"@example.org',
    "'undefined@example.org'",
    "user_undefined@example.org",
    "{{name}}@example.org",
    "ada@undefined",
    "ada@NULL.",
    "ada@nan",
    "ada@example.undefined",
]


@pytest.mark.parametrize(
    "value",
    [
        *WORDS,
        *(word.upper() for word in WORDS),
        *(word.title() for word in WORDS),
        *RUNS,
        *EMPTY,
        *INVISIBLE,
        *QUOTED,
        *ENDINGS,
        *TEMPLATES,
        *ADDRESSES,
    ],
)
def test_event_with_only_a_blocked_identifier_is_rejected(value: str) -> None:
    """With and without surrounding white space and zero-width characters."""
    for written in (value, f" {value}\n", f"\ufeff{value}\u200b"):
        refused({"type": "VisitorSeen", "visitorId": written}, "blocked-identifier", "visitorId: expected an id")
        refused(
            {"type": "VisitorIdentified", "externalId": written},
            "blocked-identifier",
            "externalId: expected an id",
        )
        refused({"type": "VisitorIdentified", "email": written}, "blocked-identifier", "email: expected an id")
        refused({"type": "MetadataSet", "externalId": written}, "blocked-identifier", "externalId: expected an id")


@pytest.mark.parametrize(
    "value",
    [
        *["1", "-2", "0a", "10", "guest1", "my guest", "'", "'null", "no-0", "\u200be\u200b"],
        *["usernull", "user nan", "undefined_user", "user_undefined1", "user_none", "user-nil", "fernan", "lan.nance"],
        *["$userId", "{userId}", "${userId", "userId}", "<%", "100%", "100%sure", "%d", "n\u200bull", "null!", "(none)"],
        *["@ada", "@ada:example.org", "ada@", "42@email", "ada@guest", "a@b@undefined"],
        *["\u043d\u0443\u043b\u043b", "\u202fnull\u00e9", "id\u0307"],
    ],
)
def test_identifier_that_only_resembles_a_blocked_one_is_accepted(value: str) -> None:
    """Containing a blocked word is not enough. A handle or an id with an @ is not an address."""
    assert accepted({"type": "VisitorSeen", "visitorId": value}).names.visitor_id == id_key(value)
    assert accepted({"type": "VisitorIdentified", "externalId": value}).names.external_id == id_key(value)


@pytest.mark.parametrize(
    "email",
    [
        *["guest@hotel.example", "id@company.example", "anonymous@example.org", "email@example.org", "true@example.org"],
        *["0@example.org", "nil@company.example", "nan@company.example", "ada.null@company.example", "li-nan@example.org"],
        *["ada@null.example", "ada@undefined.example", "ada@nan.org", "ada@company.id", "ada@company.email", "ada@email.org"],
        *["none.such@example.org", "null1@example.org", "ned@example.org", "bill.null@example.nu", "ada@[192.0.2.1]"],
    ],
)
def test_address_that_may_belong_to_a_person_is_accepted(email: str) -> None:
    """Some blocked words are real mailboxes or names. In a domain they are part of a registered name."""
    assert accepted({"type": "VisitorIdentified", "email": email}).names.email == email


@pytest.mark.parametrize("email", ["ada@guest", "ada@id", "ada@0", "ada@true", "ada@email."])
def test_address_with_a_placeholder_as_domain_is_blocked(email: str) -> None:
    """No such domain is registered. An id of that form (`42@email`) may be a real one."""
    refused({"type": "VisitorIdentified", "email": email}, "blocked-identifier", "email: expected an id")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("begin", ["${", "{{", "<%", "%s0", "-0", "\u200ba", "'", "_nan"])
def test_long_identifier_is_checked_in_linear_time(begin: str) -> None:
    """A backtracking pattern would need minutes for each of these."""
    for rule in (CONTRACT_RULES.external_id, CONTRACT_RULES.email):
        assert isinstance(rule(begin * (65_536 // len(begin))), Rejection)


def test_blocked_identifier_beside_a_good_one_counts_as_absent() -> None:
    """The event identifies by the other one, and `blocked` counts the one left out."""
    names = accepted({"type": "VisitorIdentified", "externalId": "null", "email": "ada@example.org"}).names
    assert (names.external_id, names.email, names.blocked) == (None, "ada@example.org", 1)
    names = accepted({"type": "VisitorIdentified", "externalId": "u-1", "email": "undefined"}).names
    assert (names.external_id, names.email, names.blocked) == ("u-1", None, 1)


def test_event_with_a_blocked_visitor_is_rejected() -> None:
    """Even beside a good external id, because all devices with the bug would be one."""
    event = {"type": "VisitorIdentified", "externalId": "u-1", "visitorId": "undefined"}
    refused(event, "blocked-identifier", "visitorId: expected an identifier of one device, got 'undefined', which is blocked")
    refused({"type": "VisitorIdentified", "externalId": "null", "email": "guest"}, "blocked-identifier", "externalId")


@pytest.mark.parametrize(
    "value", ["acme-test", " acme-test ", "'acme-test'", "\ufeffacme-test", "qa-7", "robot@bots.example", "cafe\u0301"]
)
def test_workspace_blocks_identifiers_of_its_own(value: str) -> None:
    """Exact values, and patterns between slashes that match anywhere."""
    rules = IdentifierRules(["acme-test", "/^qa-[0-9]+$/", r"/@bots\./", "caf\u00e9"])
    refused({"type": "VisitorSeen", "visitorId": value}, "blocked-identifier", rules=rules)
    accepted({"type": "VisitorSeen", "visitorId": value})


@pytest.mark.parametrize(
    ("pattern", "identifier"),
    [
        ("/(a+)+$/", "a" * 254 + "!"),
        ("/(a|aa)+$/", "a" * 254 + "!"),
        ("/^(.*?,){20}P/", "1,2,3,4,5,6,7,8,9,10," * 12),
        (r"/^(\w+\s?)*$/", "an identifier of many words " * 9 + "!"),
    ],
)
def test_pattern_takes_linear_time(pattern: str, identifier: str) -> None:
    """Python's `re` would search for years. Anybody can send the identifier, and a careless admin can write the pattern."""
    rules = IdentifierRules([pattern])
    accepted({"type": "VisitorSeen", "visitorId": identifier}, rules)
    accepted({"type": "VisitorIdentified", "email": f"{identifier.replace(' ', '').replace(',', '')[:200]}@x.org"}, rules)


@pytest.mark.parametrize(
    "pattern", ["/(/", "/a{1001}/", r"/(a)\1/", "/(?=a)/", "/(?<!a)b/", "/a++/", "/((a{100}){100}){100}/", "/\udc80/"]
)
def test_invalid_pattern_is_named_in_the_error(pattern: str) -> None:
    """A pattern with a feature that RE2 lacks is invalid, too."""
    with pytest.raises(BadPattern) as raised:
        IdentifierRules(["acme-test", pattern])
    assert f"blocked identifiers: expected a regular expression of RE2 between slashes, got {pattern!r} (" in str(raised.value)


def test_pattern_means_the_same_as_in_python() -> None:
    """For the features that both have: classes, anchors, any character, flags, and characters outside ASCII."""
    for pattern, matching, other in (
        (r"/^qa-\d+$/", "qa-12", "qa-12x"),
        ("/(?i)ROBOT/", "a robot", "a robo"),
        ("/^.$/", "é", "éé"),
        ("/[а-я]{3}/", "бот", "bot"),
        (r"/\bbot\b/", "a bot", "abbot"),
        ("/^(?:a|b)c?$/", "b", "cb"),
    ):
        rules = IdentifierRules([pattern])
        refused({"type": "VisitorSeen", "visitorId": matching}, "blocked-identifier", rules=rules)
        accepted({"type": "VisitorSeen", "visitorId": other}, rules)
        assert (re.search(pattern[1:-1], matching) is not None, re.search(pattern[1:-1], other)) == (True, None)


def test_workspace_blocks_exact_values() -> None:
    """Case and length count. The contract's identifiers stay blocked as well."""
    rules = IdentifierRules(["acme-test", "/^qa-[0-9]+$/", "/"])
    for value in ("ACME-test", "acme-test-2", "qa-x", "QA-1", "a/b"):
        accepted({"type": "VisitorSeen", "visitorId": value}, rules)
    refused({"type": "VisitorSeen", "visitorId": "null"}, "blocked-identifier", rules=rules)
    refused({"type": "VisitorSeen", "visitorId": "/"}, "blocked-identifier", rules=rules)
