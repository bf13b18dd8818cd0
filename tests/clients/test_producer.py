"""What a producer appends to the log, and when."""

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
KEY_OF_SHOP = f"kf_sk_shop_{'0' * 12}_{'0' * 64}"


def test_three_calls_become_three_events(folding_url: str, client: Redis, workspace: str):
    """In the order of the calls, with the given fields."""
    visitors = kinfold.Producer(folding_url, workspace=workspace)
    visitors.seen("v-1", url="/pricing")
    visitors.identify("v-1", external_id="u-1", email="ada@example.org", metadata={"plan": "pro"})
    visitors.set_metadata("v-1", {"mrr": 99})
    position = visitors.flush()
    visitors.close()

    log = Log(client, workspace)
    assert position == log.positions[-1]
    fields = [{name: value for name, value in event.items() if name not in {"id", "at", "sentAt"}} for event in log.events]
    assert fields == [
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
    """The id is a UUIDv7 with the time `at`; `sentAt` is the time when the batch was sent."""
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


def test_delayed_event_counts_from_the_time_of_its_call(folding_url: str, client: Redis, workspace: str):
    """`at` is kept through a delay, and `sentAt` - `at` is its length: contract section 3, effective time."""
    called_at = datetime.now(UTC) - timedelta(hours=1)
    with kinfold.Producer(folding_url, workspace=workspace) as visitors:
        visitors.seen("v-1", at=called_at)
    visitor = Log(client, workspace).state.visitors["v-1"]
    assert abs(datetime.fromisoformat(visitor.first_seen_at) - called_at) < timedelta(seconds=5)


def test_workspace_is_announced_to_the_projector(folding_url: str, client: Redis, workspace: str):
    with kinfold.Producer(folding_url, workspace=workspace) as visitors:
        visitors.seen("v-1")
    assert client.sismember("kinfold:workspaces", workspace)


def test_caller_may_change_its_dictionary_after_the_call(folding_url: str, client: Redis, workspace: str):
    plan = {"plan": "pro"}
    with kinfold.Producer(folding_url, workspace=workspace) as visitors:
        visitors.set_metadata("v-1", plan)
        plan["plan"] = "free"
    assert Log(client, workspace).events[0]["metadata"] == {"plan": "pro"}


def test_full_batch_is_sent_before_its_age(folding_url: str, client: Redis, workspace: str):
    with kinfold.Producer(folding_url, workspace=workspace, batch_events=10, batch_age_s=600) as visitors:
        for number in range(10):
            visitors.seen(f"v-{number}")
        wait_until_sync(lambda: visitors.counters.sent == 10)
        visitors.seen("v-10")
        assert visitors.counters.buffered == 1
    assert len(Log(client, workspace).events) == 11


def test_large_batch_is_sent_before_its_age(folding_url: str, client: Redis, workspace: str):
    with kinfold.Producer(folding_url, workspace=workspace, batch_bytes=20_000, batch_age_s=600) as visitors:
        for number in range(10):
            visitors.seen(f"v-{number}", context={"text": "x" * 1000})
        wait_until_sync(lambda: visitors.counters.sent >= 4)
    assert len(Log(client, workspace).events) == 10


def test_batch_is_sent_at_its_age(folding_url: str, workspace: str):
    with kinfold.Producer(folding_url, workspace=workspace, batch_age_s=0.02) as visitors:
        visitors.seen("v-1")
        wait_until_sync(lambda: visitors.counters.sent == 1)


def test_producer_starts_nothing_before_the_first_event(workspace: str):
    """Making a producer neither connects nor starts a thread."""
    visitors = kinfold.Producer(NOWHERE, workspace=workspace)
    assert visitors._delivery._thread is None
    assert visitors.counters == kinfold.Counters()
    visitors.close()


def test_event_after_close_is_dropped_and_counted(workspace: str, caplog: pytest.LogCaptureFixture):
    """A request that ends after the application's shutdown hook must not fail."""
    visitors = kinfold.Producer(NOWHERE, workspace=workspace)
    visitors.close()
    with caplog.at_level(logging.WARNING, "kinfold"):
        visitors.seen("v-1")
    assert visitors.counters.dropped == 1
    assert "the producer is closed" in caplog.text


def test_flush_reports_how_many_events_were_not_sent(workspace: str):
    visitors = kinfold.Producer(NOWHERE, workspace=workspace, exit_timeout_s=0)
    visitors.seen("v-1")
    visitors.seen("v-2")
    with pytest.raises(kinfold.NotSent, match=r"2 event\(s\) were not sent within 0\.05 s") as raised:
        visitors.flush(timeout_s=0.05)
    assert raised.value.events == 2
    visitors.close(timeout_s=0)


def test_on_error_is_called_for_every_failure_and_every_loss(workspace: str, caplog: pytest.LogCaptureFixture):
    """First for each failed attempt, at the end for the loss. The log reports the failure once, under `kinfold`."""
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
        "could not send 1 event(s), will try again",
        "1 of 1 events were lost",
    ]


