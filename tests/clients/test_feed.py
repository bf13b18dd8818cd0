"""The feed as an application reads it: in order and without a gap, over disconnects and restarts; live contacts."""

import asyncio
import inspect
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

import kinfold
from kinfold.feed import Follow
from kinfold.feed.reader import Idle, Item, Reader
from kinfold_schemas.changes import ContactCreated, ContactsMerged, ContactUpdated, VisitorLinked
from kinfold_schemas.keys import key
from tests.support.logs import Log
from tests.support.proxy import Proxy
from tests.support.replaying import kinfold as run_kinfold
from tests.support.waiting import wait_until_sync


@pytest.fixture
def feed(folding_url: str, workspace: str) -> kinfold.Feed:
    """Give the feed of the same workspace."""
    return kinfold.Feed(folding_url, workspace=workspace)


def folded(client: Redis, workspace: str, position: str | None) -> None:
    """Wait until an event is folded."""
    wait_until_sync(
        lambda: cast("bytes | None", client.hget(key(workspace, "position"), "stream_id")) == (position or "").encode()
    )


def test_changes_are_typed_and_in_order(visitors: kinfold.Producer, feed: kinfold.Feed):
    visitors.identify("v-1", external_id="u-1", name="Ada")
    visitors.set_metadata("v-1", {"plan": "pro"})
    with feed.follow(since="0") as changes:
        created, linked, updated = next(changes), next(changes), next(changes)
    assert isinstance(created, ContactCreated)
    assert isinstance(linked, VisitorLinked)
    assert isinstance(updated, ContactUpdated)
    assert updated.changed == ["metadata.plan"]
    assert updated.contact.metadata == {"plan": "pro"}
    assert [change.version for change in (created, linked, updated)] == [1, 2, 3]


def test_invalid_entry_is_skipped(
    visitors: kinfold.Producer, feed: kinfold.Feed, client: Redis, workspace: str, caplog: pytest.LogCaptureFixture
):
    """A foreign program wrote it: it is logged, and does not block the feed."""
    foreign: list[dict[str, Any]] = [
        {"foo": "bar"},
        {"change": "{"},
        {"change": '{"type":"ContactUpdated"}'},
        {"change": b'{"type":"\xff"}'},
    ]
    visitors.identify(external_id="u-1")
    folded(client, workspace, visitors.flush())
    with feed.follow(since="0") as changes:
        told = [next(changes)]
        entries = [cast("bytes", client.xadd(key(workspace, "changes"), cast("Any", each))).decode() for each in foreign]
        visitors.identify(external_id="u-2")
        told.append(next(changes))
    assert [change.contact.external_id for change in told] == ["u-1", "u-2"]  # type: ignore[union-attr]
    assert [entry for entry in entries if f"skipped entry {entry} of the feed" in caplog.text] == entries


def test_feed_without_since_starts_now(visitors: kinfold.Producer, feed: kinfold.Feed, client: Redis, workspace: str):
    visitors.identify(external_id="u-1")
    folded(client, workspace, visitors.flush())
    with feed.follow() as changes:
        thread = threading.Timer(0.0, lambda: visitors.identify(external_id="u-2"))
        items = changes._reader.items()
        next(items)  # the start position
        thread.start()
        changes._items = items
        assert next(changes).contact.external_id == "u-2"  # type: ignore[union-attr]
        thread.join()


def test_every_change_comes_once_over_breaking_connections(
    visitors: kinfold.Producer, folding_url: str, workspace: str, client: Redis
):
    """500 changes through a proxy that breaks answers: each comes once, in order."""
    for number in range(500):
        visitors.set_metadata(external_id="u-1", metadata={"n": number})
    folded(client, workspace, visitors.flush())
    with Proxy(folding_url) as proxy:
        proxy.cut_share = 0.06
        with kinfold.Feed(proxy.url, workspace=workspace).follow(since="0") as changes:
            versions = [next(changes).version for _ in range(250)]
            proxy.cut()
            versions += [next(changes).version for _ in range(250)]
    assert versions == list(range(1, 501))


async def test_async_for_has_every_change(visitors: kinfold.Producer, feed: kinfold.Feed):
    """Other tasks run while it waits, and leaving the loop ends the reading."""
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    heart = asyncio.create_task(beat())
    versions: list[int] = []
    async with feed.follow(since="0") as changes:
        for number in range(300):
            visitors.set_metadata(external_id="u-1", metadata={"n": number})
        async for change in changes:
            versions.append(change.version)
            if len(versions) == 300:
                break
    heart.cancel()
    assert versions == list(range(1, 301))
    assert beats > 10


async def test_task_that_follows_can_be_cancelled(feed: kinfold.Feed):
    async def follow() -> None:
        async with feed.follow() as changes:
            async for _ in changes:
                pass

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_position_is_stored(visitors: kinfold.Producer, folding_url: str, workspace: str, tmp_path: Path):
    """The change that was being handled when the reader ended comes again, and no earlier one."""
    for number in range(10):
        visitors.set_metadata(external_id="u-1", metadata={"n": number})
    versions: list[int] = []
    for _ in range(3):
        feed = kinfold.Feed(folding_url, workspace=workspace, position=kinfold.FilePosition(tmp_path / "position"))
        with feed.follow(since="0") as changes:
            versions += [next(changes).version for _ in range(3)]
    assert versions == [1, 2, 3, 3, 4, 5, 5, 6, 7]


