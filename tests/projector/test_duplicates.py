"""Duplicates and reused ids across restarts of the real projector (contract section 3)."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_projections import duplicates
from kinfold_schemas.keys import key
from kinfold_services.projector import window as projector_window
from kinfold_services.state.queries import StateQueries
from kinfold_services.state.status import Status
from tests.support.event_log import append, entry_id
from tests.support.projecting import fold_log

WINDOW: Final = 8


@pytest.fixture
def _small_window() -> Iterator[None]:
    """A window that a few entries fill, and the same length for the projector that restores it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "WINDOW_ENTRIES", WINDOW)
        patch.setattr(projector_window, "LOOKBACK_ENTRIES", 2 * WINDOW)
        yield


def visit(number: int) -> Mapping[str, Any]:
    """An event with its own id."""
    return {"type": "VisitorSeen", "visitorId": f"v-{number}", "id": f"e-{number}"}


async def status_of(redis: Redis, redis_url: str, workspace: str) -> Status:
    """The status of the workspace after a new projector has folded the log."""
    await fold_log(redis, redis_url, workspace)
    return await StateQueries(redis, workspace).status()


@pytest.mark.usefixtures("_small_window")
@pytest.mark.parametrize(("entries_before", "found"), [(WINDOW, 1), (WINDOW + 1, 0)])
async def test_restarted_projector_knows_the_whole_window(
    redis: Redis, redis_url: str, workspace: str, entries_before: int, found: int
) -> None:
    """Including its first entry."""
    await append(redis, workspace, [visit(number) for number in range(entries_before)])
    await fold_log(redis, redis_url, workspace)
    await append(redis, workspace, [visit(0)], start=entries_before)

    assert (await status_of(redis, redis_url, workspace)).duplicate == found


@pytest.mark.usefixtures("_small_window")
async def test_excluded_entries_take_no_place_in_the_window(redis: Redis, redis_url: str, workspace: str) -> None:
    """The log is folded without them, so a restarted projector reads that much further back."""
    await redis.sadd(key(workspace, "excluded"), *(entry_id(number) for number in range(2, 2 + WINDOW)))
    await append(redis, workspace, [visit(number) for number in range(2 * WINDOW)])
    await fold_log(redis, redis_url, workspace)
    await append(redis, workspace, [visit(0)], start=2 * WINDOW)

    assert (await status_of(redis, redis_url, workspace)).duplicate == 1


@pytest.mark.usefixtures("_small_window")
@pytest.mark.parametrize(("pages", "found"), [(2 * WINDOW - 1, 1), (2 * WINDOW, 0)])
async def test_a_restarted_projector_knows_the_ids_of_trusted_sources_before_those_of_pages(
    redis: Redis, redis_url: str, workspace: str, pages: int, found: int
) -> None:
    """As far back as any window reaches."""
    await append(redis, workspace, [visit(0), *({**visit(number), "source": "browser"} for number in range(pages))])
    await fold_log(redis, redis_url, workspace)
    await append(redis, workspace, [visit(0)], start=pages + 1)

    assert (await status_of(redis, redis_url, workspace)).duplicate == found


async def test_reused_id_is_folded_counted_and_logged(redis: Redis, redis_url: str, workspace: str) -> None:
    """Across a restart, too, with the first event of the id, once a minute."""
    await append(redis, workspace, [{**visit(0), "id": "m-1"}, {**visit(1), "id": "m-1"}])
    with capture_logs() as told:
        status = await status_of(redis, redis_url, workspace)
    assert (status.visitors, status.folded, status.duplicate, status.id_reused) == (2, 2, 0, 1)
    assert [(each["event_id"], each["entry"]) for each in reused(told)] == [("m-1", entry_id(1))]

    await append(redis, workspace, [{**visit(number), "id": "m-1"} for number in (0, 2, 3)], start=2)
    with capture_logs() as told:
        status = await status_of(redis, redis_url, workspace)
    assert (status.visitors, status.folded, status.duplicate, status.id_reused) == (4, 4, 1, 3)
    assert [each["entry"] for each in reused(told)] == [entry_id(3)]


def reused(told: list[Any]) -> list[Any]:
    """The log lines about reused ids."""
    return [each for each in told if each["event"].startswith("event id used again")]
