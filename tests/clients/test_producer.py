"""What a producer puts into the log, and when."""

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis

import kinfold
from kinfold_schemas.times import from_text
from tests.support.logs import Log
from tests.support.waiting import wait_until_sync

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
NOWHERE = "redis://127.0.0.1:1/0"


def test_three_lines_become_three_events(folding_url: str, client: Redis, workspace: str):
    """What the issue shows is what is in the log, in its order."""
    visitors = kinfold.Producer(folding_url, workspace=workspace)
    visitors.seen("v-1", url="/pricing")
    visitors.identify("v-1", external_id="u-1", email="ada@example.org", metadata={"plan": "pro"})
    visitors.set_metadata("v-1", {"mrr": 99})
    position = visitors.flush()
    visitors.close()

    log = Log(client, workspace)
    assert position == log.positions[-1]
    said = [{name: value for name, value in event.items() if name not in {"id", "at", "sentAt"}} for event in log.events]
    assert said == [
        {"type": "VisitorSeen", "visitorId": "v-1", "context": {"url": "/pricing"}},
        {
            "type": "VisitorIdentified",
            "visitorId": "v-1",
            "externalId": "u-1",
            "email": "ada@example.org",
            "metadata": {"plan": "pro"},
        },
        {"type": "MetadataSet", "visitorId": "v-1", "metadata": {"mrr": 99}},
    ]


def test_every_event_has_an_id_and_both_times(folding_url: str, client: Redis, workspace: str):
    """The id is a UUIDv7 whose time is `at`; `sentAt` is when the batch left, not when the event was said."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    with kinfold.Producer(folding_url, workspace=workspace) as visitors:
        for number in range(50):
            visitors.seen(f"v-{number}")
    events = Log(client, workspace).events
    assert len({event["id"] for event in events}) == 50
    for event in events:
        assert _UUID7.match(event["id"])
        assert int(event["id"].replace("-", "")[:12], 16) == from_text(event["at"])
        assert before <= datetime.fromisoformat(event["at"]) <= datetime.fromisoformat(event["sentAt"]) <= datetime.now(UTC)


def test_an_event_that_waited_counts_as_having_happened_when_it_was_said(folding_url: str, client: Redis, workspace: str):
    """`at` is kept through a delay, `sentAt` tells how long it was: contract section 3, effective time."""
    said = datetime.now(UTC) - timedelta(hours=1)
    with kinfold.Producer(folding_url, workspace=workspace) as visitors:
        visitors.seen("v-1", at=said)
    visitor = Log(client, workspace).state.visitors["v-1"]
    assert abs(datetime.fromisoformat(visitor.first_seen_at) - said) < timedelta(seconds=5)


def test_a_workspace_is_announced_to_the_projector(folding_url: str, client: Redis, workspace: str):
    with kinfold.Producer(folding_url, workspace=workspace) as visitors:
        visitors.seen("v-1")
    assert client.sismember("kinfold:workspaces", workspace)


def test_the_caller_may_change_its_dictionary_afterwards(folding_url: str, client: Redis, workspace: str):
    plan = {"plan": "pro"}
    with kinfold.Producer(folding_url, workspace=workspace) as visitors:
        visitors.set_metadata("v-1", plan)
        plan["plan"] = "free"
    assert Log(client, workspace).events[0]["metadata"] == {"plan": "pro"}


def test_a_batch_goes_out_when_it_is_full_long_before_it_is_old(folding_url: str, client: Redis, workspace: str):
    with kinfold.Producer(folding_url, workspace=workspace, batch_events=10, batch_age_s=600) as visitors:
        for number in range(10):
            visitors.seen(f"v-{number}")
        wait_until_sync(lambda: visitors.counters.sent == 10)
        visitors.seen("v-10")
        assert visitors.counters.buffered == 1
    assert len(Log(client, workspace).events) == 11


def test_a_batch_goes_out_when_it_is_large_long_before_it_is_old(folding_url: str, client: Redis, workspace: str):
    with kinfold.Producer(folding_url, workspace=workspace, batch_bytes=20_000, batch_age_s=600) as visitors:
        for number in range(10):
            visitors.seen(f"v-{number}", context={"text": "x" * 1000})
        wait_until_sync(lambda: visitors.counters.sent >= 4)
    assert len(Log(client, workspace).events) == 10


def test_a_batch_goes_out_when_it_is_old(folding_url: str, workspace: str):
    with kinfold.Producer(folding_url, workspace=workspace, batch_age_s=0.02) as visitors:
        visitors.seen("v-1")
        wait_until_sync(lambda: visitors.counters.sent == 1)


def test_nothing_runs_before_the_first_event(workspace: str):
    """Making a producer connects to nothing and starts nothing, so a wrong server shows when it is used."""
    visitors = kinfold.Producer(NOWHERE, workspace=workspace)
    assert visitors._delivery._thread is None
    assert visitors.counters == kinfold.Counters()
    visitors.close()


def test_what_comes_after_close_is_dropped_and_counted(workspace: str, caplog: pytest.LogCaptureFixture):
    """A request that ends after the application's shutdown hook must not fail because of it."""
    visitors = kinfold.Producer(NOWHERE, workspace=workspace)
    visitors.close()
    with caplog.at_level(logging.WARNING, "kinfold"):
        visitors.seen("v-1")
    assert visitors.counters.dropped == 1
    assert "the producer is closed" in caplog.text


