"""The PostgreSQL server that other tests use."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.support import postgres as support
from tests.support.engines import free_port
from tests.support.postgres import NoPostgres, PostgresServer, postgres_server
from tests.support.waiting import wait_until_sync

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module", name="own")
def _own(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """Give a server that a test may stop."""
    del postgres  # skips where PostgreSQL cannot run
    with postgres_server() as server:
        yield server


def test_database_is_empty_and_its_own(postgres: PostgresServer, postgres_url: str) -> None:
    with postgres.database() as other:
        postgres.execute("CREATE TABLE contacts (id text)", other)
        assert postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", other) == "1"
        assert postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", postgres_url) == "0"


def test_database_can_be_a_copy_of_another(postgres: PostgresServer, postgres_url: str) -> None:
    postgres.execute("CREATE TABLE contacts AS SELECT 'ada' AS id", postgres_url)
    with postgres.database(template=_name(postgres_url)) as copy:
        assert postgres.execute("SELECT id FROM contacts", copy) == "ada"


def test_database_is_dropped_though_a_connection_is_open(postgres: PostgresServer) -> None:
    with postgres.database() as url:
        errors = list[AssertionError]()

        def sleep() -> None:
            try:
                postgres.execute("SELECT pg_sleep(60)", url)
            except AssertionError as error:
                errors.append(error)

        sleeping = threading.Thread(target=sleep)
        sleeping.start()
        wait_until_sync(lambda: postgres.execute("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"))
    sleeping.join()
    assert "terminating connection" in str(errors)
    assert _name(url) not in postgres.execute("SELECT datname FROM pg_database").splitlines()


def test_connection_needs_the_password(postgres: PostgresServer, postgres_url: str) -> None:
    (password,) = filter(None, [urlsplit(postgres_url).password])
    with pytest.raises(AssertionError, match="password authentication failed"):
        postgres.execute("SELECT 1", postgres_url.replace(password, "wrong"))


def test_committed_rows_survive_a_crash(own: PostgresServer) -> None:
    with own.database() as url:
        own.execute("CREATE TABLE contacts AS SELECT 'ada' AS id", url)
        own.crash()
        with pytest.raises(AssertionError, match="Connection refused"):
            own.execute("SELECT 1", url)
        own.start()
        assert own.execute("SELECT id FROM contacts", url) == "ada"


def test_stopped_server_starts_again_on_its_port(own: PostgresServer) -> None:
    before = own.url
    own.stop()
    own.start()
    assert own.url == before
    assert own.execute("SELECT 1") == "1"


def test_server_takes_another_port_if_its_port_is_taken(
    own: PostgresServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([postgres.port, free_port()])
    monkeypatch.setattr(support, "free_port", lambda: next(ports))
    with postgres_server() as server:
        assert server.port not in {own.port, postgres.port}
        assert server.execute("SELECT 1") == "1"


_HOLD = """
import time
from tests.support.postgres import postgres_server
with postgres_server() as server:
    print(server.process_id, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, of Linux")
def test_server_ends_with_a_killed_owner(postgres: PostgresServer) -> None:
    del postgres  # skips where PostgreSQL cannot run
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)  # the server's user has to find its files
        environment = {**os.environ, "TMPDIR": directory}
        with subprocess.Popen([sys.executable, "-c", _HOLD], cwd=ROOT, env=environment, stdout=subprocess.PIPE) as owner:
            assert owner.stdout is not None
            server = int(owner.stdout.readline())
            owner.send_signal(signal.SIGKILL)
        wait_until_sync(lambda: not Path(f"/proc/{server}").exists())


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(support, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoPostgres, match="is not installed: expected initdb, postgres, psql"), postgres_server():
        pass


def _name(url: str) -> str:
    return urlsplit(url).path[1:]
