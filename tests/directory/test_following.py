"""The directory holds the projector's contacts, row by row."""

from redis.asyncio import Redis

from kinfold_services.directory import tables
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.settings import Settings
from kinfold_services.state.queries import StateQueries
from kinfold_services.state.status import WorkspaceReport
from tests.support.directories import (
    following,
    life,
    must_equal_contacts,
    read_rows,
    timeline_must_equal_feed,
    wait_until_current,
)
from tests.support.event_log import HISTORY_CONTACTS, append, history
from tests.support.projecting import fold_log
from tests.support.waiting import wait_until


async def test_the_history_gives_the_projectors_contacts(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    await append(redis, workspace, history())
    await fold_log(redis, redis_url, workspace)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
    assert await must_equal_contacts(redis, directory_settings, workspace) == HISTORY_CONTACTS
    assert await timeline_must_equal_feed(redis, directory_settings, workspace) is None


async def test_status_and_metrics_tell_how_far_it_is(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    """Without a directory: nothing. When it has every change: no lag. When it has stopped: the age of the next change."""
    queries = StateQueries(redis, workspace)
    await append(redis, workspace, life(0, 100))
    await fold_log(redis, redis_url, workspace)
    assert (await queries.status()).directory is None

    async def is_current() -> bool:
        directory = (await queries.status()).directory
        return directory is not None and (directory.state, directory.lag_ms) == ("current", 0)

    async with following(directory_settings, redis_url, workspace):
        await wait_until(is_current)

    await append(redis, workspace, life(100, 20), start=100)
    await fold_log(redis, redis_url, workspace)
    await wait_until(lambda: is_behind(queries))
    status = await queries.status()
    assert status.directory is not None
    metrics = Metrics().render([WorkspaceReport(status, None, 0, 0.0)]).decode()
    shown = next(line for line in metrics.splitlines() if line.startswith("kinfold_directory_lag_seconds{"))
    assert float(shown.split()[-1]) == status.directory.lag_ms / 1000


async def is_behind(queries: StateQueries) -> bool:
    directory = (await queries.status()).directory
    return directory is not None and directory.lag_ms > 0


async def test_presence_moves_the_seen_time_and_has_no_row_in_the_timeline(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    at = "2026-11-22T08:%02d:00.000Z"
    events = [{"type": "VisitorIdentified", "visitorId": "v-1", "externalId": "u-1", "at": at % 0}]
    events += [{"type": "VisitorSeen", "visitorId": "v-1", "at": at % minute} for minute in (5, 10)]
    await append(redis, workspace, events)
    await fold_log(redis, redis_url, workspace)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
    (contact,) = read_rows(directory_settings, workspace, tables.contacts)
    assert contact["last_seen_at"] == at % 10
    assert [row["type"] for row in read_rows(directory_settings, workspace, tables.timeline)] == [
        "ContactCreated",
        "VisitorLinked",
    ]
