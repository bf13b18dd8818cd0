"""The directory holds the projector's contacts, row by row."""

from redis.asyncio import Redis

from kinfold_services.settings import Settings
from tests.support.directories import following, must_equal_contacts, timeline_must_equal_feed, wait_until_current
from tests.support.event_log import HISTORY_CONTACTS, append, history
from tests.support.projecting import fold_log


async def test_the_history_gives_the_projectors_contacts(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    await append(redis, workspace, history())
    await fold_log(redis, redis_url, workspace)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
    assert await must_equal_contacts(redis, directory_settings, workspace) == HISTORY_CONTACTS
    assert await timeline_must_equal_feed(redis, directory_settings, workspace) is None
