"""`kinfold contacts` with a search, `count`, `conflicts` and `timeline` ask the directory of `kinfold up`."""

import json
import time
from pathlib import Path
from typing import Any, Final

import pytest

from kinfold_schemas.directory import TimelineEntry
from kinfold_schemas.times import to_text
from kinfold_services.cli.finding import line_of
from kinfold_services.server.embedded import running_url
from tests.support.command_line import Kinfold

PEOPLE: Final[list[dict[str, Any]]] = [
    {"externalId": "u-1", "name": "Ada Lovelace", "email": "ada@example.org", "metadata": {"plan": "pro", "mrr": 99}},
    {"externalId": "u-2", "name": "Blaise Pascal", "metadata": {"plan": "free"}, "visitorId": "v-2"},
    {"externalId": "u-3", "name": "Émilie du Châtelet", "metadata": {"plan": "pro", "mrr": 250}},
]


def publish(kinfold: Kinfold, *events: dict[str, Any]) -> str:
    """Publish identifications. Returns the position of the last one."""
    lines = [json.dumps({"type": "VisitorIdentified", **event}) for event in events]
    return str(kinfold.json("publish", stdin="\n".join(lines).encode())["position"])


@pytest.fixture
def people(kinfold: Kinfold) -> Kinfold:
    """Give the program, with PEOPLE in the directory of the workspace, created in their order."""
    first_ms = time.time_ns() // 1_000_000 - 60_000
    people = [{**person, "at": to_text(first_ms + number)} for number, person in enumerate(PEOPLE)]
    kinfold.json("count", "--wait", publish(kinfold, *people))
    return kinfold


def found(kinfold: Kinfold, *options: object) -> list[str]:
    """The external ids of the printed contacts."""
    return [contact["externalId"] for contact in kinfold.lines("contacts", *options)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--search", "ada"], ["u-1"]),
        (["--search", "emilie chatelet"], ["u-3"]),
        (["--where", "plan=pro"], ["u-3", "u-1"]),
        (["--where", "plan=pro", "--where", "mrr>=100"], ["u-3"]),
        (["--seen-before", "30d"], []),
        (["--seen-before", "2100-01-01", "--sort", "name"], ["u-1", "u-2", "u-3"]),
        (["--sort", "-mrr"], ["u-3", "u-1", "u-2"]),
        (["--sort", "mrr", "--limit", 2], ["u-1", "u-3"]),
    ],
)
def test_contacts_prints_those_that_match(people: Kinfold, options: list[object], expected: list[str]) -> None:
    """In the order of the sort; contacts without the value come last."""
    assert found(people, *options) == expected


def test_found_contact_is_printed_whole(people: Kinfold) -> None:
    """As `kinfold show` prints it."""
    assert people.json("contacts", "--where", "externalId=u-1") == people.json("show", "--external-id", "u-1")


def test_search_without_a_match_says_so(people: Kinfold, workspace: str) -> None:
    """Status 0, and nothing on standard output."""
    said = people.run("contacts", "--search", "nobody")

    assert (said.status, said.out) == (0, b"")
    assert f"no contact of workspace {workspace} matches" in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["contacts", "--where", "lastSeen before 30d"],
            "no contact has the metadata key 'lastSeen'; the nearest name is 'lastSeenAt'",
        ),
        (["contacts", "--sort", "-plam"], "no contact has the metadata key 'plam'; the nearest name is 'plan'"),
        (["count", "--by", "xyzzy"], "no contact has the metadata key 'xyzzy'"),
        (["count", "--where", "plan=pro"], ""),
    ],
)
def test_keys_that_no_contact_has_are_named(people: Kinfold, arguments: list[str], said: str) -> None:
    """A misspelt field is such a key. The status stays 0."""
    ran = people.run(*arguments)

    assert (ran.status, ran.err.partition("\n")[0]) == (0, said)


def test_wait_waits_for_the_directory(kinfold: Kinfold) -> None:
    """Then a script finds what it has just published."""
    for number in range(5):
        position = publish(kinfold, {"externalId": "u-1", "metadata": {"n": number}})
        assert found(kinfold, "--where", f"n={number}", "--wait", position) == ["u-1"]


