"""`kinfold retention`: limits, runs, receipts, and what other commands say about a log that was cut."""

import json
import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Final, cast

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from tests.support.projecting import fold_log, projecting, wait_until_folded
from tests.support.replaying import kinfold
from tests.support.retaining import ago, append_aged, append_history
from tests.support.snapshots import read_stream
from tests.support.waiting import wait_until

ADA: Final = {"type": "VisitorIdentified", "visitorId": "v-ada", "externalId": "u-1", "email": "ada@example.org", "name": "Ada"}


async def test_limits_are_set_shown_and_removed(redis_url: str, redis: Redis, workspace: str):
    """A limit that is not given stays as it is."""
    answer = await kinfold(redis_url, workspace, "retention", "set", "--events", "400d", "--anonymous", "90d")
    assert answer.out == [
        {"workspace": workspace, "limits": {"events": "400d", "anonymous": "90d", "rejects": None, "feed": None}}
    ]
    await kinfold(redis_url, workspace, "retention", "set", "--rejects", "36h", "--feed", "90m")
    (shown,) = (await kinfold(redis_url, workspace, "retention", "show")).out
    assert shown["limits"] == {"events": "400d", "anonymous": "90d", "rejects": "36h", "feed": "90m"}
    assert (shown["baseline"], shown["lastReceipt"]) == (None, None)
    await kinfold(redis_url, workspace, "retention", "off")
    assert await redis.exists(key(workspace, "retention")) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "expected at least one of --events"),
        (["--events", "0d"], "expected an age such as 400d or 36h, got '0d'"),
        (["--events", "-1d"], "expected an age such as"),
        (["--events", "forever"], "expected an age such as"),
    ],
)
async def test_wrong_limit_is_refused(redis: Redis, redis_url: str, workspace: str, options: list[str], said: str):
    """Exit status 2, and nothing is set."""
    answer = await kinfold(redis_url, workspace, "retention", "set", *options)
    assert answer.status == 2
    assert said in " ".join(answer.said.replace("│", " ").split())
    assert await redis.exists(key(workspace, "retention")) == 0


async def test_run_without_limits_removes_nothing(redis: Redis, redis_url: str, workspace: str):
    """Exit status 1."""
    await append_aged(redis, workspace, (1000, ADA))
    await fold_log(redis, redis_url, workspace)
    answer = await kinfold(redis_url, workspace, "retention", "run")
    assert (answer.status, answer.out) == (1, [])
    assert "has no limits" in answer.said
    assert await redis.xlen(key(workspace, "events")) == 1


async def test_run_removes_what_is_older_and_leaves_a_receipt(redis: Redis, redis_url: str, workspace: str):
    """A dry run says the same, and removes nothing."""
    entries = await append_aged(
        redis,
        workspace,
        (500, ADA),
        (499, {"type": "VisitorSeen", "visitorId": "v-nobody"}),
        (450, b"not json"),
        (10, {"type": "MetadataSet", "externalId": "u-1", "metadata": {"plan": "pro"}}),
        (9, b"not json either"),
    )
    await fold_log(redis, redis_url, workspace)
    await kinfold(redis_url, workspace, "retention", "set", "--events", "400d", "--anonymous", "90d")
    before = await redis.dump(key(workspace, "events")), await redis.dump(key(workspace, "visitors"))

    (dry,) = (await kinfold(redis_url, workspace, "retention", "run", "--dry-run")).out
    assert (await redis.dump(key(workspace, "events")), await redis.dump(key(workspace, "visitors"))) == before
    (receipt,) = (await kinfold(redis_url, workspace, "retention", "run")).out

    assert receipt["removed"] == dry["removed"]
    assert receipt["removed"] == {"logEntries": 3, "visitors": 1, "erasedEntries": 1, "rejects": 1, "feedEntries": 0}
    assert receipt["logCutAt"] == entries[2]
    assert receipt["checks"]["equalAt"] == entries[4]
    assert receipt["by"] == "kinfold retention run"
    assert [each.decode() for each, _ in await read_stream(redis, workspace, "events")] == entries[3:]
    assert [fields[b"entry"].decode() for _, fields in await read_stream(redis, workspace, "rejects")] == entries[4:]
    assert await cast("Awaitable[list[bytes]]", redis.hkeys(key(workspace, "visitors"))) == [b"v-ada"]
    assert (await kinfold(redis_url, workspace, "retention", "receipts")).out == [receipt]
    (shown,) = (await kinfold(redis_url, workspace, "retention", "show")).out
    assert shown["lastReceipt"] == receipt
    assert (shown["baseline"]["position"], shown["baseline"]["entries"]) == (entries[2], 3)
    again = await kinfold(redis_url, workspace, "retention", "run")
    assert (again.status, again.out) == (0, [])
    assert "nothing is older than the limits" in again.said
    assert "ada" not in re.sub(r"[0-9a-f]{32,}", "", json.dumps(receipt))  # a digest may have these letters
    answer = await kinfold(redis_url, workspace, "replay")
    assert (answer.status, answer.out) == (0, []), "what was removed does not come back"
    assert len(await read_stream(redis, workspace, "rejects")) == 1


