"""`kinfold keys`, and the gateway as a part of `kinfold up`."""

import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kinfold_services.embedded import running_url
from kinfold_services.gateway.beside import gateway_url
from tests.support.command_line import PATIENCE_S, Kinfold
from tests.support.waiting import wait_until_sync


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Give a data dir on which nothing is left running."""
    path = tmp_path / "my data"
    yield path
    if running_url(path) is not None:
        Kinfold("--data-dir", path).run_apart("down")


def test_keys_are_made_listed_and_revoked(redis_url: str, workspace: str):
    """A key is printed once; the list has what is not secret of it."""
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace)

    made = kinfold.json("keys", "create", "--kind", "publishable", "--label", "shop")
    (listed,) = kinfold.lines("keys", "list")
    revoked = kinfold.json("keys", "revoke", listed["id"])

    assert made["key"].startswith(f"kf_pk_{workspace}_{listed['id']}_")
    assert (listed["kind"], listed["label"], listed["revokedAt"]) == ("publishable", "shop", None)
    assert made["key"].rpartition("_")[2] not in json.dumps(listed)
    assert "secretHash" not in listed
    assert kinfold.lines("keys", "list")[0]["revokedAt"] == revoked["revokedAt"] is not None
    assert kinfold.run("keys", "revoke", "nobody").status == 1
    assert kinfold.run("keys", "create", "--kind", "golden").status == 2


def test_a_key_of_a_workspace_that_nobody_serves_is_made_with_a_word_about_it(redis_url: str, workspace: str):
    """What is sent with it would lie in the log, and everything would answer as if nobody had come."""
    said = Kinfold("--redis-url", redis_url, "--workspace", workspace).run("keys", "create")

    assert said.status == 0
    assert f"workspace {workspace} is not in kinfold:workspaces" in said.err


def test_the_identity_secret_is_shown_and_renewed(redis_url: str, workspace: str):
    """The same every time, until another is asked for."""
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace)
    secret = kinfold.json("keys", "identity-secret")["identitySecret"]

    assert kinfold.json("keys", "identity-secret")["identitySecret"] == secret
    assert kinfold.json("keys", "identity-secret", "--renew")["identitySecret"] != secret


@pytest.mark.slow
def test_up_brings_a_gateway_and_its_first_key(data_dir: Path):
    """It prints the key at the first start and never again, an address to open and a `curl` to run.

    They work as they stand, and a signed identity through the gateway becomes a contact.
    """
    kinfold = Kinfold("--data-dir", data_dir)
    first = kinfold.run_apart("up", "--detach")
    url = gateway_url(data_dir)
    assert (first.status, url is not None) == (0, True), first
    assert url is not None
    told = {label: rest.strip() for label, _, rest in (line.strip().partition("  ") for line in first.err.splitlines())}
    key = told["its key"]
    secret = kinfold.json("keys", "identity-secret")["identitySecret"]
    browser = kinfold.json("keys", "create", "--kind", "publishable")["key"]

    assert told["run"] == f"curl -H 'Authorization: Bearer {key}' '{url}/v1/contacts?limit=3'"
    assert told["open"] == f"{url}/docs"
    if shutil.which("curl") is not None:
        pasted = subprocess.run(["bash", "-c", told["run"]], capture_output=True, check=True)
        assert json.loads(pasted.stdout) == {"contacts": [], "nextCursor": None}
    signature = hmac.new(secret.encode(), b"u-1", hashlib.sha256).hexdigest()
    event = {"type": "VisitorIdentified", "visitorId": "v-1", "externalId": "u-1", "signature": signature}
    with httpx.Client(base_url=url) as client:
        assert client.get(told["open"]).status_code == 200
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
def test_up_listens_on_loopback_alone_until_there_is_a_key(data_dir: Path):
    """Wherever it is told to: its first start says so, and its second one goes there."""
    kinfold = Kinfold("--data-dir", data_dir, KINFOLD_GATEWAY_HOST="0.0.0.0")  # noqa: S104  what is tested
    first, is_reached_first = kinfold.run_apart("up", "--detach"), is_reached_elsewhere(data_dir)
    kinfold.run_apart("down")
    second, is_reached_then = kinfold.run_apart("up", "--detach"), is_reached_elsewhere(data_dir)

    assert ("on 0.0.0.0 from the next start on" in first.err, is_reached_first) == (True, False)
    assert ("from the next start on" in second.err, is_reached_then) == (False, True)


@pytest.mark.slow
def test_a_host_that_is_none_is_one_sentence(redis_url: str):
    """Status 1, as where the port is taken."""
    said = Kinfold("--redis-url", redis_url).run_apart("gateway", "--host", "256.1.1.1")

    assert (said.status, said.out) == (1, b"")
    assert (
        "cannot listen on 256.1.1.1:0, which is in use or not an address of this machine; choose --host and --port" in said.err
    )
    assert "Traceback" not in said.err


@pytest.mark.slow
def test_an_address_of_ipv6_can_be_opened(data_dir: Path):
    """It stands in brackets."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    said = Kinfold("--data-dir", data_dir, KINFOLD_GATEWAY_HOST="::1").run_apart("up", "--detach")

    url = gateway_url(data_dir)
    assert url is not None
    assert url.startswith("http://[::1]:")
    assert f"{url}/docs" in said.err
    assert httpx.get(f"{url}/docs").status_code == 200


@pytest.mark.slow
def test_a_gateway_that_ends_takes_up_along(data_dir: Path):
    """Half of it is noticed late: `up` says so, and ends."""
    kinfold = Kinfold("--data-dir", data_dir)
    with subprocess.Popen(kinfold.command("up"), env=kinfold.environment(), stderr=subprocess.PIPE) as up:
        wait_until_sync(lambda: gateway_url(data_dir), 30)
        (gateway,) = children(up.pid, "gateway")
        os.kill(gateway, signal.SIGKILL)
        _, err = up.communicate(timeout=PATIENCE_S)

    assert b"the gateway ended with status -9" in err
    assert up.returncode == 1


def test_up_on_a_port_that_is_taken_does_not_say_that_it_is_up(data_dir: Path):
    """The port was asked for by name, so no other will do: status 1, and which one it is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = Kinfold("--data-dir", data_dir, KINFOLD_GATEWAY_PORT=port).run_apart("up")

    assert said.status == 1
    assert f"got 127.0.0.1:{port} (Address already in use)" in said.err
    assert "kinfold is up" not in said.err
    assert "Traceback" not in said.err


@pytest.mark.slow
def test_a_gateway_does_not_outlive_an_up_that_is_killed(data_dir: Path):
    """Its port is free again for the next."""
    kinfold = Kinfold("--data-dir", data_dir)
    with subprocess.Popen(kinfold.command("up"), env=kinfold.environment(), stderr=subprocess.DEVNULL) as up:
        wait_until_sync(lambda: gateway_url(data_dir), 30)
        up.kill()
    wait_until_sync(lambda: gateway_url(data_dir) is None)


def is_reached_elsewhere(data_dir: Path) -> bool:
    """Whether another address of this machine answers; Linux answers for all of 127.0.0.0/8."""
    url = gateway_url(data_dir)
    assert url is not None
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.2", int(url.rpartition(":")[2]))) == 0


def children(parent: int, command: str) -> list[int]:
    """The processes that one started with a word in their command line."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if f" {command} " in line]