def test_count_counts_all_contacts_those_that_match_and_by_value(people: Kinfold) -> None:
    """In all, of those that match, and by value."""
    assert people.json("count") == {"count": 3, "isExact": True}
    assert people.json("count", "--where", "plan=pro") == {"count": 2, "isExact": True}
    assert people.json("count", "--search", "ada", "--seen-before", "2100-01-01")["count"] == 1
    rest = {"other": 0, "missing": 1, "isExact": True}
    assert people.lines("count", "--by", "mrr") == [{"value": 99, "count": 1}, {"value": 250, "count": 1}, rest]
    assert people.lines("count", "--by", "plan", "--limit", 1)[1] == {"other": 1, "missing": 0, "isExact": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["contacts", "--where", "plan="], "column 6: expected a value"),
        (["contacts", "--sort", "a b"], "column 3: expected"),
        (["contacts", "--seen-before", "soon"], "expected a time, a date or an age such as 30d, got 'soon'"),
        (["contacts", "--search", "x" * 321], "q: expected at most 320 characters"),
        (["contacts", "--search", "ada", "--at", "2026-01-01T00:00:00Z"], "expected --at or a search, got both"),
        (["count", "--by", "-plan,"], "expected"),
        (["timeline"], "expected exactly one of --visitor, --external-id, --email and --contact"),
        (["timeline", "--email", "a@b.org", "--contact", "ct_1"], "expected exactly one of"),
        (["explain"], "expected exactly one of"),
        (["show", "ada@example.org"], "expected the id of a contact, ct_…, got 'ada@example.org'; --email, --external-id and"),
        (["explain", "ct_1", "--contact", "ct_1"], "expected CONTACT or --contact, got both"),
    ],
)
def test_wrong_question_is_status_2(people: Kinfold, arguments: list[str], message: str) -> None:
    """Standard error names the option and the column."""
    said = people.run(*arguments)

    assert (said.status, said.out) == (2, b"")
    assert message in " ".join(said.err.replace("│", " ").split())
    assert "Traceback" not in said.err


def test_timeline_takes_every_identifier(people: Kinfold) -> None:
    """Newest first; a former address and the id of a merged contact find the same contact."""
    merged = people.json("show", "--wait", publish(people, {"email": "old@example.org"}), "--email", "old@example.org")
    position = publish(
        people,
        {"externalId": "u-2", "email": "old@example.org"},
        {"externalId": "u-2", "email": "new@example.org"},
    )
    contact = people.json("show", "--external-id", "u-2", "--wait", position)

    timeline = people.lines("timeline", "--contact", contact["id"], "--wait", position)

    assert timeline[0]["details"]["changed"][0] == {"field": "email", "before": "old@example.org", "after": "new@example.org"}
    assert {entry["contactId"] for entry in timeline} == {contact["id"], merged["id"]}
    for option, value in (
        ("--external-id", "u-2"),
        ("--visitor", "v-2"),
        ("--email", "NEW@example.org"),
        ("--email", "old@example.org"),
        ("--contact", merged["id"]),
    ):
        assert people.lines("timeline", option, value) == timeline
    assert people.lines("timeline", merged["id"]) == timeline
    assert people.json("show", merged["id"]) == contact
    assert people.lines("timeline", "--external-id", "u-2", "--limit", 2) == timeline[:2]


def test_show_and_explain_find_a_former_address(people: Kinfold) -> None:
    """`show` asks the directory, and `explain` the log. Both say that the contact does not have it any more."""
    position = publish(people, {"externalId": "u-1", "email": "new@example.org"})
    contact = people.json("show", "--external-id", "u-1", "--wait", position)
    people.json("count", "--wait", position)
    story = people.lines("explain", contact["id"])

    for command, expected in (("show", [contact]), ("explain", story)):
        said = people.run(command, "--email", "ada@example.org")
        assert (said.status, said.lines) == (0, expected), said
        assert f"{contact['id']} does not have ada@example.org any more" in said.err
        assert people.run(command, "--email", "new@example.org").err == ""
    for option, value in (("--external-id", "u-1"), ("--contact", contact["id"]), ("--email", "new@example.org")):
        assert people.lines("explain", option, value) == story