async def test_whole_log_may_be_cut(redis: Redis, redis_url: str, workspace: str):
    """The state stays, and folding goes on. A new projector knows the state, and the ids of the events that were cut."""
    (last,) = await append_aged(redis, workspace, (500, {**ADA, "id": "e-1"}))
    await fold_log(redis, redis_url, workspace)
    await kinfold(redis_url, workspace, "retention", "set", "--events", "400d")
    assert (await kinfold(redis_url, workspace, "retention", "run")).status == 0
    assert await redis.xlen(key(workspace, "events")) == 0

    assert (await kinfold(redis_url, workspace, "verify")).status == 0
    assert (await kinfold(redis_url, workspace, "replay")).out == []
    (shown,) = (await kinfold(redis_url, workspace, "show", "--external-id", "u-1", "--at", last)).out
    assert shown["name"] == "Ada"
    async with projecting(redis_url, workspace):
        later = (await append_aged(redis, workspace, (0, {**ADA, "id": "e-1"}), (0, {**ADA, "id": "e-2", "name": "Ada L."})))[
            -1
        ]
        await wait_until_folded(redis, workspace, later)
    (status,) = (await kinfold(redis_url, workspace, "status")).out
    assert (status["contacts"], status["duplicate"], status["folded"], status["entriesLost"]) == (1, 1, 2, 0)
    assert (await kinfold(redis_url, workspace, "verify")).status == 0


async def test_commands_say_where_the_log_begins(redis: Redis, redis_url: str, workspace: str):
    """`--at` before the cut is refused with a sentence; `explain` begins with the baseline."""
    entries = await append_aged(
        redis,
        workspace,
        (500, ADA),
        (450, {"type": "MetadataSet", "externalId": "u-1", "metadata": {"plan": "free"}}),
        (10, {"type": "MetadataSet", "externalId": "u-1", "metadata": {"plan": "pro"}}),
    )
    await fold_log(redis, redis_url, workspace)
    (whole,) = (await kinfold(redis_url, workspace, "show", "--external-id", "u-1", "--at", entries[2])).out
    await kinfold(redis_url, workspace, "retention", "set", "--events", "400d")
    assert (await kinfold(redis_url, workspace, "retention", "run")).status == 0
    assert await redis.keys(f"kinfold:{{{workspace}}}:snapshot*") == [], "a snapshot has what was cut"

    begins = f"the log begins after {entries[1]}"
    for command in ("show", "explain"):
        early = await kinfold(redis_url, workspace, command, "--external-id", "u-1", "--at", entries[0])
        assert (early.status, early.out) == (1, [])
        assert begins in early.said
        assert "stands for what came before (entries: 2)" in early.said
    (at_cut,) = (await kinfold(redis_url, workspace, "show", "--external-id", "u-1", "--at", entries[1])).out
    assert at_cut["metadata"] == {"plan": "free"}
    (later,) = (await kinfold(redis_url, workspace, "show", "--external-id", "u-1", "--at", entries[2])).out
    assert later == whole
    steps = (await kinfold(redis_url, workspace, "explain", "--external-id", "u-1", "--json")).out
    assert [(step["entry"], step["outcome"]) for step in steps] == [(entries[1], "baseline"), (entries[2], "folded")]
    assert steps[0]["did"][0]["rule"] == "11: Retention"
    fields = {effect["field"]: effect["after"] for step in steps for effect in step["effects"]}
    assert (fields["name"], fields["metadata.plan"], fields["version"]) == ("Ada", "pro", whole["version"])
    verified = await kinfold(redis_url, workspace, "verify")
    assert verified.status == 0
    assert begins in verified.said
    assert "lost" not in verified.said


