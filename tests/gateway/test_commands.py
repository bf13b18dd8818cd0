"""`kinfold keys`, and the gateway of `kinfold up`."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from redis.asyncio import Redis

from kinfold import sign
from kinfold_schemas.times import to_text
from kinfold_services.access import keys
from kinfold_services.access.keys import POWERS, KeyRing, create_key, id_of, last_used
from kinfold_services.cli.gateway_process import gateway_url
from kinfold_services.server.embedded import running_url
from tests.support.command_line import PATIENCE_S, Kinfold
from tests.support.gateways import serving
from tests.support.shown_secrets import as_on_a_terminal
from tests.support.waiting import wait_until, wait_until_sync


def test_keys_are_created_listed_and_revoked(redis_url: str, workspace: str, data_dir: Path):
    """The key is shown once. The list shows everything except its secret."""
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace, "--data-dir", data_dir)

    made = shown(kinfold, "create", "--kind", "publishable", "--label", "shop")
    (listed,) = kinfold.lines("keys", "list")
    revoked = kinfold.json("keys", "revoke", listed["id"])

    assert made["key"].startswith(f"kf_pk_{workspace}_{listed['id']}_")
    assert (listed["kind"], listed["label"], listed["revokedAt"]) == ("publishable", "shop", None)
    assert made["key"].rpartition("_")[2] not in json.dumps(listed)
    assert "secretHash" not in listed
    assert kinfold.lines("keys", "list")[0]["revokedAt"] == revoked["revokedAt"] is not None
    assert kinfold.run("keys", "revoke", "unknown").status == 1
    assert kinfold.run("keys", "create", "--kind", "golden").status == 2


def shown(kinfold: Kinfold, *arguments: str) -> dict[str, Any]:
    """What a command of `kinfold keys` shows on a terminal."""
    return cast("dict[str, Any]", json.loads(as_on_a_terminal(kinfold.run("keys", *arguments).out.decode())))


def test_publishable_key_shows_metadata_only_if_it_was_created_so(redis_url: str, workspace: str, data_dir: Path):
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace, "--data-dir", data_dir)
    kinfold.json("keys", "create", "--kind", "publishable")
    kinfold.json("keys", "create", "--kind", "publishable", "--shows-metadata")

    assert sorted(each["showsMetadata"] for each in kinfold.lines("keys", "list")) == [False, True]
    refused = kinfold.run("keys", "create", "--kind", "development", "--shows-metadata")
    assert (refused.status, "expected --kind publishable, got development" in refused.err) == (2, True)


def test_creating_a_key_for_an_unserved_workspace_warns(redis_url: str, workspace: str, data_dir: Path):
    """Events sent with the key would stay in the log, and no projector would fold them."""
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace, "--data-dir", data_dir)
    result = kinfold.run("keys", "create")

    assert result.status == 0
    assert f"workspace {workspace} is not in kinfold:workspaces" in result.err


async def test_list_of_keys_tells_what_each_may_do_and_when_it_was_used(redis: Redis, redis_url: str, data_dir: Path):
    """A key that nobody uses can be revoked. The time is written once a minute, and not for each request."""
    kinfold = Kinfold("--redis-url", redis_url, "--data-dir", data_dir)
    async with serving(redis_url, redis) as gateway:
        unused = await create_key(redis, "default", "read")
        writes = await written(redis)
        for client in (gateway.client, gateway.browser):
            for _ in range(5):
                await client.get("/v1/visitors/v")
        await wait_until(lambda: both_are_used(redis))
        gateway_writes = await written(redis) - writes

    listed = {each["id"]: each for each in await asyncio.to_thread(kinfold.lines, "keys", "list")}
    by_kind = {each["kind"]: each for each in listed.values()}
    assert by_kind.keys() == {"secret", "publishable", "read"}
    assert all(each["may"] == POWERS[kind] for kind, each in by_kind.items())
    assert listed[id_of(unused)]["lastUsedAt"] is None
    for used in ("secret", "publishable"):
        assert by_kind[used]["createdAt"] <= by_kind[used]["lastUsedAt"] <= to_text(time.time_ns() // 1_000_000)
    assert gateway_writes == 2


async def written(redis: Redis) -> int:
    """How often HSET was called."""
    return int((await redis.info("commandstats")).get("cmdstat_hset", {"calls": 0})["calls"])


async def both_are_used(redis: Redis) -> bool:
    return len(await last_used(redis, "default")) == 2


async def test_use_of_a_key_is_written_again_after_a_minute(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    """Also when the server did not take it: an error delays no request."""
    made = await create_key(redis, "default", "secret")
    clock = [1000.0]
    monkeypatch.setattr(keys, "time", SimpleNamespace(monotonic=lambda: clock[0], time_ns=lambda: int(clock[0] * 1e9)))
    ring = KeyRing(redis)
    seen: list[str] = []
    for now in (1000.0, 1030.0, 1059.0, 1061.0):
        clock[0] = now
        assert await ring.recognise(made) is not None
        await wait_until(lambda: not ring._writing)
        seen += (await last_used(redis, "default")).values()

    assert seen == [to_text(1_000_000)] * 3 + [to_text(1_061_000)]


def test_identity_secret_is_shown_and_replaced(redis_url: str, workspace: str, data_dir: Path):
    """Two secrets are valid at once, the newest is shown first, and a third one is refused."""
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace, "--data-dir", data_dir)
    old = kinfold.json("keys", "identity-secret")

    assert kinfold.json("keys", "identity-secret") == old
    new = kinfold.json("keys", "rotate-identity")
    assert kinfold.lines("keys", "identity-secret") == [new, old]
    third = kinfold.run("keys", "rotate-identity")
    assert (third.status, f"got {new['kid']}, {old['kid']}" in third.err) == (1, True)
    assert kinfold.json("keys", "retire-identity", old["kid"]) == {"workspace": workspace, "retired": old["kid"]}
    assert kinfold.run("keys", "retire-identity", old["kid"]).status == 1
    assert kinfold.json("keys", "identity-secret") == new


@pytest.mark.slow
def test_up_starts_a_gateway_and_prints_its_first_key(data_dir: Path):
    """The key is printed at the first start only, with a URL and a `curl` command that work as printed.

    A signed identity that is sent through the gateway becomes a contact.
    """
    kinfold = Kinfold("--data-dir", data_dir)
    first = kinfold.run_apart("up", "--detach")
    url = gateway_url(data_dir)
    assert (first.status, url is not None) == (0, True), first
    assert url is not None
    assert "kf_sk_" not in first.err
    on_a_terminal = as_on_a_terminal(first.err).splitlines()
    printed = {label: rest.strip() for label, _, rest in (line.strip().partition("  ") for line in on_a_terminal)}
    key = printed["its key"]
    secret = shown(kinfold, "identity-secret")["identitySecret"]
    browser = shown(kinfold, "create", "--kind", "publishable")["key"]

    assert printed["run"] == f"curl -H 'Authorization: Bearer {key}' '{url}/v1/contacts?limit=3'"
    assert printed["open"].startswith(f"{url}/sign-in?link=")
    if shutil.which("curl") is not None:
        pasted = subprocess.run(["bash", "-c", printed["run"]], capture_output=True, check=True)
        assert json.loads(pasted.stdout) == {"contacts": [], "nextCursor": None}
    token = sign(secret, external_id="u-1")
    event = {"type": "VisitorIdentified", "visitorId": "v-1", "externalId": "u-1", "token": token}
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        assert client.get(printed["open"]).status_code == 200
        posted = client.post("/v1/events", json=event, headers={"Authorization": f"Bearer {browser}"})
        asked = {"externalId": "u-1", "after": posted.json()["position"]}
        found = client.get("/v1/contacts", params=asked, headers={"Authorization": f"Bearer {key}"})
    assert (posted.status_code, found.json()["visitorIds"]) == (202, ["v-1"])

    assert kinfold.run("down").status == 0
    assert gateway_url(data_dir) is None
    again = kinfold.run_apart("up", "--detach")
    assert "kf_sk_" not in again.err
    assert key not in (data_dir / "kinfold.log").read_text()


@pytest.mark.slow
def test_up_listens_only_on_loopback_until_a_key_exists(data_dir: Path):
    """The first start says so. The second start listens on the configured host."""
    kinfold = Kinfold("--data-dir", data_dir, KINFOLD_GATEWAY_HOST="0.0.0.0")  # noqa: S104  what is tested
    first, is_reached_first = kinfold.run_apart("up", "--detach"), is_reached_elsewhere(data_dir)
    kinfold.run_apart("down")
    second, is_reached_then = kinfold.run_apart("up", "--detach"), is_reached_elsewhere(data_dir)

    assert ("on 0.0.0.0 from the next start on" in first.err, is_reached_first) == (True, False)
    assert ("from the next start on" in second.err, is_reached_then) == (False, True)


@pytest.mark.slow
def test_invalid_host_is_reported_in_one_sentence(redis_url: str):
    """With exit status 1, as for a port that is in use."""
    result = Kinfold("--redis-url", redis_url).run_apart("gateway", "--host", "256.1.1.1")

    assert (result.status, result.out) == (1, b"")
    sentence = "cannot listen on 256.1.1.1:0, which is in use or not an address of this machine; choose --host and --port"
    assert sentence in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_ipv6_address_is_printed_in_brackets(data_dir: Path):
    """The printed URL can be opened."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    result = Kinfold("--data-dir", data_dir, KINFOLD_GATEWAY_HOST="::1").run_apart("up", "--detach")

    url = gateway_url(data_dir)
    assert url is not None
    assert url.startswith("http://[::1]:")
    assert f"{url}/docs" in result.err
    assert httpx.get(f"{url}/docs", timeout=PATIENCE_S).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("answers", [False, True], ids=["as soon as it starts", "when it answers"])
