"""The client through a gateway: events, lookups and the feed, also over bad networks."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

import kinfold
from kinfold.producer import reminders
from kinfold.transport.gateway import GatewayClient
from kinfold_schemas.keys import key
from tests.clients.test_failures import EVENTS, EXPECTED, QUICK, send_all, send_all_async
from tests.support.engines import free_port
from tests.support.front import Front
from tests.support.gateways import GatewayProcess
from tests.support.logs import Log
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until, wait_until_sync


@pytest.fixture
def proxy(gateway_url: str) -> Iterator[Proxy]:
    """Give a proxy to the gateway."""
    with Proxy(gateway_url) as proxy:
        yield proxy


def test_producer_and_lookups_work_through_a_gateway(gateway_url: str, api_key: str, client: Redis, workspace: str):
    """Only the URL and the key differ."""
    with kinfold.Producer(gateway_url, key=api_key) as visitors, kinfold.Contacts(gateway_url, key=api_key) as contacts:
        visitors.seen("v-1", url="/pricing")
        visitors.identify("v-1", external_id="u-1", email="Ada@example.org", metadata={"plan": "pro"})
        visitors.set_metadata("v-1", {"mrr": 99})
        position = visitors.flush()
        ada = contacts.by_visitor("v-1", after=position)
        assert ada is not None
        assert ada.metadata == {"plan": "pro", "mrr": 99}
        assert ada == contacts.by_external_id("u-1") == contacts.by_email("ada@example.org") == contacts.get(ada.id)
        assert contacts.by_visitor("v-2") is None
        assert contacts.get("ct_unknown") is None
    assert Log(client, workspace).positions[-1] == position


async def test_asyncio_client_works_through_a_gateway(gateway_url: str, api_key: str):
    async with (
        kinfold.AsyncProducer(gateway_url, key=api_key) as visitors,
        kinfold.AsyncContacts(gateway_url, key=api_key) as contacts,
        kinfold.Feed(gateway_url, key=api_key).follow(since="0") as changes,
    ):
        await visitors.identify("v-1", external_id="u-1")
        found = await contacts.by_visitor("v-1", after=await visitors.flush())
        assert found is not None
        assert (await anext(changes)).contact_id == found.id


@pytest.mark.parametrize("how", ["threads", "tasks"])
@pytest.mark.parametrize("trouble", ["resets", "slow", "refused"])
def test_bad_network_loses_and_delays_nothing(  # noqa: PLR0917  fixtures are arguments
    proxy: Proxy, api_key: str, client: Redis, workspace: str, how: str, trouble: str
):
    """1,000 events: each counts exactly once after folding, because of its id. No call waits."""
    proxy.cut_share = 0.25 if trouble == "resets" else 0.0
    proxy.delay_s = 0.02 if trouble == "slow" else 0.0
    if trouble == "refused":
        proxy.refuse()
    if how == "threads":
        with kinfold.Producer(proxy.url, key=api_key, **QUICK) as producer:
            send_all(producer)
            wait_until_sync(lambda: producer.counters.retries > 0 or trouble != "refused")
            proxy.accept()
            producer.flush(timeout_s=200)
            counters = producer.counters
    else:

        async def main() -> kinfold.Counters:
            async with kinfold.AsyncProducer(proxy.url, key=api_key, **QUICK) as producer:
                await send_all_async(producer)
                await wait_until(lambda: producer.counters.retries > 0 or trouble != "refused")
                proxy.accept()
                await producer.flush(timeout_s=200)
                return producer.counters

        counters = asyncio.run(main())
    assert counters.sent == EVENTS
    assert counters.retries > 0 or trouble == "slow"
    assert Log(client, workspace).folded_visitors == EXPECTED


def test_ipv6_address_needs_no_port():
    connection = GatewayClient("http://[::1]", "a key", 1.0).connect()
    assert (connection.host, connection.port) == ("::1", 80)


def test_closed_idle_connection_is_not_a_failure(proxy: Proxy, api_key: str, client: Redis, workspace: str):
    """Proxies and gateways close idle connections all the time. The producer reconnects without a retry."""
    with kinfold.Producer(proxy.url, key=api_key) as visitors:
        for number in range(3):
            visitors.seen(f"v-{number}")
            visitors.flush()
            proxy.cut()
        assert (visitors.counters.sent, visitors.counters.retries) == (3, 0)
    assert len(Log(client, workspace).events) == 3


def test_batch_that_is_too_large_is_sent_in_halves(gateway_url: str, api_key: str, client: Redis, workspace: str):
    """Control characters take more bytes of JSON than estimated, and a proxy may allow less than the gateway."""
    text = "\x01" * 1500
    with kinfold.Producer(gateway_url, key=api_key, batch_events=5000, batch_bytes=900_000, batch_age_s=600) as visitors:
        for number in range(140):
            visitors.seen(f"v-{number}", context={"text": text})
        position = visitors.flush()
        assert (visitors.counters.sent, visitors.counters.retries) == (140, 0)
    log = Log(client, workspace)
    assert [event["visitorId"] for event in log.events] == [f"v-{number}" for number in range(140)]
    assert log.positions[-1] == position


def test_response_of_a_server_that_closes_during_a_large_request_is_read(
    gateway_url: str, api_key: str, client: Redis, workspace: str
):
    """The response has arrived although sending failed. Otherwise the batch would be repeated forever."""
    text = "\x01" * 1500
    options: dict[str, Any] = {"batch_events": 5000, "batch_bytes": 900_000, "batch_age_s": 600, "first_retry_s": 0.01}
    with Front(gateway_url, max_bytes=100_000) as front, kinfold.Producer(front.url, key=api_key, **options) as visitors:
        for number in range(140):
            visitors.seen(f"v-{number}", context={"text": text})
        visitors.flush(timeout_s=200)
        assert (visitors.counters.sent, visitors.counters.retries) == (140, 0)
    assert [event["visitorId"] for event in Log(client, workspace).events] == [f"v-{number}" for number in range(140)]


def test_refused_event_does_not_count_as_sent(gateway_url: str, api_key: str, client: Redis, workspace: str):
    """The same event is sent again: the firewall may accept it now."""
    is_strict = True
    with (
        Front(gateway_url, opinion=lambda body: 403 if is_strict and b"suspicious" in body else None) as front,
        kinfold.Producer(front.url, key=api_key) as visitors,
    ):
        visitors.set_metadata("v-1", {"plan": "suspicious"})
        visitors.flush()
        assert visitors.counters.refused == 1
        is_strict = False
        visitors.set_metadata("v-1", {"plan": "suspicious"})
        visitors.flush()
        assert (visitors.counters.sent, visitors.counters.suppressed) == (1, 0)
    assert [event["metadata"] for event in Log(client, workspace).events] == [{"plan": "suspicious"}]


def test_every_rejected_event_of_a_batch_is_reported(
    gateway_url: str, api_key: str, client: Redis, workspace: str, caplog: pytest.LogCaptureFixture
):
    """The answer lists only the first 100."""
    client.sadd(key(workspace, "blocked-identifiers"), "/^bad-/")
    with kinfold.Producer(gateway_url, key=api_key, batch_age_s=600) as visitors:
        for number in range(250):
            visitors.seen(f"bad-{number}")
            visitors.seen(f"good-{number}")
        visitors.flush()

        refused = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
        assert [f"'bad-{number}'" in line for number, line in enumerate(refused)] == [True] * 250
        assert (visitors.counters.sent, visitors.counters.refused) == (250, 250)
    assert {event["visitorId"] for event in Log(client, workspace).events} == {f"good-{number}" for number in range(250)}


@pytest.mark.parametrize("status", [400, 403, 406, 200])
def test_event_that_a_firewall_refuses_is_given_up_alone(  # noqa: PLR0917  fixtures are arguments
    gateway_url: str, api_key: str, client: Redis, workspace: str, caplog: pytest.LogCaptureFixture, status: int
):
    """It would be refused forever, and block all others: it is logged, counted, and reported to `on_error`."""
    failures: list[kinfold.Failure] = []
    with (
        Front(gateway_url, opinion=lambda body: status if b"${jndi:" in body else None) as front,
        kinfold.Producer(front.url, key=api_key, batch_age_s=600, on_error=failures.append) as visitors,
    ):
        for number in range(20):
            visitors.seen(f"v-{number}", user_agent="${jndi:ldap://x}" if number in {7, 12} else "Mozilla/5.0")
        assert visitors.flush() == Log(client, workspace).positions[-1]
        assert (visitors.counters.sent, visitors.counters.refused, visitors.counters.retries) == (18, 2, 0)
    assert [(failure.events, failure.lost) for failure in failures] == [(2, True)]
    refused = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
    names = r"an event was refused: VisitorSeen [0-9a-f-]{36}: gateway: "
    assert [bool(re.match(names + str(status), line)) for line in refused] == [True, True]
    assert not any(shown in line for line in refused for shown in ("v-7", "v-12", "${jndi:"))
    assert [event["visitorId"] for event in Log(client, workspace).events] == [f"v-{n}" for n in range(20) if n not in {7, 12}]


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 408])
def test_refusal_of_everything_loses_nothing(  # noqa: PLR0917  fixtures are arguments
    gateway_url: str, api_key: str, client: Redis, workspace: str, caplog: pytest.LogCaptureFixture, status: int
):
    """It is not about the events: they wait until it is fixed. The log reports it once, not at every attempt."""
    options: dict[str, Any] = {"first_retry_s": 0.001, "last_retry_s": 0.002}
    with (
        Front(gateway_url, opinion=lambda _: status) as front,
        kinfold.Producer(front.url, key=api_key, **options) as visitors,
    ):
        visitors.seen("v-1")
        visitors.seen("v-2")
        wait_until_sync(lambda: visitors.counters.retries > 5)
        assert (visitors.counters.buffered, visitors.counters.refused) == (2, 0)
        complaints = [record for record in caplog.records if f"gateway: {status}" in record.getMessage()]
        assert [record.levelname for record in complaints] == ["WARNING" if status == 408 else "ERROR"]
        front.opinion = lambda _: None
        visitors.flush()
    assert Log(client, workspace).visitors == {"v-1": 1, "v-2": 1}


def test_lasting_problem_is_logged_again(
    gateway_url: str, api_key: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Every minute, here at every attempt: the first message may be in a log file that was deleted."""
    monkeypatch.setattr(reminders, "REMIND_EVERY_S", 0.0)
    options: dict[str, Any] = {"first_retry_s": 0.001, "last_retry_s": 0.002}
    with Front(gateway_url, opinion=lambda _: 403) as front, kinfold.Producer(front.url, key=api_key, **options) as visitors:
        visitors.seen("v-1")
        wait_until_sync(lambda: sum("refuses everything" in record.getMessage() for record in caplog.records) > 2)
        front.opinion = lambda _: None