def test_failing_on_error_does_no_harm(workspace: str):
    def fail(_: kinfold.Failure) -> None:
        raise RuntimeError("a bug of the application")

    visitors = kinfold.Producer(NOWHERE, workspace=workspace, on_error=fail, first_retry_s=0.01)
    visitors.seen("v-1")
    wait_until_sync(lambda: visitors.counters.retries >= 2)
    visitors.close(timeout_s=0)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("amqp://localhost", {}, "url: expected one that begins with http://, https://, redis://"),
        ("redis://", {"workspace": "Acme"}, "beginning with a letter or digit, got 'Acme'"),
        ("https://gateway", {}, "key: expected an API key for a gateway"),
        ("redis://", {"buffer_events": 0}, "buffer_events: expected `int` >= 1, got 0"),
        ("redis://", {"when_full": "explode"}, "when_full: expected drop, wait, raise, got 'explode'"),
        ("redis://", {"workspace": None}, "beginning with a letter or digit, got None"),
        ("redis+sentinel://h:1/master", {}, None),
        ("unix:///tmp/redis.sock?db=1", {}, None),
        ("redis+sentinel://h:1", {}, "url: 'redis+sentinel://h:1': expected the name of the primary behind the sentinels"),
        ("redis://h:x", {}, "url: 'redis://h:x': expected a host and a port from 1 to 65535"),
        ("redis://h/zzz", {}, "url: 'redis://h/zzz': expected a number as its database, got 'zzz'"),
        ("redis://h?decode_responses=true", {}, "expected the options client_name, db, got 'decode_responses'"),
        ("https://", {"key": "k"}, "url: expected https://host or https://host:port, got 'https://'"),
        ("https://h:x", {"key": "k"}, "url: expected https://host or https://host:port, got 'https://h:x'"),
        ("https://gateway", {"key": "k\n"}, "key: expected printable ASCII without white space around it"),
    ],
)
def test_invalid_setting_is_rejected_when_the_producer_is_made(url: str, options: dict[str, Any], message: str | None):
    """Not later by the background thread, which could only lose events."""
    if message is None:
        kinfold.Producer(url).close()
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        kinfold.Producer(url, **options)


def test_unknown_setting_is_a_type_error():
    with pytest.raises(TypeError, match="bufer_events: unknown setting, expected one of buffer_events"):
        kinfold.Producer("redis://", bufer_events=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "make", [kinfold.Producer, kinfold.AsyncProducer, kinfold.Contacts, kinfold.AsyncContacts, kinfold.Feed]
)
def test_key_of_another_workspace_is_a_value_error(make: Any):
    """The key decides: events would go to another workspace than the program names. Without a workspace, any key is right."""
    with pytest.raises(ValueError, match="key: expected one of workspace 'blog', got one of 'shop'"):
        make("https://gateway", key=KEY_OF_SHOP, workspace="blog")
    make("https://gateway", key=KEY_OF_SHOP, workspace="shop")
    make("https://gateway", key=KEY_OF_SHOP)


@pytest.mark.parametrize("make", [kinfold.Producer, kinfold.AsyncProducer, kinfold.Contacts, kinfold.Feed])
def test_missing_url_is_a_type_error(make: Any):
    """As from `os.environ.get` of an unset variable."""
    with pytest.raises(TypeError, match="url: expected a string such as redis://localhost:6379/0, got None"):
        make(None)


def test_messages_contain_no_password():
    with pytest.raises(ValueError, match="url") as raised:
        kinfold.Producer("amqp://me:secret@localhost")
    assert "secret" not in str(raised.value)
    with pytest.raises(ValueError, match="key") as raised:
        kinfold.Producer("https://localhost", key="secret\n")
    assert "secret" not in str(raised.value)