@pytest.mark.parametrize(
    ("kind", "details", "text"),
    [
        ("ContactCreated", {"changed": [{"field": "name", "after": "Ada"}]}, "created ct_1, name nothing → Ada"),
        ("ContactUpdated", {"changed": [{"field": "metadata.n", "before": 1, "after": None}]}, "metadata.n 1 → null"),
        ("ContactUpdated", {"changed": [{"field": "visitorIds"}]}, "visitorIds"),
        ("VisitorLinked", {"visitorId": "v-1"}, "linked v-1"),
        ("VisitorUnlinked", {"visitorId": "v-1", "nextContactId": "ct_2"}, "v-1 moved on to ct_2"),
        ("ContactsMerged", {"mergedContactId": "ct_2"}, "merged ct_2"),
        ("IdentityConflict", {"email": "a@b.org\x1b", "heldBy": "ct_2"}, "refused a@b.org\\x1b, which ct_2 holds"),
        ("ContactGone", {}, "ct_1 is not in the state that a replay made"),
    ],
)
def test_timeline_on_a_terminal_is_a_line_for_each_change(kind: str, details: dict[str, Any], text: str) -> None:
    """Time, what changed, and the rule. Text from strangers cannot control the terminal."""
    entry = TimelineEntry("1-0", "2026-11-01T08:00:00.000Z", kind, "ct_1", "1-0", "3: last write wins", details)

    assert line_of(entry).plain == f"2026-11-01T08:00:00.000Z  {text}  [3: last write wins]"


def test_unknown_contact_is_status_1(people: Kinfold, workspace: str) -> None:
    """For each command, with the identifier in the message."""
    for command in ("timeline", "show", "explain"):
        said = people.run(command, "--email", "nobody@example.org")
        assert (said.status, said.out) == (1, b"")
        assert "email 'nobody@example.org': not found in" in said.err
        assert workspace in said.err


def test_conflicts_prints_open_ones_and_with_all_settled_ones(people: Kinfold) -> None:
    """Open ones, and with --all also settled ones."""
    position = publish(people, {"externalId": "u-2", "email": "ada@example.org"})

    (conflict,) = people.lines("conflicts", "--wait", position)

    assert (conflict["email"], conflict["settledAt"]) == ("ada@example.org", None)
    position = publish(people, {"externalId": "u-1", "email": "new@example.org"})
    assert people.lines("conflicts", "--wait", position) == []
    (settled,) = people.lines("conflicts", "--all")
    assert settled["position"] == conflict["position"]
    assert settled["settledAt"] is not None


def test_without_a_directory_searches_are_status_3(kinfold: Kinfold, house: Path, workspace: str, tmp_path: Path) -> None:
    """The message says what to start. `show` goes on, and says what it did not search."""
    position = publish(kinfold, {"externalId": "u-1", "email": "ada@example.org"})
    kinfold.json("status", "--wait", position)
    url = running_url(house)
    elsewhere = Kinfold("--redis-url", url, "--workspace", workspace, "--data-dir", tmp_path / "empty")

    for command in ("contacts --search ada", "count", "conflicts", "timeline --external-id u-1"):
        said = elsewhere.run(*command.split())
        assert (said.status, said.out) == (3, b""), said
        assert "`kinfold directory`" in said.err
    assert elsewhere.json("show", "--external-id", "u-1")["email"] == "ada@example.org"
    said = elsewhere.run("show", "--email", "former@example.org")
    assert said.status == 1
    assert "former addresses are not searched" in said.err


def test_wait_for_a_directory_that_does_not_come_gives_up(
    kinfold: Kinfold, house: Path, workspace: str, tmp_path: Path
) -> None:
    """Status 1 after --wait-timeout, as for the projector."""
    position = publish(kinfold, {"externalId": "u-1"})
    kinfold.json("status", "--wait", position)
    elsewhere = Kinfold("--redis-url", running_url(house), "--workspace", workspace, "--data-dir", tmp_path / "empty")

    said = elsewhere.run("count", "--wait", position, "--wait-timeout", "0.2")

    assert (said.status, said.out) == (1, b"")
    assert "has not reached" in said.err
