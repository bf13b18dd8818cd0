"""After a replay, `rejects` holds what the replay rejected: nothing is lost, and nothing is there twice."""

from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, cast

import pytest
from redis.asyncio import Redis

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_services.rejects.retry import Rejects
from tests.support.event_log import append, entry_id
from tests.support.projecting import fold_log, projecting, wait_until_folded
from tests.support.replaying import kinfold, leftovers, replay
from tests.support.snapshots import read_stream

KIOSK: Final = {"type": "VisitorIdentified", "externalId": "kiosk", "name": "Kim"}
ADA: Final = {"type": "VisitorIdentified", "externalId": "u-ada", "name": "Ada"}


async def listed(url: str, workspace: str, *options: str) -> list[tuple[str, str]]:
    """The output of `kinfold rejects`: entry and reason."""
    answer = await kinfold(url, workspace, "rejects", *options)
    assert answer.status == 0, answer.said
    return [(each["entry"], each["reason"]) for each in answer.out]


async def test_rejects_of_a_replay_are_listed_and_can_be_retried(redis: Redis, redis_url: str, workspace: str, tmp_path: Path):
    """Given an identifier that a replay blocks, its events are rejects; when it is no longer blocked, a retry appends them."""
    await append(redis, workspace, [b"{", KIOSK, ADA])
    await fold_log(redis, redis_url, workspace)
    blocked = tmp_path / "blocked"
    blocked.write_text("kiosk\n")

    assert (await kinfold(redis_url, workspace, "replay", "--blocked-identifiers", blocked)).status == 0

    assert await listed(redis_url, workspace) == [(entry_id(0), "not-json"), (entry_id(1), "blocked-identifier")]
    assert await leftovers(redis, workspace) == []
    await redis.delete(key(workspace, "blocked-identifiers"))
    again = await kinfold(redis_url, workspace, "rejects", "--retry")
    assert [each["entry"] for each in again.out] == [entry_id(1)]
    await fold_log(redis, redis_url, workspace)
    names = [each["name"] for each in (await kinfold(redis_url, workspace, "contacts")).out]
    assert sorted(names) == ["Ada", "Kim"]


async def test_entry_that_a_replay_folds_is_no_longer_a_reject(redis: Redis, redis_url: str, workspace: str):
    """Given an identifier that is no longer blocked and an entry that is excluded, neither is listed or counted."""
    await redis.sadd(key(workspace, "blocked-identifiers"), "kiosk")
    await append(redis, workspace, [KIOSK, b"{", b"[", {"type": "EventsExcluded", "entries": [entry_id(1)]}])
    await fold_log(redis, redis_url, workspace)
    assert len(await listed(redis_url, workspace)) == 3
    await redis.delete(key(workspace, "blocked-identifiers"))

    await replay(redis, workspace)

    assert await listed(redis_url, workspace, "--all") == [(entry_id(2), "not-json")]
    assert (await kinfold(redis_url, workspace, "status")).out[0]["rejected"] == 1


async def test_entry_that_loses_its_contact_by_an_exclusion_is_listed(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
):
    """Given metadata for a contact whose first event is excluded, its contact is unknown, and it becomes a reject."""
    await append(redis, workspace, [ADA])
    await fold_log(redis, redis_url, workspace)
    (ada,) = (await kinfold(redis_url, workspace, "contacts")).out
    await append(redis, workspace, [{"type": "MetadataSet", "contactId": ada["id"], "metadata": {"plan": "pro"}}], start=1)
    await fold_log(redis, redis_url, workspace)
    excluded = tmp_path / "excluded"
    excluded.write_text(entry_id(0))

    async with projecting(redis_url, workspace):
        assert (await kinfold(redis_url, workspace, "replay", "--exclude-events", excluded)).status == 0
        last = await append(redis, workspace, [b"{"], start=3_000_000_000)
        await wait_until_folded(redis, workspace, last)

    assert await listed(redis_url, workspace) == [(entry_id(1), "unknown-contact"), (last, "not-json")]


async def test_reject_is_copied_unchanged(redis: Redis, redis_url: str, workspace: str):
    """Given entries that no dictionary can hold, a replay's copies have the same bytes as the projector's."""
    many: list[Any] = [item for number in range(4500) for item in (f"f{number}", b"\xff")]
    for number, fields in enumerate((["event", "{", "event", "[", "n", "1"], ["n", "1", "n", "2"], ["event", "{", *many])):
        send = cast("Any", redis).execute_command  # xadd takes a dictionary, but a name may occur twice
        await send("XADD", key(workspace, "events"), entry_id(number), *fields)
    await fold_log(redis, redis_url, workspace)
    expected = (await kinfold(redis_url, workspace, "rejects")).out

    await replay(redis, workspace)

    found = (await kinfold(redis_url, workspace, "rejects")).out
    assert found == expected
    assert [len(each["fields"]) for each in found] == [3, 2, 4501]


