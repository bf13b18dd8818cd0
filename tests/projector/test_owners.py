"""Several projectors for the same workspaces: each workspace has one owner, and the others stand by (contract section 8)."""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_schemas.keys import key
from kinfold_services.state.position import LostPlace
from kinfold_services.state.queries import StateQueries
from tests.support.event_log import append, entry_id, history
from tests.support.lengths import short_or_long
from tests.support.projecting import ProjectorProcess, fold_log, projecting, stored_position, wait_until_folded
from tests.support.replaying import verify
from tests.support.snapshots import Snapshot, take_snapshot
from tests.support.waiting import wait_until

TAKE_OVER_S: Final = 60.0
"""The contract says 5; the machine may be busy."""
THREE: Final = ("acme", "beta", "zeta")
TURMOIL_S: Final = float(os.environ.get("KINFOLD_TEST_TURMOIL_S", short_or_long("10", "20")))
CHUNK: Final = 20
STALL_S: Final = 60.0
"""The contract says 5 for each takeover; two may follow each other here, and the machine may be busy."""
HANG_S: Final = short_or_long(4.0, 6.0)
TROUBLE_SHARE: Final = 0.05


async def undisturbed(client: Redis, url: str, workspace: str, events: Sequence[bytes]) -> Snapshot:
    """What a single projector stores for these events."""
    await append(client, workspace, events)
    await fold_log(client, url, workspace)
    snapshot = await take_snapshot(client, workspace)
    await client.flushdb()
    return snapshot


async def owner_of(client: Redis, workspace: str) -> bytes | None:
    """The token of the projector that owns a workspace."""
    return cast("bytes | None", await client.get(key(workspace, "owner")))


def no_change_twice(feed: Sequence[bytes]) -> None:
    """Assert that every version of every contact is on the feed once."""
    told = Counter[tuple[str, int, str]]()
    for each in feed:
        change = json.loads(each)
        if change["type"] not in {"ContactSeen", "IdentityConflict"}:
            told[change["contactId"], change["version"], change["type"]] += 1
    assert [each for each, count in told.items() if count > 1] == []


def kill(projector: ProjectorProcess) -> None:
    """Kill the process as the kernel does when memory is short."""
    projector.kill()


def hang(projector: ProjectorProcess) -> None:
    """Suspend the process as a hypervisor or the lid of a laptop does."""
    projector.process.send_signal(signal.SIGSTOP)


def stop(projector: ProjectorProcess) -> None:
    """Stop the process as an operator does."""
    assert projector.terminate() == 0


@pytest.mark.parametrize("end", [kill, hang, stop])
async def test_standby_takes_over_when_the_owner_ends(
    redis: Redis, redis_url: str, tmp_path: Path, end: Callable[[ProjectorProcess], None]
) -> None:
    """Three workspaces, one owner, one standby: however the owner ends, the standby folds all three."""
    serve = ",".join(THREE)
    with ProjectorProcess(redis_url, None, tmp_path / "owner.log", serve=serve) as owner:
        for workspace in THREE:
            await append(redis, workspace, history()[:500])
        for workspace in THREE:
            await wait_until_folded(redis, workspace, entry_id(499))
        async with projecting(redis_url, *THREE) as standby:
            before = [await owner_of(redis, workspace) for workspace in THREE]
            assert None not in before
            end(owner)
            for workspace in THREE:
                await append(redis, workspace, history()[500:1000], start=500)
            for workspace in THREE:
                await wait_until_folded(redis, workspace, entry_id(999), TAKE_OVER_S)
            assert standby.workspaces.keys() == set(THREE)
            assert set(before).isdisjoint([await owner_of(redis, workspace) for workspace in THREE])

    for workspace in THREE:
        assert await owner_of(redis, workspace) is None, "it was released"
        no_change_twice((await take_snapshot(redis, workspace)).feed)
        assert await verify(redis, workspace) == []