async def test_entry_that_was_cut_cannot_be_excluded(redis: Redis, redis_url: str, workspace: str, tmp_path: Path):
    """Neither directly nor by ending an exclusion. An exclusion in the log is named by every replay, and changes nothing."""
    excluding = {"type": "EventsExcluded", "entries": ["1-0"]}
    entries = await append_aged(redis, workspace, (500, ADA), (10, {**excluding, "entries": [f"{ago(500) - 5}-0"]}))
    await fold_log(redis, redis_url, workspace)
    await kinfold(redis_url, workspace, "retention", "set", "--events", "400d")
    assert (await kinfold(redis_url, workspace, "retention", "run")).status == 0
    names = tmp_path / "excluded"
    for each, said in (
        (entries[0], f"{entries[0]} was cut, and the baseline contains it"),
        (entries[1], f"{entries[1]} excludes"),
    ):
        names.write_text(each)
        answer = await kinfold(redis_url, workspace, "replay", "--exclude-events", names)
        assert (answer.status, answer.out) == (1, [])
        assert said in answer.said
        assert "nothing was done" in answer.said

    await append_aged(redis, workspace, (0, {**excluding, "entries": [entries[0]]}))
    await fold_log(redis, redis_url, workspace)
    answer = await kinfold(redis_url, workspace, "replay")
    assert (answer.status, answer.out) == (0, [])
    assert f"the log excludes 1 entry that was cut before ({entries[0]})" in answer.said
    (shown,) = (await kinfold(redis_url, workspace, "show", "--external-id", "u-1")).out
    assert shown["name"] == "Ada"


async def test_exclusion_that_was_cut_still_counts(redis: Redis, redis_url: str, workspace: str):
    """For entries before the cut and for later ones."""
    # An import may bring an exclusion that is older than what it names.
    await append_aged(redis, workspace, (500, ADA))
    later = ago(10)
    await append_aged(redis, workspace, (450, {"type": "EventsExcluded", "entries": [f"{later}-7"]}))
    await redis.xadd(key(workspace, "events"), {"event": json.dumps({**ADA, "name": "Eve"})}, id=f"{later}-7")
    await fold_log(redis, redis_url, workspace)
    await kinfold(redis_url, workspace, "replay")
    await kinfold(redis_url, workspace, "retention", "set", "--events", "400d")
    assert (await kinfold(redis_url, workspace, "retention", "run")).status == 0

    assert (await kinfold(redis_url, workspace, "verify")).status == 0
    assert (await kinfold(redis_url, workspace, "replay")).out == []
    (shown,) = (await kinfold(redis_url, workspace, "show", "--external-id", "u-1", "--at", f"{later}-7")).out
    assert shown["name"] == "Ada"


async def test_nothing_is_cut_while_the_state_is_not_what_the_log_says(redis: Redis, redis_url: str, workspace: str):
    """Exit status 1, with the way to mend it. Nothing is removed."""
    await append_aged(redis, workspace, (500, ADA), (10, {"type": "VisitorSeen", "visitorId": "v-ada"}))
    await fold_log(redis, redis_url, workspace)
    await redis.hset(key(workspace, "emails"), "eve@example.org", "ct_eve")
    await kinfold(redis_url, workspace, "retention", "set", "--events", "400d", "--feed", "1s")
    before = {*await redis.keys("*"), key(workspace, "erasure-secret").encode()}
    changes = await redis.xlen(key(workspace, "changes"))

    answer = await kinfold(redis_url, workspace, "retention", "run")

    assert (answer.status, answer.out) == (1, [])
    assert "kinfold verify shows what differs" in answer.said
    assert (await redis.xlen(key(workspace, "events")), await redis.xlen(key(workspace, "changes"))) == (2, changes)
    assert before.issuperset(await redis.keys("*"))


