"""Run replays through `kinfold` or in this process, and inspect the workspace during and after them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from redis.asyncio import Redis

from kinfold_projections.records import NO_STAMPS, encode_stamps
from kinfold_schemas.changes import Change, decode_change
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import PublicName, key
from kinfold_services.replay.differences import Difference
from kinfold_services.replay.rebuild import Progress
from kinfold_services.replay.replay import Replay
from kinfold_services.replay.verify import Verification
from kinfold_services.settings import Settings
from tests.support.prefork import run_kinfold
from tests.support.projecting import KINFOLD, variables
from tests.support.snapshots import RawEntry, Snapshot, keys_like, take_snapshot
from tests.support.strategies import Log

COMMAND_S: Final = 120.0
_POLL_EVERY_S: Final = 0.01
NO_RULES: Final = IdentifierRules()


class Answer(NamedTuple):
    """The result of a command."""

    status: int
    out: list[Any]
    """Standard output: one JSON value per line."""
    said: str
    """Standard error."""


async def kinfold(url: str, workspace: str, command: str, *arguments: str | Path, **settings: object) -> Answer:
    """Run `kinfold COMMAND …` to its end in a process of its own."""
    ended = await run_kinfold(_options(url, workspace, command, *arguments), variables(settings), COMMAND_S)
    said = ended.err.decode()
    assert "Traceback" not in said, said
    return Answer(ended.status, [json.loads(line) for line in ended.out.splitlines()], said)


def command_line(url: str, workspace: str, command: str, *arguments: str | Path) -> list[str]:
    """The command line, for tests that start the process themselves."""
    return [*KINFOLD, *_options(url, workspace, command, *arguments)]


def _options(url: str, workspace: str, command: str, *arguments: str | Path) -> list[str]:
    return [command, *map(str, arguments), "--redis-url", url, "--workspace", workspace]


def quietly(_: int) -> None:
    """Ignore progress."""


async def replay(
    client: Redis,
    workspace: str,
    *,
    rules: IdentifierRules = NO_RULES,
    progress: Progress = quietly,
    **settings: Any,
) -> list[Change]:
    """Replay in this process; returns the changes that went to the feed."""
    job = Replay(client, Settings(workspace=workspace, **settings), rules)
    try:
        await job.build(progress)
        await job.compare()
        return await job.replace(allow_lost=False)
    finally:
        await job.close()


async def verify(client: Redis, workspace: str, *, rules: IdentifierRules = NO_RULES, **settings: Any) -> list[Difference]:
    """Verify in this process; returns the differences."""
    return await Verification(client, Settings(workspace=workspace, **settings), rules).differences(quietly)


async def differ_unseen(client: Redis, workspace: str) -> None:
    """Put something into the stored state that no reader sees and no fold made, so that a replay must replace the state."""
    await cast("Any", client).execute_command("HSET", key(workspace, "visitor-stamps"), "nobody", encode_stamps(NO_STAMPS))


async def changes_since(client: Redis, workspace: str, length: int) -> list[Change]:
    """The changes on the feed after its first `length` entries."""
    feed = key(workspace, "changes")
    count = await client.xlen(feed) - length
    newest = await client.xrevrange(feed, count=count) if count > 0 else []
    return [decode_change(fields[b"change"]) for _, fields in reversed(cast("list[RawEntry]", newest))]


async def append_log(client: Redis, workspace: str, log: Log) -> None:
    """Append entries with their ids."""
    for at, fields in log:
        await client.xadd(key(workspace, "events"), cast("Any", fields), id=at)


async def leftovers(client: Redis, workspace: str) -> list[bytes]:
    """The keys that a replay must not leave behind: staging areas and the hold."""
    names = await keys_like(client, key(workspace, "events").replace("events", "*"))
    return sorted(name for name in names if b":replay:" in name or b":verify:" in name or name.endswith(b":hold"))


async def living_snapshot(client: Redis, workspace: str) -> Snapshot:
    """A snapshot of a workspace without the keys of a running replay."""
    found = await take_snapshot(client, workspace)
    staged = {name.decode() for name in await leftovers(client, workspace)}
    return found._replace(others={name: value for name, value in found.others.items() if name not in staged})


class Seen(NamedTuple):
    """What a continuously polling reader saw."""

    polls: int
    missed: list[str]
    slowest_s: float


@asynccontextmanager
async def polling(client: Redis, workspace: str, ids: Mapping[PublicName, Sequence[bytes]]) -> AsyncGenerator[list[Seen]]:
    """Poll these contacts, visitors and identifiers during the block; appends the result to the yielded list at the end."""
    seen: list[Seen] = []
    stop = asyncio.Event()
    reading = asyncio.create_task(_poll(client, workspace, ids, stop))
    try:
        yield seen
    finally:
        stop.set()
        seen.append(await reading)


async def _poll(client: Redis, workspace: str, ids: Mapping[PublicName, Sequence[bytes]], stop: asyncio.Event) -> Seen:
    count, missed, slowest_s = 0, list[str](), 0.0
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        started = loop.time()
        pipeline = client.pipeline(transaction=False)
        for name, fields in ids.items():
            pipeline.hmget(key(workspace, name), cast("Any", list(fields)))
        answers = cast("list[list[bytes | None]]", await pipeline.execute())
        slowest_s = max(slowest_s, loop.time() - started)
        for (name, fields), values in zip(ids.items(), answers, strict=True):
            missed += [f"{name} {each!r}" for each, value in zip(fields, values, strict=True) if value is None]
        count += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _POLL_EVERY_S)
    return Seen(count, missed, slowest_s)
