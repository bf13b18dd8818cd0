"""Later events count as later, even if the network delays batches differently (contract section 3)."""

from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis

import kinfold
from tests.support.logs import Log
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until_sync


def test_the_last_value_wins(folding_url: str, client: Redis, workspace: str):
    """500 values in quick small batches: no value is stale, and the last one wins."""
    with kinfold.Producer(folding_url, workspace=workspace, batch_age_s=0, batch_events=3) as visitors:
        for number in range(500):
            visitors.set_metadata("v-1", {"n": number})
    log = Log(client, workspace)
    assert dict(log.kinds) == {"folded": 500}
    assert log.state.visitors["v-1"].metadata == {"n": 499}


def test_the_last_value_wins_if_the_batch_before_was_slow(folding_url: str, client: Redis, workspace: str):
    """The first batch takes 0.2 s to arrive, and the second one no time: the second still counts as later."""
    with Proxy(folding_url) as proxy, kinfold.Producer(proxy.url, workspace=workspace, batch_age_s=0) as visitors:
        visitors.set_metadata("v-1", {"n": 0})
        visitors.flush()
        proxy.question_delay_s = 0.2
        visitors.set_metadata("v-1", {"n": 1})
        wait_until_sync(lambda: visitors._delivery.outbox.in_flight)
        visitors.set_metadata("v-1", {"n": 2})
        proxy.question_delay_s = 0.0
        visitors.flush()
    log = Log(client, workspace)
    assert log.state.visitors["v-1"].metadata == {"n": 2}
    assert dict(log.kinds) == {"folded": 3}


def test_the_last_value_wins_if_the_arrival_of_the_batch_before_is_unknown(folding_url: str, client: Redis, workspace: str):
    """It arrives 0.2 s late, its answer never arrives, and the repeat is a duplicate. The next event arrives at once."""
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
        wait_until_sync(lambda: visitors._delivery.outbox.in_flight)
        visitors.set_metadata("v-1", {"n": 2})
        wait_until_sync(lambda: lost)
        proxy.question_delay_s, proxy.cut_share = 0.0, 0.0
        visitors.flush()
    log = Log(client, workspace)
    assert log.state.visitors["v-1"].metadata == {"n": 2}
    assert log.kinds["stale"] == 0


def test_late_event_stays_late(folding_url: str, client: Redis, workspace: str):
    """An event with an earlier `at` from the caller does not win."""
    with kinfold.Producer(folding_url, workspace=workspace, batch_age_s=0) as visitors:
        visitors.set_metadata("v-1", {"n": 1})
        visitors.flush()
        visitors.set_metadata("v-1", {"n": 0}, at=datetime.now(UTC) - timedelta(seconds=1))
        visitors.flush()
    log = Log(client, workspace)
    assert log.state.visitors["v-1"].metadata == {"n": 1}
    assert dict(log.kinds) == {"folded": 1, "stale": 1}
