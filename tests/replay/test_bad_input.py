"""A command that cannot do its work ends with one sentence and the exit status of contract section 9, and changes nothing."""

from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from tests.support.event_log import LOG_START_MS, append, entry_id
from tests.support.projecting import fold_log
from tests.support.replaying import Answer, kinfold, leftovers, verify
from tests.support.snapshots import take_snapshot
from tests.support.waiting import wait_until

DONE, NO, WRONG_USAGE, UNREACHABLE = 0, 1, 2, 3
PEOPLE: Final = [{"type": "VisitorIdentified", "visitorId": f"v-{n}", "externalId": f"u-{n}"} for n in range(10)]
ASKING: Final = [["contacts"], ["show", "--external-id", "u-1"], ["explain", "ct_nobody"]]


@pytest.fixture(name="folded")
async def _folded(redis: Redis, redis_url: str, workspace: str) -> None:
    await append(redis, workspace, PEOPLE)
    await fold_log(redis, redis_url, workspace)


def refused(answer: Answer, status: int, *parts: str) -> None:
    """Assert the exit status, parts of the sentence, and that standard output is empty."""
    assert answer.status == status, answer
    assert answer.out == []
    said = " ".join(answer.said.replace("│", " ").split())  # typer draws a box around wrong usage
    for part in parts:
        assert part in said, answer.said


@pytest.mark.usefixtures("folded")
@pytest.mark.parametrize(
    ("at", "status", "parts"),
    [
        ("2026-12-31T23:59:59Z", NO, ["2026-12-31T23:59:59.000Z is before the log", "2027-01-15T08:00:00.000Z"]),
        ("2027-01-01t01:59:59+02:00", NO, ["2026-12-31T23:59:59.000Z is before the log"]),
        (f"{LOG_START_MS - 1}-0", NO, ["before the log", entry_id(0)]),
        (entry_id(10), NO, ["after the log", entry_id(9)]),
        ("9999-12-31T23:59:59Z", NO, ["after the log"]),
        ("yesterday", WRONG_USAGE, ["'yesterday'", "expected a time with an offset"]),
        ("2027-01-15T08:00:00", WRONG_USAGE, ["2027-01-15T08:00:00", "offset"]),
        ("1-99999999999999999999", WRONG_USAGE, ["1-99999999999999999999", "a position"]),
    ],
)
async def test_moment_outside_of_the_log_is_rejected(redis_url: str, workspace: str, at: str, status: int, parts: list[str]):
    """Before its beginning, in the future, or not a moment."""
    refused(await kinfold(redis_url, workspace, "contacts", "--at", at), status, *parts)


@pytest.mark.usefixtures("folded")
@pytest.mark.parametrize("command", ASKING, ids=lambda command: command[0])
async def test_every_command_that_looks_back_checks_the_moment(redis_url: str, workspace: str, command: list[str]):
    """With the same sentence and the same exit status."""
    refused(await kinfold(redis_url, workspace, *command, "--at", entry_id(99)), NO, "after the log")


@pytest.mark.parametrize(
    "command", [["replay"], ["replay", "--dry-run"], ["verify"], *([*each, "--at", "1-0"] for each in ASKING)]
)
async def test_workspace_that_does_not_exist_is_reported(redis: Redis, redis_url: str, command: list[str]):
    """The command does not create it."""
    refused(await kinfold(redis_url, "nobody-here", *command), NO, "workspace nobody-here: there is no log")
    assert await redis.keys("*nobody-here*") == []


@pytest.mark.parametrize("command", [["replay"], ["verify"], ["explain", "ct_1"], ["contacts", "--at", "1-0"]])
async def test_server_that_does_not_answer_is_reported(tmp_path: Path, workspace: str, command: list[str]):
    """The exit status is 3."""
    refused(await kinfold(f"unix://{tmp_path}/no.sock", workspace, *command), UNREACHABLE)


@pytest.mark.usefixtures("folded")
@pytest.mark.parametrize(
    ("option", "content", "expected"),
    [
        ("--exclude-events", None, (WRONG_USAGE, "does not exist")),
        ("--exclude-events", b"1800000000000-0\nfirst\n", (WRONG_USAGE, "--exclude-events", "'first'")),
        ("--exclude-events", b"\xff\xfe", (WRONG_USAGE, "--exclude-events", "utf-8")),
        ("--exclude-events", entry_id(10).encode(), (NO, f"the log has no entry {entry_id(10)}", "nothing was done")),
        ("--blocked-identifiers", None, (WRONG_USAGE, "does not exist")),
        ("--blocked-identifiers", b"/(/\n", (WRONG_USAGE, "--blocked-identifiers", "/(/", "regular expression")),
    ],
)
async def test_file_that_cannot_be_used_is_rejected(  # noqa: PLR0917  fixtures
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, option: str, content: bytes | None, expected: Any
):
    """It is missing, or contains something that is not an entry or an identifier. Nothing is read or written before."""
    before = await take_snapshot(redis, workspace)
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    refused(await kinfold(redis_url, workspace, "replay", option, file), *expected)
    (await take_snapshot(redis, workspace)).must_equal(before)
    assert await redis.xlen(key(workspace, "events")) == len(PEOPLE)