@pytest.mark.parametrize("damage", ["shape", "about", "piece", "pieces"])
async def test_unknown_or_damaged_baseline_is_refused_with_a_sentence(
    redis: Redis, redis_url: str, workspace: str, damage: str
):
    """By every command that would fold on it. Nothing more is cut."""
    *_, last = await append_aged(
        redis, workspace, (500, ADA), (450, {**ADA, "name": "Ada L."}), (1, {**ADA, "name": "Lady Ada"})
    )
    await fold_log(redis, redis_url, workspace)
    await kinfold(redis_url, workspace, "retention", "set", "--events", "460d")
    assert (await kinfold(redis_url, workspace, "retention", "run")).status == 0
    baseline, pieces = key(workspace, "baseline"), key(workspace, "baseline-pieces")
    about = json.loads(await cast("Awaitable[bytes]", redis.hget(baseline, "about")))
    match damage:
        case "shape":
            await redis.hset(baseline, "about", json.dumps({**about, "shape": 7, "pieces": "?"}))
        case "about":
            await redis.hset(baseline, "about", "{")
        case "piece":
            await cast("Awaitable[str]", redis.lset(pieces, 0, "?"))
        case _:
            await redis.delete(pieces)
    await kinfold(redis_url, workspace, "retention", "set", "--events", "400d")

    for command, *options in (
        ["verify"],
        ["replay"],
        ["retention", "run"],
        ["show", "--email", "ada@example.org", "--at", last],
    ):
        answer = await kinfold(redis_url, workspace, command, *options)
        assert (answer.status, answer.out) == (1, []), command
        assert "baseline" in answer.said
        assert "shape 7; a newer kinfold" in answer.said or damage != "shape"
    assert await redis.xlen(key(workspace, "events")) == 2


async def test_projector_runs_retention_by_itself(redis: Redis, redis_url: str, workspace: str):
    """Once something is past its age. Its receipts say so, and folding goes on."""
    await append_history(redis, workspace, 500)
    async with projecting(redis_url, workspace, retention_check_s=0.2):
        last = (await append_aged(redis, workspace, (0, ADA)))[0]
        await wait_until_folded(redis, workspace, last)
        await kinfold(redis_url, workspace, "retention", "set", "--events", "400d", "--feed", "400d", "--rejects", "1d")

        async def was_cut() -> bool:
            return await redis.xlen(key(workspace, "events")) == 1

        await wait_until(was_cut)
        (receipt,) = (await kinfold(redis_url, workspace, "retention", "receipts")).out
        assert (receipt["by"], receipt["removed"]["logEntries"]) == ("projector", 2000)
        last = (await append_aged(redis, workspace, (0, {**ADA, "name": "Ada L."})))[0]
        await wait_until_folded(redis, workspace, last)
    assert (await kinfold(redis_url, workspace, "verify")).status == 0


async def test_reader_of_a_trimmed_feed_is_told(redis: Redis, redis_url: str, workspace: str):
    """As for any part of the feed that was dropped (contract section 6)."""
    await append_aged(redis, workspace, (2, ADA), (1, {**ADA, "name": "Ada L."}))
    await fold_log(redis, redis_url, workspace)
    (first, _), *_ = await read_stream(redis, workspace, "changes")
    await kinfold(redis_url, workspace, "retention", "set", "--feed", "1s")

    async def is_old() -> bool:
        return (await kinfold(redis_url, workspace, "retention", "run")).out != []

    await wait_until(is_old)
    assert await redis.xlen(key(workspace, "changes")) == 0
    answer = await kinfold(redis_url, workspace, "tail", "--since", first.decode())
    assert answer.status == 1
    assert "the feed keeps only newer entries" in answer.said