def test_position_can_be_saved_while_it_is_being_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As when a signal handler or another thread calls `close` just as the reader ends."""
    position = kinfold.FilePosition(tmp_path / "position")

    def interrupted(_: int) -> None:
        monkeypatch.undo()
        position.save("2-0")

    monkeypatch.setattr(os, "fsync", interrupted)
    position.save("2-0")

    assert position.load() == "2-0"
    assert list(tmp_path.iterdir()) == [tmp_path / "position"]


def test_file_name_as_position_is_rejected():
    """At once, not at the first change."""
    with pytest.raises(TypeError, match="position: expected FilePosition\\('here'\\) or a pair"):
        kinfold.Feed("redis://localhost:1/0", position="here")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_position_may_be_a_pair_of_functions(visitors: kinfold.Producer, folding_url: str, workspace: str):
    visitors.identify(external_id="u-1")
    visitors.identify(external_id="u-2")
    saved: list[str] = []
    feed = kinfold.Feed(folding_url, workspace=workspace, position=(lambda: saved[-1] if saved else None, saved.append))
    with feed.follow(since="0") as changes:
        next(changes)
        second = next(changes)
    with feed.follow() as changes:
        assert next(changes) == second


def test_trimmed_changes_are_never_skipped_silently(
    visitors: kinfold.Producer, feed: kinfold.Feed, client: Redis, workspace: str
):
    """Reading trimmed entries raises FeedTruncated, at the start and later; with `snapshot` it starts again."""
    for number in range(20):
        visitors.set_metadata(external_id="u-1", metadata={"n": number})
    folded(client, workspace, visitors.flush())
    with feed.follow(since="0") as early, feed.follow(since="0", snapshot=True) as other:
        position = early.position
        assert (next(early).version, next(early).version) == (1, 2)
        position = early.position
        client.xtrim(key(workspace, "changes"), maxlen=5, approximate=False)
        for start in ("0", position):
            with (
                feed.follow(since=start) as changes,
                pytest.raises(kinfold.FeedTruncated, match=r"^feed: expected a position between .*trimmed"),
            ):
                next(changes)
        again = next(other)
        assert (again.cause, again.version) == ("snapshot", 20)
    with feed.follow(since="99999999999999-0") as changes, pytest.raises(kinfold.FeedTruncated):
        next(changes)


def test_snapshot_is_followed_by_the_changes_from_exactly_there(
    visitors: kinfold.Producer, feed: kinfold.Feed, client: Redis, workspace: str
):
    resets: list[int] = []
    for number in range(5):
        visitors.identify(external_id=f"u-{number}")
    folded(client, workspace, visitors.flush())
    with feed.follow(snapshot=True, on_reset=lambda: resets.append(1)) as changes:
        shown = {next(changes).contact_id for _ in range(5)}
        visitors.identify(external_id="u-5")
        created = next(changes)
    assert len(shown) == 5
    assert created.contact_id not in shown
    assert created.cause != "snapshot"
    assert resets == [1]


def test_live_contacts_equal_those_of_the_projector(
    visitors: kinfold.Producer, feed: kinfold.Feed, client: Redis, workspace: str, folding_url: str
):
    """Contacts are created, changed and merged during and after the snapshot; the mapping ends up equal."""
    with feed.contacts() as contacts:
        assert len(contacts) == 0
        for number in range(200):
            visitors.identify(f"v-{number}", email=f"{number % 50}@example.org", metadata={"n": number})
        with feed.contacts() as second:
            for number in range(25):
                visitors.identify(f"v-{number}", external_id=f"u-{number}", email=f"{number}@example.org")
                visitors.identify(external_id=f"u-{number}", email=f"{number + 25}@example.org")
            folded(client, workspace, visitors.flush())
            newest = cast("list[tuple[bytes, object]]", client.xrevrange(key(workspace, "changes"), count=1))
            last = newest[0][0].decode()
            wait_until_sync(lambda: contacts.position == last and second.position == last)
            assert len(contacts) == 25
            assert dict(contacts) == dict(second)
        with kinfold.Contacts(folding_url, workspace=workspace) as lookups:
            for number in range(25):
                expected = lookups.by_external_id(f"u-{number}")
                assert expected is not None
                assert contacts.by_external_id(f"u-{number}") == contacts[expected.id] == expected
                assert contacts.by_email(f"{expected.email}".upper()) == expected
    assert any(isinstance(change, ContactsMerged) for change in _all(feed, 50))


def test_replay_may_lower_versions(  # noqa: PLR0917  fixtures are arguments
    visitors: kinfold.Producer, feed: kinfold.Feed, client: Redis, workspace: str, folding_url: str, tmp_path: Path
):
    """With excluded events a replay makes fewer changes; live contacts and followers take over the lower versions."""
    for number in range(5):
        visitors.set_metadata(external_id="u-1", metadata={"n": number})
    folded(client, workspace, visitors.flush())
    excluded = tmp_path / "excluded"
    excluded.write_text("\n".join(Log(client, workspace).positions[1:]))
    with feed.contacts() as contacts, feed.follow(snapshot=True) as changes:
        assert (next(changes).version, [contact.version for contact in contacts.values()]) == (5, [5])
        answer = asyncio.run(run_kinfold(folding_url, workspace, "replay", "--exclude-events", excluded))
        assert answer.status == 0, answer.said
        visitors.set_metadata(external_id="u-1", metadata={"n": 7})
        replayed, later = next(changes), next(changes)
        assert [(change.version, change.cause == "replay") for change in (replayed, later)] == [(1, True), (2, False)]
        wait_until_sync(lambda: [contact.metadata for contact in contacts.values()] == [{"n": 7}])
        assert [contact.version for contact in contacts.values()] == [2]


def test_changes_during_a_snapshot_come_once(visitors: kinfold.Producer, feed: kinfold.Feed, client: Redis, workspace: str):
    """They come between the snapshot and later changes, not twice."""
    visitors.identify(external_id="u-0")
    folded(client, workspace, visitors.flush())
    with feed.follow(snapshot=True) as changes:
        told = [next(changes)]
        for number in range(1, 4):
            visitors.identify(external_id=f"u-{number}")
        folded(client, workspace, visitors.flush())
        told += [next(changes) for _ in range(3)]
        visitors.identify(external_id="u-4")
        told.append(next(changes))
    assert [change.contact.external_id for change in told] == [f"u-{n}" for n in range(5)]  # type: ignore[union-attr]


def test_feed_trimmed_during_a_snapshot_starts_another_one(
    visitors: kinfold.Producer, feed: kinfold.Feed, client: Redis, workspace: str
):
    """The snapshot may be older than the oldest remaining change, so continuing would skip changes."""
    visitors.identify(external_id="u-1")
    folded(client, workspace, visitors.flush())
    resets: list[int] = []
    with feed.follow(snapshot=True, on_reset=lambda: resets.append(1)) as changes:
        assert next(changes).version == 1
        for number in range(3):
            visitors.set_metadata(external_id="u-1", metadata={f"key-{number}": number})
        folded(client, workspace, visitors.flush())
        client.xtrim(key(workspace, "changes"), maxlen=1, approximate=False)
        again = next(changes)
    assert (again.cause, again.version, resets) == ("snapshot", 4, [1, 1])


@pytest.mark.parametrize("side", ["redis", "gateway"])
def test_waiting_reader_can_be_stopped(request: pytest.FixtureRequest, folding_url: str, workspace: str, side: str):
    """Another thread calls `close`, as at the end of a process: the loop ends without an error."""
    if side == "redis":
        feed = kinfold.Feed(folding_url, workspace=workspace)
    else:
        feed = kinfold.Feed(request.getfixturevalue("gateway_url"), key=request.getfixturevalue("api_key"))
    changes = feed.follow()
    ended = threading.Event()

    def follow() -> None:
        for _ in changes:
            pass
        ended.set()

    thread = threading.Thread(target=follow)
    thread.start()
    wait_until_sync(lambda: changes._items is not None and inspect.getgeneratorstate(changes._items) == inspect.GEN_RUNNING)
    changes.close()
    assert ended.wait(120)
    thread.join()


async def test_waiting_task_stops_even_if_an_item_arrives_at_that_moment():
    """An item that arrives between `close` and the end of the reader is discarded."""

    class Late:
        """A source that yields an item when it is stopped."""

        def __init__(self) -> None:
            self.stopped = threading.Event()

        def read(self, since: str | None, *, snapshot: bool) -> Iterator[Item]:  # noqa: ARG002  as Source
            self.stopped.wait()
            yield Idle()

        def stop(self) -> None:
            self.stopped.set()

    following = Follow(Reader(Late(), None, snapshot=False), None, None, None)
    waiting = asyncio.ensure_future(anext(following, None))
    await asyncio.sleep(0)  # it is waiting
    following.close()
    assert await asyncio.wait_for(waiting, 120) is None


def test_live_contacts_survive_an_outage(visitors: kinfold.Producer, folding_url: str, workspace: str):
    with Proxy(folding_url) as proxy, kinfold.Feed(proxy.url, workspace=workspace).contacts() as contacts:
        proxy.refuse()
        visitors.identify(external_id="u-1")
        visitors.flush()
        proxy.accept()
        wait_until_sync(lambda: contacts.by_external_id("u-1"))


def test_live_contacts_raise_a_timeout_error():
    with pytest.raises(TimeoutError, match=r"the snapshot of contacts was not complete after 0\.2 s"):
        kinfold.Feed("redis://127.0.0.1:1/0").contacts(timeout_s=0.2)


def _all(feed: kinfold.Feed, at_least: int) -> list[object]:
    with feed.follow(since="0") as changes:
        found: list[object] = []
        for change in changes:
            found.append(change)
            if len(found) > at_least and isinstance(change, ContactsMerged):
                return found
    return found