def test_flush_says_how_many_are_not_sent(workspace: str):
    visitors = kinfold.Producer(NOWHERE, workspace=workspace, exit_timeout_s=0)
    visitors.seen("v-1")
    visitors.seen("v-2")
    with pytest.raises(kinfold.NotSent, match=r"found 2 events not sent after 0\.05 s") as raised:
        visitors.flush(timeout_s=0.05)
    assert raised.value.events == 2
    visitors.close(timeout_s=0)


def test_on_error_is_told_of_every_failure_and_of_every_loss(workspace: str, caplog: pytest.LogCaptureFixture):
    """First that it will be tried again, at the end that it is lost. The log says it once, under `kinfold`."""
    failures: list[kinfold.Failure] = []
    visitors = kinfold.Producer(NOWHERE, workspace=workspace, on_error=failures.append, first_retry_s=0.01)
    with caplog.at_level(logging.WARNING, "kinfold"):
        visitors.seen("v-1")
        wait_until_sync(lambda: len(failures) >= 3)
        visitors.close(timeout_s=0.02)
        wait_until_sync(lambda: failures[-1].lost)
    assert [failure.events for failure in failures] == [1] * len(failures)
    assert [failure.lost for failure in failures] == [False] * (len(failures) - 1) + [True]
    assert isinstance(failures[0].error, kinfold.Unreachable)
    assert visitors.counters.lost == 1
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "1 events could not be sent and will be again",
        "1 of 1 events were lost",
    ]


def test_an_on_error_that_fails_harms_nobody(workspace: str):
    def fail(_: kinfold.Failure) -> None:
        raise RuntimeError("a bug of the application's")

    visitors = kinfold.Producer(NOWHERE, workspace=workspace, on_error=fail, first_retry_s=0.01)
    visitors.seen("v-1")
    wait_until_sync(lambda: visitors.counters.retries >= 2)
    visitors.close(timeout_s=0)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("amqp://localhost", {}, "url: expected one that begins with http://, https://, redis://"),
        ("redis://", {"workspace": "Acme"}, "beginning with a letter or digit, got 'Acme'"),
        ("https://gateway", {}, "key: found none, allowed with a gateway's URL is an API key"),
        ("redis://", {"buffer_events": 0}, "buffer_events: found 0; expected `int` >= 1"),
        ("redis://", {"when_full": "explode"}, "when_full: found 'explode'; allowed are drop, wait, raise"),
        ("redis://", {"workspace": None}, "beginning with a letter or digit, got None"),
        ("redis+sentinel://h:1/master", {}, None),
        ("unix:///tmp/redis.sock?db=1", {}, None),
        ("redis+sentinel://h:1", {}, "url: 'redis+sentinel://h:1': expected the name of the primary behind the sentinels"),
        ("redis://h:x", {}, "url: 'redis://h:x': expected a host and a port from 1 to 65535"),
        ("redis://h/zzz", {}, "url: 'redis://h/zzz': expected a number as its database, got 'zzz'"),
        ("redis://h?decode_responses=true", {}, "expected the options client_name, db, got 'decode_responses'"),
        ("https://", {"key": "k"}, "url: expected https://host or https://host:port, got 'https://'"),
        ("https://h:x", {"key": "k"}, "url: expected https://host or https://host:port, got 'https://h:x'"),
        ("https://gateway", {"key": "k\n"}, "key: found white space or other characters that no key has"),
    ],
)
def test_a_setting_that_is_not_allowed_is_refused_when_the_producer_is_made(
    url: str, options: dict[str, Any], message: str | None
):
    """And not by the background thread, which could only lose what was said."""
    if message is None:
        kinfold.Producer(url).close()
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        kinfold.Producer(url, **options)


def test_a_setting_that_is_none_is_a_type_error():
    with pytest.raises(TypeError, match="bufer_events: found a setting of that name, allowed are buffer_events"):
        kinfold.Producer("redis://", bufer_events=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("make", [kinfold.Producer, kinfold.AsyncProducer, kinfold.Contacts, kinfold.Feed])
def test_an_address_that_is_not_set_is_said(make: Any):
    """`os.environ.get` of a variable that nobody set: whatever is made of it."""
    with pytest.raises(TypeError, match="url: expected a string such as redis://localhost:6379/0, got None"):
        make(None)


def test_a_password_is_in_no_message():
    with pytest.raises(ValueError, match="url") as raised:
        kinfold.Producer("amqp://me:secret@localhost")
    assert "secret" not in str(raised.value)
    with pytest.raises(ValueError, match="key") as raised:
        kinfold.Producer("https://localhost", key="secret\n")
    assert "secret" not in str(raised.value)