async def test_owner_that_wakes_up_commits_nothing_and_stands_by(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
) -> None:
    """It was suspended while it worked, and another projector took over. Afterwards it is the next standby."""
    events = history()[:3000]
    expected = await undisturbed(redis, redis_url, workspace, events)

    with ProjectorProcess(redis_url, workspace, tmp_path / "paused.log", batch_entries=50) as paused:
        await append(redis, workspace, events[:1000])
        await wait_until(lambda: stored_position(redis, workspace))
        paused.process.send_signal(signal.SIGSTOP)
        await append(redis, workspace, events[1000:2000], start=1000)
        async with projecting(redis_url, workspace):
            await wait_until_folded(redis, workspace, entry_id(1999))
            paused.process.send_signal(signal.SIGCONT)
            await wait_until(lambda: "workspace lost" in paused.log.read_text())
            last = await append(redis, workspace, events[2000:], start=2000)
            await wait_until_folded(redis, workspace, last)
        (await take_snapshot(redis, workspace)).must_equal(expected)

        last = await append(redis, workspace, events[:1], start=3000)
        await wait_until_folded(redis, workspace, last)
        assert paused.process.poll() is None
        assert paused.terminate() == 0


async def test_projector_that_loses_one_workspace_continues_with_the_others(redis: Redis, redis_url: str) -> None:
    """Another projector has taken one of three. The lease shows it, and nothing is committed there."""
    with capture_logs() as logs:
        async with projecting(redis_url, *THREE) as service:
            await wait_until(lambda: service.workspaces.keys() == set(THREE))
            async with redis.pipeline(transaction=True) as takes_over:  # both at once, as `lease.lua` does
                takes_over.set(key("acme", "owner"), "another", px=60_000)
                takes_over.hset(key("acme", "position"), "owner", "another")
                await takes_over.execute()
            for workspace in THREE:
                await append(redis, workspace, history()[:10])
            for workspace in ("beta", "zeta"):
                await wait_until_folded(redis, workspace, entry_id(9))
            await wait_until(lambda: service.workspaces.keys() == {"beta", "zeta"})
            assert await stored_position(redis, "acme") is None

            await redis.delete(key("acme", "owner"))
            await wait_until_folded(redis, "acme", entry_id(9))

    assert [each["workspace"] for each in logs if each["event"] == "workspace lost"] == ["acme"]
    assert str(LostPlace.__name__) not in [each["event"] for each in logs]


async def test_owner_whose_lease_expired_unnoticed_continues(redis: Redis, redis_url: str, workspace: str) -> None:
    """As after a server that hung for a while. No other projector was there, so its next commit takes the workspace again."""
    await append(redis, workspace, history()[:10])
    with capture_logs() as logs:
        async with projecting(redis_url, workspace):
            await wait_until_folded(redis, workspace, entry_id(9))
            await redis.delete(key(workspace, "owner"))
            last = await append(redis, workspace, history()[10:20], start=10)
            await wait_until_folded(redis, workspace, last)
            await wait_until(lambda: owner_of(redis, workspace))

    assert [each["event"] for each in logs if each["event"] in {"workspace opened", "workspace lost"}] == ["workspace opened"]


