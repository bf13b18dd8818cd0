"""What a producer said later counts as later, whatever the network does to its batches (contract section 3)."""

from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis

import kinfold
from tests.support.logs import Log
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until_sync


def test_the_last_word_is_the_last(folding_url: str, client: Redis, workspace: str):
    """500 values, said as fast as batches of a few go out: none of them is stale, and the last one holds."""
    with kinfold.Producer(folding_url, workspace=workspace, batch_age_s=0, batch_events=3) as visitors:
        for number in range(500):
            visitors.set_metadata("v-1", {"n": number})
    log = Log(client, workspace)
    assert dict(log.kinds) == {"folded": 500}
    assert log.state.visitors["v-1"].metadata == {"n": 499}


def test_the_last_word_is_the_last_though_the_one_before_was_slow(folding_url: str, client: Redis, workspace: str):
    """The first batch takes 0.2 s to arrive, the second, said right after it, none: the second still counts as later."""
    with Proxy(folding_url) as proxy, kinfold.Producer(proxy.url, workspace=workspace, batch_age_s=0) as visitors:
        visitors.set_metadata("v-1", {"n": 0})
        visitors.flush()
        proxy.question_delay_s = 0.2
        visitors.set_metadata("v-1", {"n": 1})
        wait_until_sync(lambda: visitors._delivery._in_flight)
        visitors.set_metadata("v-1", {"n": 2})
        proxy.question_delay_s = 0.0
        visitors.flush()
    log = Log(client, workspace)
    assert log.state.visitors["v-1"].metadata == {"n": 2}
    assert dict(log.kinds) == {"folded": 3}


def test_the_last_word_is_the_last_though_nobody_knows_when_the_one_before_arrived(
    folding_url: str, client: Redis, workspace: str
):
    """It arrives 0.2 s late, and its answer never: sent again, it is a duplicate. What is said next arrives at once."""
    lost: list[kinfold.Failure] = []
    options: dict[str, Any] = {"batch_age_s": 0.0, "batch_events": 1, "first_retry_s": 0.01}
    with (
        Proxy(folding_url) as proxy,
        kinfold.Producer(proxy.url, workspace=workspace, on_error=lost.append, **options) as visitors,
    ):
        visitors.set_metadata("v-1", {"n": 0})
        visitors.flush()
        proxy.question_delay_s, proxy.cut_share = 0.2, 1.0
        visitors.set_metadata("v-1", {"n": 1})
        wait_until_sync(lambda: visitors._delivery._in_flight)
        visitors.set_metadata("v-1", {"n": 2})
        wait_until_sync(lambda: lost)
        proxy.question_delay_s, proxy.cut_share = 0.0, 0.0
        visitors.flush()
    log = Log(client, workspace)
    assert log.state.visitors["v-1"].metadata == {"n": 2}
    assert log.kinds["stale"] == 0


def test_what_is_late_stays_late(folding_url: str, client: Redis, workspace: str):
    """An event with a time of its own, before what was said, does not win because of any of that."""
    with kinfold.Producer(folding_url, workspace=workspace, batch_age_s=0) as visitors:
        visitors.set_metadata("v-1", {"n": 1})
        visitors.flush()
        visitors.set_metadata("v-1", {"n": 0}, at=datetime.now(UTC) - timedelta(seconds=1))
        visitors.flush()
    log = Log(client, workspace)
    assert log.state.visitors["v-1"].metadata == {"n": 1}
    assert dict(log.kinds) == {"folded": 1, "stale": 1}
