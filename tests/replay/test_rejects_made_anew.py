"""What a replay rejects is what `rejects` holds afterwards: nothing that the fold left out is lost, nothing stands twice."""

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
    """What `kinfold rejects` lists: entry and reason."""
    answer = await kinfold(url, workspace, "rejects", *options)
    assert answer.status == 0, answer.said
    return [(each["entry"], each["reason"]) for each in answer.out]


async def test_what_a_replay_rejects_is_listed_and_can_be_sent_again(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
):
    """Given an identifier that a replay blocks, its events stand among the rejects; unblocked, they are appended again."""
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


async def test_what_a_replay_folds_is_no_reject_any_more(redis: Redis, redis_url: str, workspace: str):
    """Given an identifier that is blocked no more, and an entry that is excluded, neither is listed or counted."""
    await redis.sadd(key(workspace, "blocked-identifiers"), "kiosk")
    await append(redis, workspace, [KIOSK, b"{", b"[", {"type": "EventsExcluded", "entries": [entry_id(1)]}])
    await fold_log(redis, redis_url, workspace)
    assert len(await listed(redis_url, workspace)) == 3
    await redis.delete(key(workspace, "blocked-identifiers"))

    await replay(redis, workspace)

    assert await listed(redis_url, workspace, "--all") == [(entry_id(2), "not-json")]
    assert (await kinfold(redis_url, workspace, "status")).out[0]["rejected"] == 1


async def test_what_an_exclusion_leaves_without_its_contact_is_listed(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
):
    """Given metadata for a contact whose first event is excluded, it names somebody unknown, and is kept."""
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


async def test_a_reject_is_copied_as_it_was(redis: Redis, redis_url: str, workspace: str):
    """Given entries that no dictionary can hold, a replay's copies have the same bytes as the projector's."""
    many: list[Any] = [item for number in range(4500) for item in (f"f{number}", b"\xff")]
    for number, fields in enumerate((["event", "{", "event", "[", "n", "1"], ["n", "1", "n", "2"], ["event", "{", *many])):
        send = cast("Any", redis).execute_command  # xadd takes a dictionary, and a name may come twice
        await send("XADD", key(workspace, "events"), entry_id(number), *fields)
    await fold_log(redis, redis_url, workspace)
    expected = (await kinfold(redis_url, workspace, "rejects")).out

    await replay(redis, workspace)

    found = (await kinfold(redis_url, workspace, "rejects")).out
    assert found == expected
    assert [len(each["fields"]) for each in found] == [3, 2, 4501]


@pytest.mark.parametrize("command", ["XTRIM", "XDEL"])
async def test_the_copy_of_what_the_log_has_lost_stays(redis: Redis, redis_url: str, workspace: str, command: str):
    """Given a log that was trimmed or that an entry was deleted from, what no fold can find again is still listed, once."""
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


async def test_a_list_that_is_replaced_while_it_is_read(redis: Redis, redis_url: str, workspace: str):
    """Given replays between any pages, whoever lists rejects or sends them again meets each once, in the log's order."""
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


async def test_a_dry_run_leaves_the_rejects_alone(redis: Redis, redis_url: str, workspace: str, tmp_path: Path):
    """Given a replay that replaces nothing, or a verification, the rejects are the same entries under the same ids."""
    await append(redis, workspace, [b"{", KIOSK])
    await fold_log(redis, redis_url, workspace)
    before = await read_stream(redis, workspace, "rejects")
    blocked = tmp_path / "blocked"
    blocked.write_text("kiosk\n")

    await kinfold(redis_url, workspace, "replay", "--dry-run", "--blocked-identifiers", blocked)
    await kinfold(redis_url, workspace, "verify")

    assert await read_stream(redis, workspace, "rejects") == before
    assert await leftovers(redis, workspace) == []


async def test_a_log_of_nothing_but_rejects(redis: Redis, redis_url: str, workspace: str):
    """Given a log of nothing but rejects, all of them are listed after a replay, and what comes later behind them."""
    await append(redis, workspace, [KIOSK] * 1000)
    await fold_log(redis, redis_url, workspace)
    rules = IdentifierRules({"kiosk"})
    await redis.sadd(key(workspace, "blocked-identifiers"), "kiosk")

    await replay(redis, workspace, rules=rules, batch_entries=7)
    await append(redis, workspace, [KIOSK], start=1000)
    await fold_log(redis, redis_url, workspace)

    assert await listed(redis_url, workspace) == [(entry_id(number), "blocked-identifier") for number in range(1001)]


async def test_the_copy_of_what_the_log_loses_meanwhile_stays(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    """Given a log that is trimmed again and again while a replay reads it, all its rejects are listed, in the log's order."""
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


async def test_a_log_that_has_lost_its_end(redis: Redis, redis_url: str, workspace: str):
    """Given that the last entries were deleted, the state stays behind them, and their rejects in the log's order."""
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
