"""`kinfold correct`: what would change, the question, and what it does."""

import os
import pty
import select
import subprocess
from typing import Any, Final

import msgspec
import pytest

from kinfold_schemas.keys import key
from tests.support.command_line import PATIENCE_S, Kinfold
from tests.support.waiting import wait_until_sync

PEOPLE: Final = b"""
{"type": "VisitorIdentified", "externalId": "u-1", "email": "ada@x.io", "visitorId": "v-1", "name": "Ada"}
{"type": "VisitorIdentified", "externalId": "u-2", "email": "ben@x.io", "visitorId": "v-2", "name": "Ben"}
"""
REST: Final = "unlinkVisitorId, dismissConflict, or some of externalId, email, name, image, metadata, unset"
GRACE: Final = ("--by", "Grace", "--reason", "a slip")


@pytest.fixture
def ids(kinfold: Kinfold) -> tuple[str, str]:
    """Give the ids of Ada and Ben."""
    kinfold.lines("publish", "--wait", stdin=PEOPLE)
    ada, ben = (kinfold.lines("show", "--external-id", each)[0]["id"] for each in ("u-1", "u-2"))
    return ada, ben


def shown(kinfold: Kinfold, contact_id: str, position: str) -> Any:
    """The contact once a position is folded."""
    kinfold.lines("status", "--wait", position)
    return kinfold.lines("show", "--contact", contact_id)[0]


def test_each_correction_does_what_it_printed(kinfold: Kinfold, ids: tuple[str, str], log: Any, workspace: str):
    """And the log says who made it, and why."""
    ada, ben = ids
    steps: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (
            ("set", ada, "--name", "Ada B", "--no-email", "--metadata", "seats=3", "--metadata", "plan=pro"),
            {"name": "Ada B", "email": None, "metadata": {"seats": 3, "plan": "pro"}},
        ),
        (("set", ada, "--unset", "seats", "--image", "/ada.png"), {"metadata": {"plan": "pro"}, "image": "/ada.png"}),
        (("unlink", ada, "v-1"), {"visitorCount": 0}),
        (("settle", ada, "ben@x.io", "--take"), {"email": "ben@x.io"}),
        (("merge", ada, ben), {"visitorCount": 1, "externalId": "u-1"}),
    ]
    for arguments, expected in steps:
        dry = kinfold.lines("correct", *arguments, *GRACE, "--dry-run")[0]
        (done,) = kinfold.lines("correct", *arguments, *GRACE, "--yes")
        assert done["preview"]["contacts"][0]["before"] == dry["contacts"][0]["before"]
        now = shown(kinfold, ada, done["position"])
        assert {name: now[name] for name in expected} == expected, arguments
        _, fields = log.xrange(key(workspace, "events"), done["position"], done["position"])[0]
        event = msgspec.json.decode(fields[b"event"])
        assert (event["type"], event["by"], event["reason"]) == ("IdentityCorrected", "Grace", "a slip")
    assert kinfold.run("verify").status == 0


def test_undo_takes_a_correction_back(kinfold: Kinfold, ids: tuple[str, str]):
    """Two at once as well, and twice is as good as once."""
    ada, ben = ids
    renamed = kinfold.lines("correct", "set", ada, "--name", "Eve", *GRACE, "--yes")[0]["position"]
    merged = kinfold.lines("correct", "merge", ada, ben, *GRACE, "--yes")[0]["position"]
    shown(kinfold, ada, merged)
    (told,) = kinfold.lines("correct", "undo", merged, renamed, "--dry-run")
    assert {each["contactId"] for each in told["contacts"]} == {ada, ben}
    (done,) = kinfold.lines("correct", "undo", merged, renamed, *GRACE, "--yes")
    assert done["contacts"] == told["contacts"]
    assert [kinfold.lines("show", "--contact", each)[0]["name"] for each in ids] == ["Ada", "Ben"]
    (again,) = kinfold.lines("correct", "undo", merged, *GRACE, "--yes")
    assert (again["contacts"], again["excludedBy"]) == ([], None)
    assert kinfold.run("verify").status == 0