def test_up_ends_when_its_gateway_ends(data_dir: Path, *, answers: bool):
    """It says so, stops its server and exits with status 1, since a missing gateway would be noticed late."""
    kinfold = Kinfold("--data-dir", data_dir)
    with subprocess.Popen(kinfold.command("up"), env=kinfold.environment(), stderr=subprocess.PIPE) as up:
        if answers:
            wait_until_sync(lambda: gateway_url(data_dir))
        (gateway,) = wait_until_sync(lambda: children(up.pid, "gateway"))
        os.kill(gateway, signal.SIGKILL)
        _, err = up.communicate(timeout=PATIENCE_S)

    assert b"the gateway ended with status -9" in err
    assert up.returncode == 1
    assert running_url(data_dir) is None


def test_up_on_a_requested_port_in_use_fails(data_dir: Path):
    """It does not choose another port: status 1, and the message names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = Kinfold("--data-dir", data_dir, KINFOLD_GATEWAY_PORT=port).run_apart("up")

    assert result.status == 1
    assert f"got 127.0.0.1:{port} (Address already in use)" in result.err
    assert "kinfold is up" not in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_gateway_ends_when_up_is_killed(data_dir: Path):
    """Its port is free again."""
    kinfold = Kinfold("--data-dir", data_dir)
    with subprocess.Popen(kinfold.command("up"), env=kinfold.environment(), stderr=subprocess.DEVNULL) as up:
        wait_until_sync(lambda: gateway_url(data_dir))
        up.kill()
    wait_until_sync(lambda: gateway_url(data_dir) is None)


def is_reached_elsewhere(data_dir: Path) -> bool:
    """Whether the gateway answers on another address of this machine: on Linux, all of 127.0.0.0/8 is local."""
    url = gateway_url(data_dir)
    assert url is not None
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.2", int(url.rpartition(":")[2]))) == 0


def children(parent: int, command: str) -> list[int]:
    """The children of a process with a word in their command line."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if f" {command} " in line]