def test_forked_children_do_not_share_a_connection(gateway_url: str, api_key: str):
    """The parent has an idle connection. Each of four children asks for another contact."""
    with kinfold.Producer(gateway_url, key=api_key) as visitors:
        for number in range(4):
            visitors.identify(external_id=f"u-{number}")
        position = visitors.flush()
    script = """
import os, sys, time, kinfold
contacts = kinfold.Contacts(sys.argv[1], key=sys.argv[2])
children, wrong = [], 0
for _ in range(10):
    contacts.by_external_id("u-0", after=sys.argv[3])
    together = time.monotonic() + 0.05
    for number in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            while time.monotonic() < together: pass
            found = [contacts.by_external_id(f"u-{number}") for _ in range(5)]
            os._exit(sum(each is None or each.external_id != f"u-{number}" for each in found))
wrong = sum(os.waitpid(child, 0)[1] for child in children)
assert not wrong, wrong
"""
    done = subprocess.run(
        [sys.executable, "-c", script, gateway_url, api_key, position or ""],
        check=False,
        timeout=200,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_wrong_key_is_reported_and_loses_nothing(gateway_url: str):
    failures: list[kinfold.Failure] = []
    visitors = kinfold.Producer(gateway_url, key="nonsense", on_error=failures.append, first_retry_s=0.01, exit_timeout_s=0)
    visitors.seen("v-1")
    wait_until_sync(lambda: failures)
    assert isinstance(failures[0].error, kinfold.Refused)
    assert "401" in str(failures[0].error)
    assert "argument `key`" in str(failures[0].error)
    assert (failures[0].lost, visitors.counters.buffered) == (False, 1)
    visitors.close(timeout_s=0)
    with kinfold.Contacts(gateway_url, key="nonsense") as contacts, pytest.raises(kinfold.Refused, match="401"):
        contacts.by_visitor("v-1")
    with pytest.raises(kinfold.Refused, match="401"):
        next(kinfold.Feed(gateway_url, key="nonsense").follow())


def test_wrong_address_does_not_look_like_a_missing_contact(gateway_url: str, api_key: str):
    """A wrong path, or a server that is not a gateway: an error, not None."""
    with (
        kinfold.Contacts(f"{gateway_url}/v1", key=api_key) as lost,
        pytest.raises(kinfold.Refused, match="404 no-such-path: path: expected a path that /docs lists, got '/v1/v1/contacts'"),
    ):
        lost.by_external_id("u-1")
    with Front(gateway_url) as front, kinfold.Contacts(front.url, key=api_key) as astray:
        front.page = 404, b"<html>There is no such page</html>"
        with pytest.raises(kinfold.Refused, match="gateway: 404 <html>There is no such page"):
            astray.by_external_id("u-1")
        front.page = 200, b"<html>Welcome</html>"
        with pytest.raises(kinfold.Unreachable, match="expected an answer from kinfold, got b'<html>Welcome</html>'"):
            astray.by_external_id("u-1")


def test_unreachable_feed_is_logged_once(caplog: pytest.LogCaptureFixture):
    """Nothing else would report a wrong address, because the reader retries forever."""
    feed = kinfold.Feed(f"http://127.0.0.1:{free_port()}", key="k")
    with feed.follow() as changes:
        asking = threading.Thread(target=next, args=(changes, None))
        asking.start()
        wait_until_sync(lambda: any(record.levelname == "WARNING" for record in caplog.records))
        changes.close()
        asking.join()

    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("cannot read the feed, trying again in 0.2 s: gateway: ConnectionRefusedError")


def test_feed_over_breaking_connections_has_every_change_once(proxy: Proxy, gateway_url: str, api_key: str):
    """Every change comes once, in order, although the stream breaks again and again."""
    with (
        kinfold.Producer(gateway_url, key=api_key) as visitors,
        kinfold.Feed(proxy.url, key=api_key).follow(since="0") as changes,
    ):
        versions: list[int] = []
        for round_number in range(10):
            for number in range(30):
                visitors.set_metadata(external_id="u-1", metadata={"n": round_number * 30 + number})
            versions += [next(changes).version for _ in range(30)]
            proxy.cut()
    assert versions == list(range(1, 301))


def test_live_contacts_work_over_http(proxy: Proxy, gateway_url: str, api_key: str):
    """A snapshot, then changes, even after an outage."""
    with kinfold.Producer(gateway_url, key=api_key) as visitors, kinfold.Contacts(gateway_url, key=api_key) as lookups:
        visitors.identify("v-1", external_id="u-1")
        assert lookups.by_external_id("u-1", after=visitors.flush())
        with kinfold.Feed(proxy.url, key=api_key).contacts() as contacts:
            assert [contact.external_id for contact in contacts.values()] == ["u-1"]
            proxy.refuse()
            visitors.identify("v-1", external_id="u-2", name="Bob")
            bob = lookups.by_external_id("u-2", after=visitors.flush())
            proxy.accept()
            wait_until_sync(lambda: contacts.by_external_id("u-2") == bob)
            assert len(contacts) == 2


@pytest.mark.slow
def test_killed_and_restarted_gateway_loses_nothing(
    folding_url: str, api_key: str, client: Redis, workspace: str, tmp_path: Path
):
    """Four times under load: every event counts once, and the feed has every change once."""
    port = free_port()

    def send(first: int, last: int) -> None:
        for number in range(first, last):
            visitors.set_metadata(external_id="u-1", metadata={"n": number})

    url = f"http://127.0.0.1:{port}"
    versions: list[int] = []
    options: dict[str, Any] = {**QUICK, "batch_events": 10}
    with (
        kinfold.Producer(url, key=api_key, **options) as visitors,
        kinfold.Feed(url, key=api_key).follow(since="0") as changes,
    ):
        for first in range(0, 1000, 250):
            with GatewayProcess(folding_url, port, tmp_path / "gateway.log", gateway_requests_per_s=100_000):
                send(first, first + 150)
                versions += [next(changes).version for _ in range(100)]
            send(first + 150, first + 250)  # no gateway is running
        with GatewayProcess(folding_url, port, tmp_path / "gateway.log", gateway_requests_per_s=100_000):
            visitors.flush(timeout_s=200)
            assert (visitors.counters.sent, visitors.counters.lost) == (1000, 0)
            assert visitors.counters.retries > 0
            versions += [next(changes).version for _ in range(600)]
    assert versions == list(range(1, 1001))
    log = Log(client, workspace)
    assert {kind: count for kind, count in log.kinds.items() if kind != "duplicate"} == {"folded": 1000}