def test_killed_undo_is_completed_by_the_next_one(kinfold: Kinfold, ids: tuple[str, str], log: Any, workspace: str):
    """SIGKILL once the log says that the correction is left out, before or while the state is replaced."""
    ada, _ = ids
    renamed = kinfold.lines("correct", "set", ada, "--name", "Eve", *GRACE, "--yes")[0]["position"]
    shown(kinfold, ada, renamed)
    command = kinfold.command("correct", "undo", renamed, *GRACE, "--yes")
    with subprocess.Popen(command, env=kinfold.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        wait_until_sync(lambda: log.xlen(key(workspace, "events")) == 4, PATIENCE_S)
        running.kill()
    (again,) = kinfold.lines("correct", "undo", renamed, *GRACE, "--yes")
    assert again["excludedBy"] is None, "the first one recorded it"
    assert kinfold.lines("show", "--contact", ada)[0]["name"] == "Ada"
    assert kinfold.run("verify").status == 0


def test_unmerge_takes_every_merge_of_a_contact_back(kinfold: Kinfold, ids: tuple[str, str]):
    """By hand and by events: one after the other would merge it again."""
    ada, ben = ids
    position = kinfold.lines("correct", "merge", ada, ben, *GRACE, "--yes")[0]["position"]
    shown(kinfold, ada, position)
    (told,) = kinfold.lines("correct", "unmerge", ben, "--dry-run")
    assert told["entries"] == [position]
    kinfold.lines("correct", "unmerge", ben, *GRACE, "--yes")
    assert kinfold.lines("show", "--contact", ben)[0]["name"] == "Ben"
    refused = kinfold.run("correct", "unmerge", ben, *GRACE, "--yes")
    assert refused.status == 1
    assert "expected the id of a contact that was merged into another one" in refused.err


def test_settle_has_three_ways(kinfold: Kinfold, ids: tuple[str, str]):
    """Here two of them; the third is in the first test."""
    ada, _ = ids
    (dismissed,) = kinfold.lines("correct", "settle", ada, "ben@x.io", "--dismiss", *GRACE, "--yes")
    assert dismissed["preview"]["outcome"] == "folded"
    shown(kinfold, ada, dismissed["position"])
    (merged,) = kinfold.lines("correct", "settle", ada, "BEN@x.io", "--merge", *GRACE, "--yes")
    assert merged["preview"]["contacts"][1]["mergedInto"] == ada
    assert kinfold.run("correct", "settle", ada, "nobody@x.io", "--merge", *GRACE, "--yes").status == 1
    assert kinfold.run("correct", "settle", ada, "ben@x.io", *GRACE, "--yes").status == 2


def test_refused_correction_appends_nothing(kinfold: Kinfold, ids: tuple[str, str], log: Any, workspace: str):
    """Exit status 1, and the sentence says why."""
    ada, _ = ids
    for arguments, sentence in (
        (("set", ada, "--email", "ben@x.io"), "email: expected one that no other contact has, or take: true, got"),
        (("set", "ct_x", "--name", "Eve"), "contactId: expected the id of a contact of this workspace, got 'ct_x'"),
        (("set", ada), f"event: expected exactly one of mergeContactId, {REST}"),
    ):
        said = kinfold.run("correct", *arguments, *GRACE, "--yes")
        assert said.status == 1
        assert sentence in said.err
        dry = kinfold.run("correct", *arguments, *GRACE, "--dry-run")
        assert dry.status == 1
        assert dry.lines[0]["rejection"]["expected"] in sentence
    assert log.xlen(key(workspace, "events")) == 2


def test_no_change_is_not_appended(kinfold: Kinfold, ids: tuple[str, str], log: Any, workspace: str):
    ada, _ = ids
    said = kinfold.run("correct", "set", ada, "--name", "Ada", *GRACE, "--yes")
    assert (said.status, said.lines[0]["position"]) == (0, None)
    assert "it would change nothing" in said.err
    assert log.xlen(key(workspace, "events")) == 2


@pytest.mark.parametrize("answer", ["y", "n"])
def test_on_a_terminal_it_shows_what_would_change_and_asks(
    kinfold: Kinfold, ids: tuple[str, str], log: Any, workspace: str, answer: str
):
    """Only after a yes it is appended."""
    terminal, program = pty.openpty()
    command = kinfold.command("correct", "set", ids[0], "--name", "Eve\x1b[31m", "--email", "ben@x.io", "--take", *GRACE)
    with subprocess.Popen(
        command, env={**kinfold.environment(), "COLUMNS": "120"}, stdin=program, stderr=program, stdout=subprocess.PIPE
    ) as running:
        os.close(program)
        said = read_until(terminal, "Do this?")
        os.write(terminal, f"{answer}\n".encode())
        out, _ = running.communicate(timeout=PATIENCE_S)
    os.close(terminal)
    rows = [line.split() for line in said.splitlines()]
    assert [ids[0], "name", "Ada", "Eve\\x1b[31m"] in rows
    assert [ids[0], "email", "ada@x.io", "ben@x.io"] in rows
    assert [ids[1], "email", "ben@x.io", "–"] in rows
    assert "note: The next event that names u-2 and ben@x.io is a conflict." in said
    assert (running.returncode, bool(out)) == ((0, True) if answer == "y" else (1, False))
    assert log.xlen(key(workspace, "events")) == (3 if answer == "y" else 2)


def read_until(terminal: int, text: str) -> str:
    """What a program writes to a terminal up to some text."""
    said = b""
    while text.encode() not in said:
        assert select.select([terminal], [], [], PATIENCE_S)[0], said
        said += os.read(terminal, 4096)
    return said.decode()


def test_without_a_terminal_it_does_not_ask(kinfold: Kinfold, ids: tuple[str, str]):
    """A script has to say --yes."""
    said = kinfold.run("correct", "set", ids[0], "--name", "Eve")
    assert said.status == 2
    assert "expected --yes or --dry-run, or a terminal on which to ask" in " ".join(said.err.split())


@pytest.mark.parametrize(
    "arguments", [["--name", "x", "--no-name"], ["--metadata", "plan"], ["--metadata", "=x"], ["--name", "x", "--by", ""]]
)
def test_wrong_options_are_refused(kinfold: Kinfold, arguments: list[str]):
    said = kinfold.run("correct", "set", "ct_x", "--yes", *arguments)
    assert said.status == 2
    assert "expected" in said.err
