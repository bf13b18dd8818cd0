"""What every test may ask for: a real server, a client on an empty database of it, PostgreSQL, and the name of a workspace."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from redis.asyncio import Redis

from kinfold_services.server.embedded import running_url
from tests.support.command_line import Kinfold
from tests.support.lengths import short_or_long
from tests.support.postgres import NoPostgres, PostgresServer, postgres_server
from tests.support.prefork import fork_services, stop_parent
from tests.support.servers import TestServer

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

# A busy machine takes its time. The short form tries the same examples in each run, so that a run that passed passes again; the
# long form tries new ones.
hypothesis.settings.register_profile(
    "kinfold",
    deadline=None,
    derandomize=short_or_long(True, False),  # noqa: FBT003
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("kinfold")

_SERVERS_USED: pytest.StashKey[set[str]] = pytest.StashKey()


@pytest.fixture(scope="session")
def redis_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """Give the URL of a real server, for the whole run (or worker of pytest-xdist); see `TestServer` for which."""
    server = TestServer()
    pytestconfig.stash[_SERVERS_USED].add(server.description)
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """Give a PostgreSQL server for the whole run (or worker of pytest-xdist). Skips where PostgreSQL cannot run."""
    try:
        with postgres_server() as server:
            pytestconfig.stash[_SERVERS_USED].add(server.description)
            yield server
    except NoPostgres as reason:
        pytest.skip(str(reason))


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """Give the URL of an empty PostgreSQL database, which only this test uses."""
    with postgres.database() as url:
        yield url


@pytest.fixture(name="redis")
async def _redis(redis_url: str) -> AsyncIterator[Redis]:
    """Give a client that speaks bytes, on a database that is empty."""
    async with Redis.from_url(redis_url, decode_responses=False) as client:
        await client.flushdb()
        yield client


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Give a data dir with a space in its path, and stop what still runs there."""
    path = tmp_path / "my data"
    yield path
    if running_url(path) is not None:
        Kinfold("--data-dir", path).run_apart("down")


@pytest.fixture
def workspace(request: pytest.FixtureRequest) -> str:
    """Give the name of a workspace, after the test that asks."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:63].strip("-")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SERVERS_USED] = set()
    fork_services()


def pytest_sessionfinish(session: pytest.Session) -> None:
    stop_parent()
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        servers: set[str] = session.config.stash[_SERVERS_USED]
        output["servers_used"] = sorted(servers)


def pytest_terminal_summary(terminalreporter: "TerminalReporter", config: pytest.Config) -> None:
    servers: set[str] = config.stash[_SERVERS_USED]
    used = " and ".join(sorted(servers)) or "no server: no test asked for one"
    terminalreporter.write_line(f"kinfold: tests ran against {used}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # a worker of pytest-xdist has ended
    servers: set[str] = node.config.stash[_SERVERS_USED]
    servers.update(node.workeroutput["servers_used"] if hasattr(node, "workeroutput") else ())
