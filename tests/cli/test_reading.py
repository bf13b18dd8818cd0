"""`kinfold show`, `contacts`, `status` and `schema`: what is known, as JSON on standard output (contract section 9)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final, cast

import pytest
import redis as redis_py

from kinfold_schemas.json_schema import schemas
from kinfold_schemas.keys import WORKSPACES, key
from tests.support.command_line import Kinfold
from tests.support.json_schema import errors

EVENTS: Final[list[dict[str, Any]]] = [
    {"type": "VisitorSeen", "visitorId": "v-anonymous", "context": {"url": "/"}},
    {"type": "VisitorIdentified", "visitorId": "v-1", "email": "Ada@Example.org"},
    {"type": "VisitorIdentified", "externalId": "u-1", "name": "Ada", "metadata": {"plan": "pro"}},
    {"type": "VisitorIdentified", "externalId": "u-2", "visitorId": "v-2"},
    {"type": "Nope"},
    {"type": "MetadataSet", "visitorId": "v-2", "metadata": {}},
]
MERGE = {"type": "VisitorIdentified", "externalId": "u-1", "email": "ada@example.org"}


@pytest.fixture
def told(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> Kinfold:
    """Give the program where something is known."""
    last = b""
    for event in EVENTS:
        last = cast("bytes", log.xadd(key(workspace, "events"), {"event": json.dumps(event)}))
    kinfold.json("status", "--wait", last.decode())
    return kinfold


def test_show_finds_a_contact_by_everything_that_names_it(told: Kinfold) -> None:
    """A visitor, an external id, an e-mail address however it is written, its own id."""
    contact = told.json("show", "--visitor", "v-1")

    assert contact["email"] == "Ada@Example.org"
    assert contact["visitorIds"] == ["v-1"]
    for option, value in (("--email", "ADA@example.ORG"), ("--email", " ada@example.org "), ("--contact", contact["id"])):
        assert told.json("show", option, value) == contact
    assert told.json("show", "--external-id", "u-1")["name"] == "Ada"


def test_show_finds_the_living_contact_by_the_id_of_one_that_was_merged(told: Kinfold) -> None:
    """And so does everything else that named the merged one."""
    merged = told.json("show", "--visitor", "v-1")
    position = told.json("publish", stdin=json.dumps(MERGE).encode())["position"]

    contact = told.json("show", "--contact", merged["id"], "--wait", position)

    assert contact["id"] != merged["id"]
    assert (contact["externalId"], contact["email"], contact["visitorIds"]) == ("u-1", "ada@example.org", ["v-1"])
    for option, value in (("--visitor", "v-1"), ("--email", "ada@example.org"), ("--external-id", "u-1")):
        assert told.json("show", option, value) == contact


def test_show_of_an_anonymous_visitor_is_the_visitor(told: Kinfold) -> None:
    """Nobody has identified it, and it is known all the same."""
    visitor = told.json("show", "--visitor", "v-anonymous")

    assert visitor["contactId"] is None
    assert visitor["links"] == []
    assert visitor["context"] == {"url": "/"}
    assert visitor.keys() == {"id", "contactId", "links", "metadata", "context", "firstSeenAt", "lastSeenAt"}


def test_what_is_shown_is_what_the_schema_says(told: Kinfold) -> None:
    """The fields of contract section 5 and no others: what the fold keeps for itself is not shown."""
    definitions = schemas()["$defs"]
    contact = told.json("show", "--external-id", "u-1")

    assert contact.keys() == definitions["Contact"]["properties"].keys()
    assert not list(errors(contact, definitions["Contact"], schemas()))


@pytest.mark.parametrize(
    ("option", "value"),
    [("--visitor", "v-x"), ("--external-id", "u-x"), ("--email", "x@example.org"), ("--contact", "ct_x")],
)
def test_show_of_nobody_is_the_answer_no(told: Kinfold, workspace: str, option: str, value: str) -> None:
    """Exit status 1, nothing on standard output, and who was not found on standard error."""
    said = told.run("show", option, value)

    assert (said.status, said.out) == (1, b"")
    assert f"{option[2:]} {value!r}: nobody in workspace {workspace}" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["show", "--visitor", "v-1", "--email", "ada@example.org"],
        ["show", "--visitor", "v-1", "--wait", "yesterday"],
        ["show", "--visitor", os.fsdecode(b"\xff")],
        ["show", "--visitor", "v-1", "--workspace", "No Workspace"],
        ["contacts", "--limit", "0"],
        ["tail", "--nonsense"],
        ["tail", "--since", "yesterday"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_status_2(house: Path, arguments: list[str]) -> None:
    """Whatever is wrong is said on standard error."""
    said = Kinfold("--data-dir", house).run(*arguments)

    assert (said.status, said.out) == (2, b"")
    assert said.err
    assert "Traceback" not in said.err


def test_contacts_prints_every_living_contact_by_id(told: Kinfold) -> None:
    """One a line, in the order of their creation; a merged one no longer."""
    assert {tuple(each["visitorIds"]) for each in told.lines("contacts")} == {("v-1",), (), ("v-2",)}
    position = told.json("publish", stdin=json.dumps(MERGE).encode())["position"]

    contacts = told.lines("contacts", "--wait", position)

    assert {each["externalId"] for each in contacts} == {"u-1", "u-2"}
    assert [each["id"] for each in contacts] == sorted(each["id"] for each in contacts)
    assert told.lines("contacts", "--limit", 1) == contacts[:1]


def test_status_counts(told: Kinfold, workspace: str) -> None:
    """Entries, position, lag, contacts, visitors, and what the entries came to."""
    status = told.json("status")

    position = status.pop("position")
    assert position.count("-") == 1
    expected = {
        "workspace": workspace,
        "entries": 6,
        "lag": 0,
        "contacts": 3,
        "visitors": 3,
        "folded": 4,
        "no-op": 1,
        "stale": 0,
        "duplicate": 0,
        "rejected": 1,
        "id-reused": 0,
    }
    assert {name: status[name] for name in expected} == expected


@pytest.mark.usefixtures("told")
def test_status_tells_of_every_workspace(house: Path, workspace: str) -> None:
    """One a line where none is named: `default`, and those of the set."""
    lines = Kinfold("--data-dir", house).lines("status")

    assert {"default", workspace} <= {line["workspace"] for line in lines}


@pytest.mark.usefixtures("told")
def test_status_tells_of_the_workspace_that_the_environment_names(told: Kinfold, house: Path, workspace: str) -> None:
    """KINFOLD_WORKSPACE names it as --workspace does."""
    lines = Kinfold("--data-dir", house, KINFOLD_WORKSPACE=workspace).lines("status")

    assert lines == told.lines("status")
    assert [line["workspace"] for line in lines] == [workspace]


@pytest.mark.parametrize("command", ["status", "contacts"])
def test_a_workspace_that_is_misspelt_is_said_to_be_empty_or_not_served(house: Path, command: str) -> None:
    """Zeros, or nothing at all, look like data that is lost."""
    said = Kinfold("--data-dir", house).run(command, "--workspace", "cli-misspelt")

    assert said.status == 0
    assert said.err.startswith(("workspace cli-misspelt is not in", "no contacts in workspace cli-misspelt"))


def test_status_leaves_out_what_is_no_workspace(house: Path, log: redis_py.Redis) -> None:
    """The set may hold anything, and one name that is none must not hide how the others are."""
    nonsense = [b"No Workspace!", b"\xff"]
    log.sadd(WORKSPACES, *nonsense)
    try:
        names = [line["workspace"] for line in Kinfold("--data-dir", house).lines("status")]
    finally:
        log.srem(WORKSPACES, *nonsense)

    assert "default" in names
    assert "No Workspace!" not in names


def test_wait_waits_and_gives_up(told: Kinfold) -> None:
    """A position that never comes is the answer no, after as long as one is told to wait."""
    said = told.run("show", "--visitor", "v-1", "--wait", "99999999999999-0", "--wait-timeout", "0.1")

    assert (said.status, said.out) == (1, b"")
    assert "position 99999999999999-0 is not folded after 0.1 s; does a projector run?" in said.err


@pytest.mark.parametrize("command", ["contacts", "tail --since 0", "status"])
def test_a_reader_who_has_seen_enough_is_no_error(told: Kinfold, command: str) -> None:
    """`kinfold contacts | head -n 0`: no complaint, and the status of somebody who is done."""
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | true', "bash", *told.command(*command.split())],
        env=told.environment(),
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_schema_prints_the_json_schemas() -> None:
    """Of everything that is said, without a server."""
    printed = Kinfold().json("schema")

    assert printed == json.loads(json.dumps(schemas()))
    assert {"Event", "Change", "Contact", "Visitor"} <= printed["$defs"].keys()