async def test_position_that_was_changed_by_hand_does_not_stop_the_projector(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """The state does not belong to that position, so it is rebuilt. The next event is folded."""
    await append(redis, workspace, history()[:10])
    await fold_log(redis, redis_url, workspace)
    async with projecting(redis_url, workspace) as service:
        await wait_until(lambda: workspace in service.workspaces)
        await redis.hset(key(workspace, "position"), "stream_id", entry_id(3))
        last = await append(redis, workspace, history()[10:11], start=10)
        await wait_until_folded(redis, workspace, last)

    assert await verify(redis, workspace) == []


async def test_only_the_workspace_with_keys_of_a_wrong_type_is_not_served(redis: Redis, redis_url: str) -> None:
    """Its rules cannot be read when the first page arrives. The page is not lost, and later ones are folded after it."""
    blocked = key("acme", "blocked-identifiers")
    async with projecting(redis_url, "acme", "beta") as service:
        await wait_until(lambda: service.workspaces.keys() == {"acme", "beta"})
        await redis.set(blocked, "a string")
        await append(redis, "acme", history()[:5])

        async def damage() -> str | None:
            return (await StateQueries(redis, "acme").status()).damage

        assert "WRONGTYPE" in str(await wait_until(damage))
        await append(redis, "beta", history()[:5])
        await wait_until_folded(redis, "beta", entry_id(4))
        await redis.delete(blocked)
        await append(redis, "acme", history()[5:10], start=5)
        await wait_until_folded(redis, "acme", entry_id(9))
        assert await damage() is None
    assert await verify(redis, "acme") == []


async def test_projector_that_is_stopped_under_load_stops_at_once(redis: Redis, redis_url: str, workspace: str) -> None:
    """The next projector reads again what was read and not folded, so nothing has to wait for it."""
    await append(redis, workspace, history())
    async with projecting(redis_url, workspace, batch_entries=10):
        await wait_until(lambda: stored_position(redis, workspace))
        started = time.monotonic()

    assert time.monotonic() - started < 12.0  # FastStream itself would wait 15 s for a handler that waits
    assert await stored_position(redis, workspace) != entry_id(len(history()) - 1).encode()
    assert await owner_of(redis, workspace) is None


class Turmoil:
    """Three projectors. One at a time is killed and restarted, or hangs for a while."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url: Final = url
        self._directory: Final = directory
        self._started = 0
        self._dice: Final = random.Random(11)  # noqa: S311  the same run again
        self._hung: tuple[ProjectorProcess, float] | None = None
        self.projectors: Final = [self._start() for _ in THREE]

    def step(self) -> None:
        """Disturb one of them, or usually do nothing."""
        if self._hung is not None:
            if time.monotonic() - self._hung[1] > HANG_S:
                self.calm()
            return
        if self._dice.random() > TROUBLE_SHARE:
            return
        place = self._dice.randrange(len(self.projectors))
        projector = self.projectors[place]
        assert projector.process.poll() is None, projector.log.read_text()
        if self._dice.random() < 0.5:
            kill(projector)
            self.projectors[place] = self._start()
        else:
            hang(projector)
            self._hung = (projector, time.monotonic())

    def calm(self) -> None:
        """Wake the one that hangs."""
        if self._hung is not None:
            self._hung[0].process.send_signal(signal.SIGCONT)
            self._hung = None

    def _start(self) -> ProjectorProcess:
        self._started += 1
        return ProjectorProcess(self._url, None, self._directory / f"{self._started}.log", serve=",".join(THREE))


class Stalls:
    """The longest time for which a workspace stood still while it had something to fold."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._moved_at: Final = dict.fromkeys(THREE, time.monotonic())
        self._seen: Final[dict[str, bytes | None]] = dict.fromkeys(THREE)

    async def look(self, client: Redis, newest: str) -> None:
        """Check the three positions."""
        for workspace in THREE:
            position = await stored_position(client, workspace)
            now = time.monotonic()
            if position != self._seen[workspace] or position == newest.encode():
                self._moved_at[workspace], self._seen[workspace] = now, position
            self.longest_s = max(self.longest_s, now - self._moved_at[workspace])


@pytest.mark.slow
async def test_three_disturbed_projectors_lose_nothing_and_emit_nothing_twice(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    """Killed, suspended and started at random under load: none ends by itself, and everything is folded once."""
    turmoil, stalls = Turmoil(redis_url, tmp_path), Stalls()
    deadline, appended = time.monotonic() + TURMOIL_S, 0
    try:
        while time.monotonic() < deadline:
            for workspace in THREE:
                await append(redis, workspace, history()[appended : appended + CHUNK], start=appended)
            appended += CHUNK
            await stalls.look(redis, entry_id(appended - 1))
            turmoil.step()
            await asyncio.sleep(0.05)
        turmoil.calm()
        for workspace in THREE:
            await wait_until_folded(redis, workspace, entry_id(appended - 1))
        assert [each.process.poll() for each in turmoil.projectors] == [None] * 3
        # otherwise a signal may end a projector before it handles signals
        await wait_until(lambda: all("projector starts" in each.log.read_text() for each in turmoil.projectors))
        assert [each.terminate() for each in turmoil.projectors] == [0] * 3
    finally:
        turmoil.calm()
        for each in turmoil.projectors:
            each.kill()

    assert stalls.longest_s < STALL_S
    for workspace in THREE:
        found = await take_snapshot(redis, workspace)
        no_change_twice(found.feed)
        assert await verify(redis, workspace) == []
        assert b"generation" not in found.position, "no state was rebuilt"