@pytest.mark.usefixtures("folded")
async def test_trimmed_log_is_reported(redis: Redis, redis_url: str, workspace: str, tmp_path: Path):
    """By every command. A replay that would lose contacts refuses, along with its exclusions, without `--allow-truncated`."""
    before = await take_snapshot(redis, workspace)
    await redis.xtrim(key(workspace, "events"), minid=entry_id(3), approximate=False)
    lost = f"the log has lost 3 entries: it begins at {entry_id(3)}"
    shown = {command[0]: await kinfold(redis_url, workspace, *command, "--at", entry_id(5)) for command in ASKING}
    assert all(lost in answer.said for answer in shown.values())
    assert len(shown["contacts"].out) == 3
    refused(await kinfold(redis_url, workspace, "contacts", "--at", entry_id(2)), NO, "before the log", entry_id(3))
    verified = await kinfold(redis_url, workspace, "verify")
    assert (verified.status, verified.said.count(lost), verified.said.count("replay repairs")) == (NO, 1, 0)
    dry = await kinfold(redis_url, workspace, "replay", "--dry-run")
    assert dry.status == DONE
    assert [change["type"] for change in dry.out] == ["ContactGone"] * 3
    (tmp_path / "wrong").write_text(entry_id(4))
    (tmp_path / "blocked").write_text("u-7")

    refused(
        await kinfold(
            redis_url,
            workspace,
            "replay",
            *("--exclude-events", tmp_path / "wrong", "--blocked-identifiers", tmp_path / "blocked"),
        ),
        NO,
        lost,
        "5 contacts are gone",
        "--allow-truncated",
    )
    (await take_snapshot(redis, workspace)).must_equal(before)
    assert await redis.xlen(key(workspace, "events")) == len(PEOPLE) - 3
    assert await leftovers(redis, workspace) == []

    answer = await kinfold(redis_url, workspace, "replay", "--allow-truncated")
    assert answer.status == DONE
    assert answer.out == dry.out
    assert lost in answer.said
    assert len((await take_snapshot(redis, workspace)).contacts) == 7
    assert await verify(redis, workspace) == []
    status = await kinfold(redis_url, workspace, "status")
    assert (status.out[0]["entries"], status.out[0]["lag"]) == (7, 0)
    await append(redis, workspace, PEOPLE[:1], start=10)
    await fold_log(redis, redis_url, workspace)
    status = await kinfold(redis_url, workspace, "status")
    assert (status.out[0]["entries"], status.out[0]["lag"]) == (8, 0)


@pytest.mark.usefixtures("folded")
async def test_trimmed_log_without_lost_contacts_is_replayed(redis: Redis, redis_url: str, workspace: str):
    """No contact came from the lost entry. The command reports the loss, and succeeds."""
    await append(redis, workspace, [{"type": "VisitorSeen", "visitorId": "v-1"}], start=10)
    await fold_log(redis, redis_url, workspace)
    await redis.xdel(key(workspace, "events"), entry_id(10))
    answer = await kinfold(redis_url, workspace, "replay")
    assert answer.status == DONE
    assert "the log has lost 1 entry" in answer.said
    assert {change["type"] for change in answer.out} <= {"ContactUpdated"}


@pytest.mark.usefixtures("folded")
async def test_replay_of_an_empty_log_is_refused(redis: Redis, redis_url: str, workspace: str):
    """It would lose every contact."""
    await redis.xtrim(key(workspace, "events"), maxlen=0, approximate=False)
    refused(await kinfold(redis_url, workspace, "replay"), NO, "nothing is left of it", "10 contacts are gone")
    refused(await kinfold(redis_url, workspace, "contacts", "--at", entry_id(1)), NO, "before the log, which is empty")


async def test_progress_is_printed_as_lines_without_a_terminal(redis: Redis, redis_url: str, workspace: str):
    """On standard error. The result is on standard output."""
    await append(redis, workspace, PEOPLE)
    await fold_log(redis, redis_url, workspace)
    answer = await kinfold(redis_url, workspace, "replay")
    assert answer.said.splitlines() == ["replaying: 10 of 10", "10 entries folded, 0 contacts changed"]
    verified = await kinfold(redis_url, workspace, "verify")
    assert verified.said.splitlines() == ["verifying: 10 of 10", f"equal at {entry_id(9)}: 10 entries folded"]
    empty = msgspec.json.encode([])
    assert msgspec.json.encode(answer.out) == msgspec.json.encode(verified.out) == empty


async def test_log_that_was_never_folded_equals_an_empty_state(redis: Redis, redis_url: str, workspace: str):
    """The position of the state is the beginning of the log."""
    await append(redis, workspace, PEOPLE)
    answer = await kinfold(redis_url, workspace, "verify")
    assert answer.status == DONE
    assert "equal at the beginning: 0 entries folded" in answer.said
    await wait_until(lambda: leftovers_are_gone(redis, workspace))


async def leftovers_are_gone(client: Redis, workspace: str) -> bool:
    """Whether no key of a replay is left."""
    return await leftovers(client, workspace) == []
