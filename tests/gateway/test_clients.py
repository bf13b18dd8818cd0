"""What the gateway believes about the client of a request: its address behind proxies, and whether it is still there."""

from typing import Any, Final

import httpx
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_services.settings import Settings
from tests.gateway.test_connection_limits import connected
from tests.support.gateways import PATIENCE_S, Gateway, logged_requests, serving, stop_refills
from tests.support.waiting import wait_until

PROXY: Final = "127.0.0.2"
INNER: Final = "10.1.2.3"
TRUSTED: Final = f"{PROXY}, 10.0.0.0/8, fd00::/8"

FORWARDED: Final[list[tuple[str, list[str], str]]] = [
    (PROXY, ["192.0.2.7"], "192.0.2.7"),
    (PROXY, ["2001:db8::7"], "2001:db8::7"),
    (PROXY, ["::ffff:192.0.2.7"], "192.0.2.7"),
    (PROXY, ["192.0.2.9, 192.0.2.7"], "192.0.2.7"),  # the client claims the first one
    (PROXY, [f"192.0.2.9, 192.0.2.7, {INNER}"], "192.0.2.7"),
    (PROXY, ["192.0.2.9", f"192.0.2.7 , {INNER}"], "192.0.2.7"),
    (PROXY, [f"{INNER}, fd00::1"], INNER),  # all of them are proxies
    (PROXY, [], PROXY),
    (PROXY, [""], PROXY),
    (PROXY, ["unknown"], PROXY),
    (PROXY, [f"192.0.2.7, evil\u00a0, {INNER}"], INNER),
    (PROXY, ["192.0.2.7;", INNER], INNER),
    (PROXY, ["192.0.2.7:4711"], PROXY),
    (PROXY, ["0x7f.1"], PROXY),
    (PROXY, [", ".join(["192.0.2.7"] + [INNER] * 40)], INNER),
    ("127.0.0.1", ["192.0.2.7"], "127.0.0.1"),
    ("127.0.0.3", [PROXY], "127.0.0.3"),
]


def from_address(url: str, address: str) -> httpx.AsyncClient:
    """A client that connects from one of this machine's loopback addresses."""
    return httpx.AsyncClient(base_url=url, transport=httpx.AsyncHTTPTransport(local_address=address), timeout=PATIENCE_S)


async def test_forwarded_address_is_believed_from_trusted_proxies_alone(redis: Redis, redis_url: str):
    """And only as far as it is an address that one of them has added."""
    async with serving(redis_url, redis, gateway_trusted_proxies=TRUSTED) as gateway:
        for peer, headers, expected in FORWARDED:
            async with from_address(gateway.url, peer) as client:
                with capture_logs() as logs:
                    given: Any = [("X-Forwarded-For", each.encode("latin-1")) for each in headers]
                    assert (await client.get("/none", headers=given)).status_code == 404
                    (line,) = await logged_requests(logs, 1)
            assert line["address"] == expected, (peer, headers)


async def test_no_proxy_is_trusted_by_default(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """A client that claims another address with every request stays one client: the 404s of an address are limited."""
    stop_refills(monkeypatch)
    async with (
        serving(redis_url, redis, gateway_browser_requests_per_s=0.5) as gateway,
        from_address(gateway.url, "127.0.0.1") as client,
    ):
        answers = [await client.get("/none", headers={"X-Forwarded-For": f"192.0.2.{number}"}) for number in range(6)]
        settings = await client.get("/v1/projects/a-key/settings", headers={"X-Forwarded-Proto": "https"})

    assert [each.status_code for each in answers] == [404] * 5 + [429]
    assert '"protocol":"http"' in settings.text.replace(" ", "")


async def test_clients_of_a_trusted_proxy_have_limits_of_their_own(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    stop_refills(monkeypatch)
    async with (
        serving(redis_url, redis, gateway_browser_requests_per_s=0.5, gateway_trusted_proxies=PROXY) as gateway,
        from_address(gateway.url, PROXY) as client,
    ):
        answers = [await client.get("/none", headers={"X-Forwarded-For": f"192.0.2.{number}"}) for number in range(6)]
        settings = await client.get("/v1/projects/a-key/settings", headers={"X-Forwarded-Proto": "https"})

    assert [each.status_code for each in answers] == [404] * 6
    assert '"protocol":"https"' in settings.text.replace(" ", "")


@pytest.mark.parametrize("given", ["proxy.internal", "10.0.0.1/8", "10.0.0.0/33", "*"])
def test_trusted_proxies_are_addresses_and_networks(given: str):
    with pytest.raises(ValueError, match="expected addresses and networks such as"):
        Settings(gateway_trusted_proxies=given)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/v1/events", "/v1/batch", "/v1/track", "/sign-in"])
async def test_client_that_leaves_in_mid_body_is_no_server_error(unfolded: Gateway, path: str):
    """It is not a bug of the gateway: no traceback, no 500 in the metrics, nothing for an operator to look at."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nAuthorization: Bearer {unfolded.secret}\r\n\r\n{{"

    with capture_logs() as logs:
        async with connected(unfolded.url) as peer:
            await peer.send(head.encode())
            await wait_until(lambda: is_waiting(unfolded))

        def ended() -> list[Any]:
            return [each for each in logs if each["event"] == "request" and each["path"] == path]

        (line,) = await wait_until(ended)

    assert line["status"] == 400
    assert [each for each in logs if each["log_level"] in {"warning", "error"}] == []


@pytest.mark.parametrize("target", ["/none?\x80", "/v1/contacts?externalId=\xff\xfe", "/\xe4"])
async def test_bytes_that_no_url_may_have_are_rejected(unfolded: Gateway, target: str):
    """The framework would fail at them."""
    async with connected(unfolded.url) as peer:
        await peer.send(
            f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {unfolded.secret}\r\n\r\n".encode("latin-1")
        )

        assert (await peer.answer()).startswith(b"HTTP/1.1 400 ")


async def is_waiting(gateway: Gateway) -> bool:
    """Whether the gateway has had a turn after the peer sent its bytes."""
    return (await gateway.client.get("/healthz")).status_code == 200
