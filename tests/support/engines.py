"""Every kind of server that kinfold runs on: with TLS, in a cluster, behind Sentinel (contract section 8)."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kinfold_services.server.binary import find_server_binary
from tests.support.waiting import wait_until

MASTER: Final = "the-log"
PASSWORD: Final = "p%40ss"  # noqa: S105  of a server that exists for one test
"""It needs quoting in a URL."""
_LOG_TAIL: Final = 500


def free_port() -> int:
    """Return a free port, which the system gives to nobody else for a minute: only a program that asks for it gets it.

    The end of a connection that closes first keeps the port in TIME_WAIT. A server can listen there, because servers set
    SO_REUSEADDR. Without that, the port might go to another test before the server that it is for has started.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            listener.accept()[0].close()
            client.recv(1)
        return cast("int", address[1])


@contextmanager
def running(directory: Path, *options: object, program: str | None = None) -> Generator["subprocess.Popen[bytes]"]:
    """Run a server with these options and its files in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    command = [program or str(find_server_binary().path), *map(str, options), "--dir", str(directory)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def tls_server(directory: Path, *options: object) -> AsyncGenerator[str]:
    """Run a server that only speaks TLS, with its own certificate; yields the URL. Skips the test if there is none."""
    program, openssl = shutil.which("redis-server") or shutil.which("valkey-server"), shutil.which("openssl")
    if program is None or openssl is None:
        pytest.skip("needs redis-server or valkey-server with TLS, and openssl, on PATH; the embedded server has no TLS")
    certificate, secret, port = directory / "certificate.pem", directory / "key.pem", free_port()
    request = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    request += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", str(certificate), "-keyout", str(secret)]
    await asyncio.to_thread(subprocess.run, request, check=True, capture_output=True)
    tls = ["--port", 0, "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", secret]
    tls += ["--tls-ca-cert-file", certificate, "--tls-auth-clients", "no"]
    with running(directory, *tls, *options, program=program) as process:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}&ssl_cert_reqs=required"
        if await wait_until(lambda: _answers_or_ended(url, process)) == "ended":
            pytest.skip(f"{program} has no TLS: {_tail(directory)}")
        yield url


@asynccontextmanager
async def cluster(directory: Path, *, tls: bool = False) -> AsyncGenerator[str]:
    """Run a cluster of one node that holds every slot; yields the URL."""
    port = free_port()
    options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", free_port()]
    if tls:
        async with tls_server(directory, *options, "--tls-cluster", "yes") as node:
            await _take_all_slots(node)
            yield node.replace("rediss://", "rediss+cluster://")
        return
    with running(directory, "--port", port, *options) as process:
        node = f"redis://127.0.0.1:{port}"
        assert await wait_until(lambda: _answers_or_ended(node, process)) == "answers", _tail(directory)
        await _take_all_slots(node)
        yield f"redis+cluster://127.0.0.1:{port}"


async def _take_all_slots(node: str) -> None:
    async with Redis.from_url(node) as client:
        await _ask(client, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await wait_until(lambda: _cluster_is_ok(client))


@asynccontextmanager
async def sentinel(directory: Path) -> AsyncGenerator[tuple[str, Redis]]:
    """Run a master, a replica and a Sentinel; yields the URL and a client of the Sentinel."""
    master, replica, port = free_port(), free_port(), free_port()
    configuration = directory / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nsentinel monitor {MASTER} 127.0.0.1 {master} 1\n"
        f"sentinel auth-pass {MASTER} {PASSWORD}\n"
        f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n"
    )
    common = ["--repl-diskless-sync-delay", 0, "--requirepass", PASSWORD, "--masterauth", PASSWORD]
    with (
        running(directory / "master", "--port", master, *common) as first,
        running(directory / "replica", "--port", replica, "--replicaof", "127.0.0.1", master, *common),
        running(directory / "sentinel", configuration, "--sentinel") as watcher,
    ):
        assert await wait_until(lambda: _answers_or_ended(f"redis://:{quote(PASSWORD)}@127.0.0.1:{master}", first)) == "answers"
        if await wait_until(lambda: _answers_or_ended(f"redis://127.0.0.1:{port}", watcher)) == "ended":
            pytest.skip(f"{find_server_binary()} cannot be a Sentinel: {_tail(directory / 'sentinel')}")
        async with Redis.from_url(f"redis://127.0.0.1:{port}", decode_responses=True) as client:
            await wait_until(lambda: _watches_a_replica(client))
            yield f"redis+sentinel://:{quote(PASSWORD)}@127.0.0.1:{port}/{MASTER}/0", client


async def fail_over(client: Redis) -> None:
    """Promote the replica, as Sentinel does when the master fails."""

    async def master() -> list[str]:
        return cast("list[str]", await _ask(client, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER))

    before = await master()
    await _ask(client, "SENTINEL", "FAILOVER", MASTER)

    async def is_another() -> bool:
        return await master() != before

    await wait_until(is_another)


async def _ask(client: Redis, *command: object) -> Any:
    """Send a command that redis-py has no method for, or a different one for clusters."""
    return await cast("Any", client).execute_command(*command)


async def _answers_or_ended(url: str, process: "subprocess.Popen[bytes]") -> str:
    if process.poll() is not None:
        return "ended"
    async with Redis.from_url(url) as client:
        try:
            await _ask(client, "PING")
        except (RedisError, OSError):
            return ""
    return "answers"


async def _cluster_is_ok(client: Redis) -> bool:
    return "cluster_state:ok" in str(await _ask(client, "CLUSTER", "INFO"))


async def _watches_a_replica(client: Redis) -> bool:
    replicas = await _ask(client, "SENTINEL", "REPLICAS", MASTER)
    return "'master-link-status': 'ok'" in str(replicas)


def _tail(directory: Path) -> str:
    return (directory / "log").read_text()[-_LOG_TAIL:].strip()