@pytest.mark.parametrize("command", ["XTRIM", "XDEL"])
async def test_reject_of_an_entry_that_the_log_lost_stays(redis: Redis, redis_url: str, workspace: str, command: str):
    """Given a log with trimmed or deleted entries, their rejects are still listed, once."""
    await append(redis, workspace, [*[b"{"] * 1200, ADA, b"["])
    await fold_log(redis, redis_url, workspace)
    if command == "XTRIM":
        await redis.xtrim(key(workspace, "events"), minid=entry_id(1100), approximate=False)
    else:
        await redis.xdel(key(workspace, "events"), *map(entry_id, range(1100)))
    expected = await listed(redis_url, workspace)
    assert len(expected) == 1201

    for _ in range(2):
        await replay(redis, workspace)

        assert await listed(redis_url, workspace) == expected


async def test_rejects_that_are_replaced_while_they_are_read_are_read_once(redis: Redis, redis_url: str, workspace: str):
    """Given replays between any two pages, listing or retrying rejects meets each one once, in log order."""
    many = {f"f{number}".encode(): b"\xff" for number in range(4100)}
    await append(redis, workspace, [*[b"{"] * 999, {b"event": b"{", **many}, *[b"["] * 1500])
    await fold_log(redis, redis_url, workspace)
    found: list[str] = []

    async with aclosing(Redis.from_url(redis_url)) as client:
        async for reject in Rejects(client, workspace).each():
            found.append(reject.entry)
            if len(found) in {1, 999, 1800}:
                await append(redis, workspace, [b"{"], start=2500 + len(found))
                await fold_log(redis, redis_url, workspace)
                await replay(redis, workspace)

    assert found == [entry_id(number) for number in range(2500)]


async def test_dry_run_leaves_the_rejects_alone(redis: Redis, redis_url: str, workspace: str, tmp_path: Path):
    """Given a replay that replaces nothing, or a verification, the rejects are the same entries with the same ids."""
    await append(redis, workspace, [b"{", KIOSK])
    await fold_log(redis, redis_url, workspace)
    before = await read_stream(redis, workspace, "rejects")
    blocked = tmp_path / "blocked"
    blocked.write_text("kiosk\n")

    await kinfold(redis_url, workspace, "replay", "--dry-run", "--blocked-identifiers", blocked)
    await kinfold(redis_url, workspace, "verify")

    assert await read_stream(redis, workspace, "rejects") == before
    assert await leftovers(redis, workspace) == []


async def test_log_with_nothing_but_rejects_is_replayed(redis: Redis, redis_url: str, workspace: str):
    """All rejects are listed after a replay, and later ones after them."""
    await append(redis, workspace, [KIOSK] * 1000)
    await fold_log(redis, redis_url, workspace)
    rules = IdentifierRules({"kiosk"})
    await redis.sadd(key(workspace, "blocked-identifiers"), "kiosk")

    await replay(redis, workspace, rules=rules, batch_entries=7)
    await append(redis, workspace, [KIOSK], start=1000)
    await fold_log(redis, redis_url, workspace)

    assert await listed(redis_url, workspace) == [(entry_id(number), "blocked-identifier") for number in range(1001)]


async def test_reject_of_an_entry_that_the_log_loses_during_the_replay_stays(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    """Given a log that is trimmed repeatedly while a replay reads it, all its rejects are listed, in log order."""
    log, read = key(workspace, "events"), redis.xrange
    await append(redis, workspace, [*[b"{"] * 7000, ADA, b"["])
    await fold_log(redis, redis_url, workspace)
    expected = await listed(redis_url, workspace)
    lost = iter(map(entry_id, (100, 500, 2700, 6000)))

    async def read_and_lose(name: str, *args: Any, **options: Any) -> Any:
        page = await read(name, *args, **options)
        if name == log and (first := next(lost, None)) is not None:
            await redis.xtrim(log, minid=first, approximate=False)
        return page

    monkeypatch.setattr(redis, "xrange", read_and_lose)
    assert await replay(redis, workspace) == []
    assert next(lost, None) is None
    monkeypatch.undo()

    assert await listed(redis_url, workspace) == expected
    await append(redis, workspace, [b"{"], start=7002)
    await fold_log(redis, redis_url, workspace)
    assert (await kinfold(redis_url, workspace, "status")).out[0]["lag"] == 0


async def test_log_that_lost_its_end_keeps_its_rejects(redis: Redis, redis_url: str, workspace: str):
    """Given deleted entries at the end, the position of the state stays after them, and their rejects stay in log order."""
    last = await append(redis, workspace, [b"{", ADA, *[b"{"] * 3])
    await fold_log(redis, redis_url, workspace)
    expected = await listed(redis_url, workspace)
    await redis.xdel(key(workspace, "events"), entry_id(0), entry_id(3), last)

    await replay(redis, workspace)

    assert await listed(redis_url, workspace) == expected
    await redis.xtrim(key(workspace, "events"), maxlen=0, approximate=False)
    assert (await kinfold(redis_url, workspace, "replay", "--allow-truncated")).status == 0
    assert await listed(redis_url, workspace) == expected
    (status,) = (await kinfold(redis_url, workspace, "status")).out
    assert (status["position"], status["lag"]) == (last, 0)
    await append(redis, workspace, [b"{"], start=5)
    await fold_log(redis, redis_url, workspace)
    (status,) = (await kinfold(redis_url, workspace, "status")).out
    assert (status["rejected"], status["lag"]) == (1, 0)
