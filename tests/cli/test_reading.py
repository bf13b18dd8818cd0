"""`kinfold show`, `contacts`, `status` and `schema` print JSON on standard output (contract section 9)."""

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
def filled(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> Kinfold:
    """Give the program, with a workspace in which EVENTS are folded."""
    last = b""
    for event in EVENTS:
        last = cast("bytes", log.xadd(key(workspace, "events"), {"event": json.dumps(event)}))
    kinfold.json("status", "--wait", last.decode())
    return kinfold


def test_show_finds_a_contact_by_each_of_its_identifiers(filled: Kinfold) -> None:
    """By visitor, external id, contact id, and e-mail address in any spelling."""
    contact = filled.json("show", "--visitor", "v-1")

    assert contact["email"] == "Ada@Example.org"
    assert contact["visitorIds"] == ["v-1"]
    for option, value in (("--email", "ADA@example.ORG"), ("--email", " ada@example.org "), ("--contact", contact["id"])):
        assert filled.json("show", option, value) == contact
    assert filled.json("show", "--external-id", "u-1")["name"] == "Ada"


def test_show_finds_a_contact_by_the_id_of_a_merged_one(filled: Kinfold) -> None:
    """All other identifiers of the merged contact find it too."""
    merged = filled.json("show", "--visitor", "v-1")
    position = filled.json("publish", stdin=json.dumps(MERGE).encode())["position"]

    contact = filled.json("show", "--contact", merged["id"], "--wait", position)

    assert contact["id"] != merged["id"]
    assert (contact["externalId"], contact["email"], contact["visitorIds"]) == ("u-1", "ada@example.org", ["v-1"])
    for option, value in (("--visitor", "v-1"), ("--email", "ada@example.org"), ("--external-id", "u-1")):
        assert filled.json("show", option, value) == contact


def test_show_prints_an_anonymous_visitor(filled: Kinfold) -> None:
    """A visitor without a contact is shown as a visitor."""
    visitor = filled.json("show", "--visitor", "v-anonymous")

    assert visitor["contactId"] is None
    assert visitor["links"] == []
    assert visitor["context"] == {"url": "/"}
    assert visitor.keys() == {
        *("id", "contactId", "links", "name", "image", "metadata", "context", "firstSeenAt", "lastSeenAt")
    }


def test_shown_contact_matches_the_schema(filled: Kinfold) -> None:
    """It has exactly the fields of contract section 5, without internal ones."""
    definitions = schemas()["$defs"]
    contact = filled.json("show", "--external-id", "u-1")

    assert contact.keys() == definitions["Contact"]["properties"].keys()
    assert not list(errors(contact, definitions["Contact"], schemas()))


@pytest.mark.parametrize(
    ("option", "value"),
    [("--visitor", "v-x"), ("--external-id", "u-x"), ("--email", "x@example.org"), ("--contact", "ct_x")],
)
def test_show_of_an_unknown_contact_is_status_1(filled: Kinfold, workspace: str, option: str, value: str) -> None:
    """Standard output is empty, and standard error names the identifier."""
    said = filled.run("show", option, value)

    assert (said.status, said.out) == (1, b"")
    assert f"{option[2:]} {value!r}: not found in workspace {workspace}" in said.err


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
    """Standard error names the mistake."""
    said = Kinfold("--data-dir", house).run(*arguments)

    assert (said.status, said.out) == (2, b"")
    assert said.err
    assert "Traceback" not in said.err


def test_contacts_prints_every_living_contact_by_id(filled: Kinfold) -> None:
    """One contact a line, ordered by id, without merged ones."""
    assert {tuple(each["visitorIds"]) for each in filled.lines("contacts")} == {("v-1",), (), ("v-2",)}
    position = filled.json("publish", stdin=json.dumps(MERGE).encode())["position"]

    contacts = filled.lines("contacts", "--wait", position)

    assert {each["externalId"] for each in contacts} == {"u-1", "u-2"}
    assert [each["id"] for each in contacts] == sorted(each["id"] for each in contacts)
    assert filled.lines("contacts", "--limit", 1) == contacts[:1]


def test_status_prints_positions_and_counts(filled: Kinfold, workspace: str) -> None:
    """It prints entries, position, lag, contacts, visitors and counts by outcome."""
    status = filled.json("status")

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
        "untrusted": 0,
    }
    assert {name: status[name] for name in expected} == expected


@pytest.mark.usefixtures("filled")
def test_status_lists_every_workspace(house: Path, workspace: str) -> None:
    """Without an option it prints `default` and all members of the set."""
    lines = Kinfold("--data-dir", house).lines("status")

    assert {"default", workspace} <= {line["workspace"] for line in lines}


@pytest.mark.usefixtures("filled")
def test_status_of_the_workspace_that_the_environment_names(filled: Kinfold, house: Path, workspace: str) -> None:
    """KINFOLD_WORKSPACE works like --workspace."""
    (line,) = Kinfold("--data-dir", house, KINFOLD_WORKSPACE=workspace).lines("status")
    (same,) = filled.lines("status")

    assert {**line, "directory": None} == {**same, "directory": None}  # the directory may be building in between
    assert line["workspace"] == workspace


@pytest.mark.parametrize("command", ["status", "contacts"])
def test_misspelt_workspace_is_reported_as_empty_or_not_served(house: Path, command: str) -> None:
    """Zeros alone, or no output, would look like lost data."""
    said = Kinfold("--data-dir", house).run(command, "--workspace", "cli-misspelt")

    assert said.status == 0
    assert said.err.startswith(("workspace cli-misspelt is not in", "no contacts in workspace cli-misspelt"))


def test_status_omits_invalid_workspace_names(house: Path, log: redis_py.Redis) -> None:
    """The set may contain anything, and an invalid name must not hide the other workspaces."""
    nonsense = [b"No Workspace!", b"\xff"]
    log.sadd(WORKSPACES, *nonsense)
    try:
        names = [line["workspace"] for line in Kinfold("--data-dir", house).lines("status")]
    finally:
        log.srem(WORKSPACES, *nonsense)

    assert "default" in names
    assert "No Workspace!" not in names


def test_wait_gives_up_after_its_timeout(filled: Kinfold) -> None:
    """A position that is never folded is status 1."""
    said = filled.run("show", "--visitor", "v-1", "--wait", "99999999999999-0", "--wait-timeout", "0.1")

    assert (said.status, said.out) == (1, b"")
    assert "position 99999999999999-0 was not folded within 0.1 s; is a projector running?" in said.err


@pytest.mark.parametrize("command", ["contacts", "tail --since 0", "status"])
def test_closed_pipe_is_not_an_error(filled: Kinfold, command: str) -> None:
    """As in `kinfold contacts | head -n 0`: no message, and status 0."""
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | true', "bash", *filled.command(*command.split())],
        env=filled.environment(),
        capture_output=True,
        check=False,
        timeout=200,
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_schema_prints_the_json_schemas() -> None:
    """It needs no server."""
    printed = Kinfold().json("schema")

    assert printed == json.loads(json.dumps(schemas()))
    assert {"Event", "Change", "Contact", "Visitor"} <= printed["$defs"].keys()


@pytest.mark.parametrize("arguments", [["show", "--visitor", "v-1"], ["contacts"], ["status"]])
def test_workspace_that_no_projector_serves_is_named(house: Path, arguments: list[str]) -> None:
    """A misspelt name would otherwise look like an empty workspace."""
    said = Kinfold("--data-dir", house, "--workspace", "cli-misspelt").run(*arguments)

    assert said.err.count("workspace cli-misspelt is not in kinfold:workspaces: SADD it there") == 1
